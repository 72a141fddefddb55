"""Means over seeds, in the order of what is explained, and nothing where an arm has no such measure."""

from latent.core.report.measures import mean_of, measures_table

RESULTS = {"one": [{"b": 1.0, "a_b": 4.0}, {"b": 2.0, "a_b": 6.0}], "two": [{"b": 7.0}, {"b": 8.0}]}


def test_table_has_means_in_the_order_of_the_explanations():
    table = measures_table(RESULTS, {"a_b": "First.", "b": "Second.", "c": "Nobody has it."})
    assert table.columns == ("measure", "one", "two")
    assert table.rows == (("a b", "5", None), ("b", "1.5", "7.5"))
    assert table.note == "A b: First. B: Second."


def test_a_measure_that_a_seed_lacks_has_no_mean():
    table = measures_table({"one": [{"b": 1.0, "c": 2.0}, {"c": 4.0}]}, {"b": "First.", "c": "Second."})
    assert table.rows == (("c", "3"),)


def test_mean_is_over_seeds():
    assert mean_of(RESULTS["one"], "b") == 1.5
