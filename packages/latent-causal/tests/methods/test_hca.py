"""HCA finds the order where there is one, says when there is none to find, and takes what scikit-learn's users give."""

import itertools
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import FastICA
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.utils._set_output import ADAPTERS_MANAGER
from sklearn.utils.estimator_checks import check_estimator
from torch.overrides import TorchFunctionMode

from latent.causal import order_search
from latent.causal.data.linear_sem import linear_domains, nested_span_error
from latent.causal.data.tables import DomainTable
from latent.causal.errors import DataError, DataWarning
from latent.causal.hca_study import study_domains
from latent.causal.independent_components import independent_components
from latent.causal.methods.hca import HCA
from latent.causal.subspaces import distances, invariant_domains, spectrum
from latent.causal.triangular import align, inexactness_of, shared_rows
from latent.core.errors import ConfigError, LatentError, UnknownName
from latent.core.run.seed import generator

SEED = 10


@pytest.fixture(scope="module")
def world():
    return linear_domains(generator=generator(SEED, "world"))


@pytest.fixture(scope="module")
def fitted(world):
    return HCA(random_state=SEED).fit(world.domains)


# Independent components ----------------------------------------------------------------------------------------------


def test_components_are_those_of_scikit_learn(world):
    table = world.domains["domain 0"]
    ours = independent_components(table[None], 3, generator=generator(0, "starts"), restarts=3)
    theirs = FastICA(3, whiten="unit-variance", max_iter=1000, tol=1e-8, random_state=0).fit(table.numpy())
    rows = torch.from_numpy(np.linalg.pinv(theirs.mixing_))
    cosines = torch.nn.functional.normalize(ours.unmixing[0]) @ torch.nn.functional.normalize(rows).mT
    assert cosines.abs().amax(dim=1).min() > 1 - 1e-6
    sources = (table - table.mean(dim=0)) @ ours.unmixing[0].mT
    torch.testing.assert_close(sources.std(dim=0), torch.ones(3, dtype=torch.float64))
    assert bool((ours.negentropy[0].diff() <= 0).all())


def test_a_batch_of_tables_gives_what_each_gives_alone(world):
    tables = torch.stack([rows[:500] for rows in world.domains.values()])
    together = independent_components(tables, 3, generator=generator(0, "starts"), restarts=2)
    for index, table in enumerate(tables):
        alone = independent_components(table[None], 3, generator=generator(0, "starts"), restarts=2)
        torch.testing.assert_close(alone.unmixing[0], together.unmixing[index])


def test_a_start_that_ran_out_of_iterations_is_not_chosen_and_said():
    table = linear_domains(generator=generator(1, "world"), samples=300).domains["domain 0"]
    assert not independent_components(table[None], 3, generator=generator(0, "s"), max_iter=1).converged[0]
    assert independent_components(table[None], 3, generator=generator(0, "s"), max_iter=1000).converged[0]


# The search over orders ----------------------------------------------------------------------------------------------


def test_search_undoes_any_order_and_sign_of_the_rows():
    draw = generator(3, "rows")
    shared = torch.linalg.qr(torch.randn(6, 3, generator=draw, dtype=torch.float64)).Q.mT
    triangular = torch.randn(4, 3, 3, generator=draw, dtype=torch.float64).tril() + 2 * torch.eye(3)
    rows = triangular @ shared
    shuffled = torch.stack([part[torch.randperm(3, generator=draw)] for part in rows])
    signs = torch.randint(2, (4, 3, 1), generator=draw) * 2 - 1
    found = align((shuffled * signs)[None])
    assert float(found.mic) < 1e-12
    assert float(nested_span_error(found.unmixing[0], shared).max()) < 1e-9
    torch.testing.assert_close(found.triangular[0] @ found.unmixing[0], found.rows[0])


def test_search_finds_the_minimum_of_all_orders():
    rows = torch.randn(1, 3, 3, 5, generator=generator(4, "rows"), dtype=torch.float64)
    best = min(_by_hand(rows[0], orders) for orders in itertools.product(itertools.permutations(range(3)), repeat=3))
    assert float(align(rows).mic) == pytest.approx(best, abs=1e-10)


def _by_hand(rows, orders):
    """The MIC of one combination, by singular value decompositions one after the other (arXiv:2506.10378)."""
    ordered = [part[list(order)].numpy() for part, order in zip(rows, orders, strict=True)]
    shared: list[np.ndarray] = []
    for index in range(3):
        rest = [part[index] - sum(part[index] @ row * row for row in shared) for part in ordered]
        shared.append(np.linalg.svd(np.stack(rest))[2][0])
    h = np.stack(shared)
    coefficients = []
    for part in ordered:
        overlap = np.tril(part @ h.T) @ h @ np.linalg.pinv(part)
        squares = overlap**2
        coefficients.append(np.mean(1 - np.diag(squares) / squares.sum(1)))
    return max(coefficients)


def test_least_squares_triangle_is_the_lower_part():
    """B_k needs no optimiser: H has orthonormal rows, so the best triangular B is part of `U H^T`."""
    draw = generator(5, "rows")
    rows = torch.randn(3, 6, generator=draw, dtype=torch.float64)
    shared = torch.linalg.qr(torch.randn(6, 3, generator=draw, dtype=torch.float64)).Q.mT
    best = (rows @ shared.mT).tril()
    loss = (rows - best @ shared).square().sum()
    for step in torch.randn(20, 3, 3, generator=draw, dtype=torch.float64):
        assert (rows - (best + 0.01 * step.tril()) @ shared).square().sum() > loss


def test_inexactness_is_zero_for_the_identity_and_grows_with_what_is_off_it():
    rows = torch.randn(3, 3, generator=generator(6, "rows"), dtype=torch.float64)
    inverse = torch.linalg.inv(rows)
    assert float(inexactness_of(rows, inverse)) == pytest.approx(0, abs=1e-12)
    mixed = (torch.eye(3, dtype=torch.float64) + torch.tensor([[0, 1, 0], [0, 0, 0], [0, 0, 0]])) @ rows
    assert float(inexactness_of(mixed, inverse)) == pytest.approx(0.5 / 3)


def test_shared_rows_are_orthonormal():
    rows = torch.randn(7, 4, 3, 6, generator=generator(7, "rows"), dtype=torch.float64)
    found = shared_rows(rows)
    torch.testing.assert_close(found @ found.mT, torch.eye(3, dtype=torch.float64).expand(7, 3, 3))


def test_too_many_domains_are_refused_before_any_work(world, monkeypatch):
    with pytest.raises(ConfigError, match=r"10 domains with 3 factors are too many .* at most 9 domains"):
        align(torch.randn(1, 10, 3, 4, dtype=torch.float64))
    monkeypatch.setattr(HCA, "_analyse", lambda self, tables, restarts: pytest.fail("components were analysed"))
    many = {f"{name} {copy}": rows for copy in range(3) for name, rows in world.domains.items()}
    with pytest.raises(ConfigError, match="12 domains with 3 factors") as caught:
        HCA().fit(many)
    assert "invariant_domains" in caught.value.hint


@pytest.mark.parametrize(("domains", "components", "features"), [(4, 3, 6), (4, 3, 3), (3, 4, 5), (5, 2, 4)])
def test_the_search_leaves_out_nothing_that_is_better(domains, components, features, monkeypatch):
    """Beside all combinations one by one; small parts, so that bounds are at work."""
    monkeypatch.setattr(order_search, "_CHUNK", 50)
    rows = torch.randn(3, domains, components, features, generator=generator(9, "rows"), dtype=torch.float64)
    orders = torch.tensor(list(itertools.permutations(range(components))))
    every = orders[torch.cartesian_prod(*[torch.arange(len(orders))] * domains)]
    found = align(rows)
    for index, problem in enumerate(rows):
        ordered = problem[torch.arange(domains)[:, None], every]
        shared = shared_rows(ordered)[:, None]
        explained = (ordered @ shared.mT).tril() @ shared
        mic = inexactness_of(explained, torch.linalg.pinv(ordered)).amax(dim=1)
        assert float(found.mic[index]) == pytest.approx(float(mic.min()), abs=1e-12)
        assert torch.equal(found.order[index], every[mic.argmin()])


def test_eight_domains_are_searched_in_seconds(monkeypatch):
    """All combinations are 1.7 million; few beginnings are looked at where an order nearly holds."""
    draw = generator(3, "rows")
    shared = torch.linalg.qr(torch.randn(6, 3, generator=draw, dtype=torch.float64)).Q.mT
    triangular = torch.randn(8, 3, 3, generator=draw, dtype=torch.float64).tril() + 2 * torch.eye(3)
    rows = triangular @ shared + 0.002 * torch.randn(8, 3, 6, generator=draw, dtype=torch.float64)
    looked = []
    whole = order_search._Search._longer

    def longer(self, given, choices):
        looked.append(len(given.problem) * choices)
        return whole(self, given, choices)

    monkeypatch.setattr(order_search._Search, "_longer", longer)
    assert float(align(rows.flip(1)[None]).mic) < 0.02
    assert sum(looked) < 20_000


# The whole analysis --------------------------------------------------------------------------------------------------


def test_order_and_effects_are_found(world, fitted):
    assert fitted.mic_ < 0.01
    assert float(nested_span_error(fitted.unmixing_, world.unmixing)[:2].max()) < 0.01
    for name in world.domains:
        effects = fitted.adjacency(name)
        assert float(effects.tril().abs().max()) < 1e-9  # no effect on what is upstream
    torch.testing.assert_close(fitted.noise_covariance("domain 0"), torch.eye(3).double(), atol=0.25, rtol=0)
    torch.testing.assert_close(fitted.weights("domain 1") @ fitted.triangular_["domain 1"], torch.eye(3).double())


def test_effects_are_those_of_the_factors_that_it_names(world, fitted):
    """Regress each factor on those upstream of it, in each domain: that is what an effect means."""
    for name, table in world.domains.items():
        factors = fitted.transform(table)
        factors = factors - factors.mean(dim=0)
        by_regression = torch.linalg.lstsq(factors[:, :2], factors[:, 2]).solution
        torch.testing.assert_close(fitted.adjacency(name)[:2, 2], by_regression, atol=0.15, rtol=0.15)


def test_alike_domains_have_a_small_mic_and_are_warned_about():
    alike = linear_domains(generator=generator(SEED, "world"), alike=True)
    with pytest.warns(DataWarning, match="do not differ enough to tell their order: variation 0.0"):
        model = HCA(random_state=SEED).fit(alike.domains)
    assert model.mic_ < 0.01  # as small as where there is an order
    assert float(nested_span_error(model.unmixing_, alike.unmixing)[:2].max()) > 0.1


def test_domains_that_differ_are_not_warned_about(world):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        HCA(random_state=SEED).fit(world.domains)


def test_gaussian_sources_are_warned_about_with_their_statistic():
    gaussian = linear_domains(generator=generator(11, "world"), law="gaussian", samples=800)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        HCA(restarts=3, max_iter=200, variation_draws=0).fit(gaussian.domains)
    said = [str(warning.message) for warning in caught if "as Gaussian as noise (p = 0." in str(warning.message)]
    assert len(said) >= 2  # 5 % level, four domains


def test_large_gaussian_domains_are_told_too():
    """Negentropy of noise shrinks as one over the rows: at a wrong rate, large domains would all seem non-Gaussian."""
    gaussian = linear_domains(generator=generator(11, "world"), law="gaussian", samples=8000, domains=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = HCA(restarts=2, max_iter=100, variation_draws=0).fit(gaussian.domains)
    assert max(model.non_gaussian_.values()) > 0.05
    laplace = linear_domains(generator=generator(11, "world"), samples=8000, domains=3)
    assert max(HCA(restarts=2, variation_draws=0).fit(laplace.domains).non_gaussian_.values()) < 0.05


def test_shuffled_rows_do_not_know_the_means_of_domains(world):
    moved = {name: rows + 3 * index for index, (name, rows) in enumerate(world.domains.items())}
    one, other = (
        HCA(restarts=2, variation_draws=0, random_state=SEED).fit(tables).null_test("shuffle_domains", 3, restarts=1)
        for tables in (world.domains, moved)
    )
    torch.testing.assert_close(one.mic, other.mic, atol=1e-6, rtol=1e-3)
    uncentred = HCA(restarts=2, variation_draws=0).fit(moved).null_test("shuffle_uncentred", 3, restarts=1)
    assert float(uncentred.mic.max()) > 2 * float(one.mic.max())


def test_variation_sees_pairs_of_factors_that_are_alike():
    """Rows that differ in the most upstream factor alone do not tell the order of the other two."""
    draw = generator(12, "rows")
    shared = torch.linalg.qr(torch.randn(6, 3, generator=draw, dtype=torch.float64)).Q.mT
    triangular = torch.randn(4, 3, 3, generator=draw, dtype=torch.float64).tril() + 2 * torch.eye(3)
    differing = align((triangular @ shared)[None]).variation[0]
    triangular[:, 1:, 1:] = triangular[0, 1:, 1:]
    alike = align((triangular @ shared)[None]).variation[0]
    assert float(differing[1:].min()) > 0.1
    assert float(alike[1]) > 0.1  # of the first and the second
    assert float(alike[2]) < 1e-6  # of the second and the third


def test_components_that_did_not_converge_are_warned_about(world):
    with pytest.warns(ConvergenceWarning, match="none of 2 starts .* converged in 1 iterations"):
        HCA(restarts=2, max_iter=1, variation_draws=0).fit(world.domains)


def test_different_subspaces_are_warned_about(world):
    other = linear_domains(generator=generator(77, "world"))
    mixed = {**dict(itertools.islice(world.domains.items(), 3)), "other": other.domains["domain 0"]}
    with pytest.warns(DataWarning, match="principal subspaces of .* are 0.* apart"):
        HCA(restarts=3, variation_draws=0).fit(mixed)
    assert invariant_domains(mixed) == ("domain 0", "domain 1", "domain 2")


def test_bootstrap_and_nulls_surround_and_exceed_the_fit(fitted):
    resampled = fitted.bootstrap(20, restarts=2)
    low, middle, high = resampled.interval("mic")
    assert 0 <= low < middle < high < 0.05
    effect_low, _, effect_high = resampled.interval("adjacency")
    inside = (effect_low <= fitted.adjacency("domain 0")) & (fitted.adjacency("domain 0") <= effect_high)
    assert inside[0].float().mean() > 0.6
    # Signs are a convention of each draw: they are brought to those of the fit before intervals are taken.
    assert bool(((resampled.unmixing * fitted.unmixing_).sum(dim=-1) >= 0).all())
    found = {}
    for kind in ("random_in_subspace", "random_unmixing"):
        null = fitted.null_test(kind, 40)
        assert null.p_value == pytest.approx(1 / 41)
        assert null.mic.min() > fitted.mic_
        found[kind] = float(null.mic.median())
    assert found["random_unmixing"] > 1.2 * found["random_in_subspace"]  # six directions to disagree in, and not three
    with pytest.raises(UnknownName, match="shuffle_domains"):
        fitted.null_test("shuffled")
    with pytest.raises(UnknownName, match=r"attribute 'MIC'; known: .*mic"):
        resampled.interval("MIC")
    with pytest.raises(ConfigError, match="level=90"):
        resampled.interval("mic", 90)
    assert float(resampled.same_order.double().mean()) > 0.9


def test_draws_that_find_another_order_are_said():
    """Signs are aligned and places are not: where any order fits, factor 0 is another one in many draws."""
    alike = linear_domains(generator=generator(SEED, "world"), alike=True, samples=500)
    model = HCA(restarts=2, variation_draws=0, random_state=SEED).fit(alike.domains)
    assert 0 < float(model.bootstrap(20, restarts=1).same_order.double().mean()) < 0.9


def test_a_chosen_subset_is_compared_with_chosen_subsets(fitted):
    lowest = min(fitted.subsets(3).values())
    plain, chosen = (fitted.null_test("random_in_subspace", 30, minimum=least) for least in (None, 3))
    assert chosen.observed == pytest.approx(lowest, abs=1e-12)
    assert bool((chosen.mic <= plain.mic).all())  # the same draws, each with its best subset
    assert float(chosen.mic.median()) < 0.7 * float(plain.mic.median())
    assert chosen.p_value == (1 + int((chosen.mic <= lowest).sum())) / 31
    with pytest.raises(ConfigError, match="minimum=5 is not between 2 and the 4 domains"):
        fitted.null_test("random_in_subspace", 3, minimum=5)


def test_subsets_have_the_mic_of_fits_to_them(world, fitted):
    found = fitted.subsets(3)
    assert len(found) == 5
    names, mic = next(iter(found.items()))
    alone = HCA(random_state=SEED, variation_draws=0).fit({name: world.domains[name] for name in names})
    assert alone.mic_ == pytest.approx(mic, abs=1e-9)
    assert mic == min(found.values())


def test_what_factors_explain_does_not_depend_on_the_representative(world, fitted):
    explained = fitted.explained_by_factors()
    assert bool((explained >= -1e-9).all())
    assert float(explained.sum(dim=0).min()) > 0.95  # three factors made the six features
    centred = torch.cat([table - table.mean(dim=0) for table in world.domains.values()])
    upstream = centred @ fitted.ambiguity(1).mT
    residual = centred - upstream @ torch.linalg.lstsq(upstream, centred).solution
    torch.testing.assert_close(explained[0], 1 - residual.square().sum(0) / centred.square().sum(0))


# What it takes and returns -------------------------------------------------------------------------------------------


def test_numpy_in_numpy_out_and_the_same_numbers(world, fitted):
    arrays = {name: table.numpy() for name, table in world.domains.items()}
    model = HCA(random_state=SEED, variation_draws=0).fit(arrays)
    assert isinstance(model.unmixing_, np.ndarray)
    np.testing.assert_allclose(model.unmixing_, fitted.unmixing_.numpy(), atol=1e-9)
    assert isinstance(model.transform(arrays["domain 0"]), np.ndarray)
    single = world.domains["domain 0"].float()
    back = fitted.inverse_transform(fitted.transform(single))
    assert isinstance(back, torch.Tensor)
    assert back.dtype == torch.float32
    torch.testing.assert_close(back, single, atol=0.2, rtol=0.05)


def test_labels_in_place_of_a_mapping(world, fitted):
    table = torch.cat(list(world.domains.values()))
    labels = [name for name, rows in world.domains.items() for _ in range(len(rows))]
    order = torch.randperm(len(table), generator=generator(0, "order"))
    model = HCA(random_state=SEED, variation_draws=0).fit(table[order], np.array(labels)[order.numpy()])
    assert model.mic_ == pytest.approx(fitted.mic_, rel=1e-3)
    assert sorted(model.domains_) == sorted(world.domains)


@pytest.mark.parametrize(
    ("spoil", "error", "said"),
    [
        (lambda d: {"only": d["domain 0"]}, DataError, "one domain"),
        (lambda d: {}, DataError, "no domain"),
        (lambda d: {**d, "small": d["domain 0"][:3]}, DataError, "'small' has 3 rows"),
        (lambda d: {**d, "flat": d["domain 0"] * torch.tensor([1, 1, 0, 1, 1, 1])}, DataError, r"columns \[2\]"),
        (lambda d: {**d, "hole": d["domain 0"].index_fill(0, torch.tensor([4]), torch.nan)}, DataError, "row 4"),
        (lambda d: {**d, "thin": d["domain 0"][:, :1] * torch.arange(1, 7)}, DataError, "in 1 direction, fewer"),
        (lambda d: {**d, "wide": torch.randn(50, 7)}, DataError, "7 features, but HCA is expecting 6"),
        (lambda d: {**d, "array": np.full((50, 6), np.nan)}, DataError, "domain 'array': Input X contains NaN"),
        (
            lambda d: DomainTable({**d, "flat": d["domain 0"] * torch.tensor([1, 1, 0, 1, 1, 1])}, tuple("abcdef")),
            DataError, "'flat': columns 'c' are constant",
        ),
    ],
)  # fmt: skip
def test_bad_tables_are_refused_by_name(world, spoil, error, said):
    with pytest.raises(error, match=said):
        HCA().fit(spoil(world.domains))


def test_bad_settings_and_late_calls(world, fitted):
    with pytest.raises(DataError, match="n_components=7 for 6 features"):
        HCA(7).fit(world.domains)
    for wrong, said in (
        ({"restarts": 0}, "restarts must be a whole number of at least 1, given 0"),
        ({"n_components": "3"}, "n_components must be a whole number of at least 1, given '3'"),
        ({"n_components": 2.0}, "given 2.0"),
        ({"tol": 0.0}, "tol must be a positive number"),
        ({"scale": "robust"}, "scale 'robust'; known: standard"),
    ):
        with pytest.raises(LatentError, match=said):
            HCA(**wrong).fit(world.domains)
    for draws in (fitted.bootstrap, lambda count: fitted.null_test("random_unmixing", count)):
        with pytest.raises(ConfigError, match="draws must be at least 1, given 0"):
            draws(0)
    table = torch.zeros(4, 6)
    for labels, said in (
        (torch.zeros(4, 1), r"y is \[4, 1\]; expected one label for each row"),
        (np.array([0, 1, np.nan, 1]), "no label .* in 1 rows, the first is row 2"),
        (["a", None, "b", "b"], "the first is row 1"),
        (["a"], "X has 4 rows, y has 1 labels"),
    ):
        with pytest.raises(DataError, match=said):
            HCA().fit(table, labels)
    for factors, said in ((torch.zeros(2, 4), r"Z is \[2, 4\]; expected real numbers \(samples, 3\), the factors"),
                          (np.full((2, 3), np.nan), "Z holds values that are NaN"), ("abc", "no table")):  # fmt: skip
        with pytest.raises(DataError, match=said):
            fitted.inverse_transform(factors)
    with pytest.raises(NotFittedError):
        HCA().transform(world.domains["domain 0"])
    with pytest.raises(UnknownName, match="domain 9"):
        fitted.adjacency("domain 9")
    with pytest.raises(DataError, match="holds the domain of each row"):
        HCA().fit(world.domains["domain 0"])


def test_arrays_come_back_from_everything_that_arrays_were_given_to(world):
    single = {name: table[:300].numpy().astype(np.float32) for name, table in world.domains.items()}
    model = HCA(restarts=2, variation_draws=0, random_state=SEED).fit(single)
    drawn, null = model.bootstrap(3, restarts=1), model.null_test("shuffle_domains", 3, restarts=1)
    low, _, high = drawn.interval("adjacency")
    for found in (model.graph(), drawn.mic, drawn.adjacency, drawn.unmixing, low, high, null.mic, null.variation):
        assert isinstance(found, np.ndarray)
        assert found.dtype == np.float32
    again = HCA(restarts=2, variation_draws=0, random_state=SEED).fit(
        {k: torch.from_numpy(v) for k, v in single.items()}
    )
    assert isinstance(again.graph(), torch.Tensor)
    assert again.bootstrap(3, restarts=1).mic.dtype == torch.float32
    np.testing.assert_allclose(again.bootstrap(3, restarts=1).mic.numpy(), drawn.mic)


def test_nothing_is_made_on_a_device_of_its_own(world):
    """What meets the table is made on the table's device: no factory is called without one, but for drawn numbers."""
    without, names = [], ("tensor", "arange", "zeros", "ones", "eye", "full", "empty", "linspace")

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if getattr(func, "__name__", "") in names and not (kwargs or {}).get("device"):
                without.append(func.__name__)
            return func(*args, **(kwargs or {}))

    table = DomainTable({name: rows[:200] for name, rows in world.domains.items()}, tuple("abcdef"))
    with Watch():
        found = study_domains(table, draws=3, scale="standard")
        found.figures()
        found.tables()
        found.model.explained_by_factors()
        found.model.subsets(3)
    assert not without


def test_standard_scale_does_not_see_units_and_answers_in_them(world):
    units = torch.tensor([1e-3, 1.0, 50.0, 1.0, 7.0, 1e4], dtype=torch.float64)
    other = {name: rows * units + 3 for name, rows in world.domains.items()}
    one, two = (
        HCA(scale="standard", restarts=3, variation_draws=0, random_state=SEED).fit(tables)
        for tables in (world.domains, other)
    )
    assert one.mic_ == pytest.approx(two.mic_, abs=1e-6)
    torch.testing.assert_close(two.scale_, one.scale_ * units)
    torch.testing.assert_close(two.unmixing_ * units, one.unmixing_, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(two.ambiguity(2) * units, one.ambiguity(2), atol=1e-6, rtol=1e-5)
    scaled = two.unmixing_ * two.scale_
    torch.testing.assert_close(scaled @ scaled.mT, torch.eye(3).double())
    torch.testing.assert_close(two.unmixing_ @ two.mixing_, torch.eye(3).double())
    rows = other["domain 0"]
    torch.testing.assert_close(two.transform(rows), rows @ two.unmixing_.mT)
    back = two.inverse_transform(two.transform(rows - rows.mean(dim=0)))
    assert float(((rows - rows.mean(dim=0) - back) / two.scale_).square().mean()) < 0.05
    drawn = two.bootstrap(3, restarts=1).unmixing * two.scale_
    torch.testing.assert_close(drawn @ drawn.mT, torch.eye(3).double().expand(3, 3, 3))
    plain = HCA(restarts=3, variation_draws=0, random_state=SEED).fit(other)
    assert bool((plain.scale_ == 1).all())
    assert plain.mic_ > 2 * two.mic_  # one feature has nearly all of the variance


def test_factors_have_names_and_containers_as_scikit_learn_s_transformers_do(fitted, world):
    assert fitted.get_feature_names_out().tolist() == ["hca0", "hca1", "hca2"]

    class Named(dict):
        """A container that keeps what it was made of."""

    class Adapter:
        container_lib = "named"

        def create_container(self, X_output, X_original, columns, inplace=True):  # scikit-learn's names
            return Named(columns=list(columns()), rows=len(X_output))

    ADAPTERS_MANAGER.register(Adapter())
    try:
        table = world.domains["domain 0"].numpy()
        made = HCA(restarts=1, variation_draws=0).fit({"a": table, "b": world.domains["domain 1"].numpy()})
        made._sklearn_output_config = {"transform": "named"}
        assert made.transform(table) == {"columns": ["hca0", "hca1", "hca2"], "rows": len(table)}
        with pytest.raises(DataError, match="set_output is for one table"):
            made.transform({"a": table[:5]})
    finally:
        ADAPTERS_MANAGER.adapters.pop("named")
        ADAPTERS_MANAGER.supported_outputs.discard("named")


def test_scikit_learn_finds_an_estimator():
    """None of its checks is excluded: its labels are taken for domains."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # small tables of noise: what they are warned about has its own tests
        check_estimator(HCA(1, variation_draws=0), on_skip=None)


# The leaderboard -----------------------------------------------------------------------------------------------------


def test_principal_subspaces():
    draw = generator(8, "rows")
    base = torch.randn(400, 2, generator=draw, dtype=torch.float64)
    flat = torch.cat([base, 1e-3 * torch.randn(400, 2, generator=draw, dtype=torch.float64)], dim=1)
    turned = flat[:, [2, 3, 0, 1]]
    found = distances([flat, 3 * flat + 1, turned], 2)
    torch.testing.assert_close(found[0, 1], torch.tensor(0.0).double(), atol=1e-9, rtol=0)
    assert found[0, 2] > 0.99
    assert spectrum(flat)[:2].sum() > 0.999


def test_the_largest_set_that_agrees_is_found_among_many_and_by_rows(monkeypatch):
    near = torch.zeros(40, 40)
    groups = [range(7), range(7, 14), range(14, 18)]
    for group in groups:
        near[torch.tensor(group)[:, None], torch.tensor(group)] = 1
    near.fill_diagonal_(1)
    monkeypatch.setattr("latent.causal.subspaces.distances", lambda tables, components: 1 - near)
    rows = {str(index): torch.zeros(9 if index in groups[1] else 8, 2) for index in range(40)}
    assert invariant_domains(rows) == tuple(map(str, groups[1]))  # of two of one size the one with more rows
    near.fill_(0).fill_diagonal_(1)
    rows["33"] = torch.zeros(99, 2)
    assert invariant_domains(rows) == ("33",)


@pytest.fixture(scope="module")
def leaderboard():
    import os

    from latent.causal.data.leaderboard import open_llm_leaderboard

    folder = Path(os.environ.get("LATENT_DATA", "")) / "open_llm_leaderboard"
    if not os.environ.get("LATENT_DATA") or not folder.is_dir():
        pytest.skip("LATENT_DATA has no open_llm_leaderboard")
    return open_llm_leaderboard()


def test_domains_and_spectra_of_the_leaderboard(leaderboard):
    assert {name: len(rows) for name, rows in leaderboard.domains.items()} == {
        "llama-3-8b": 717, "mistral-7b": 293, "qwen2.5-14b": 258, "llama-3.1-8b": 199, "qwen2-7b": 158,
        "qwen2.5-0.5b": 153, "gemma-2-9b": 131, "qwen2.5-7b": 119,
    }  # fmt: skip
    explained = {name: float(spectrum(rows)[:3].sum()) for name, rows in leaderboard.domains.items()}
    assert explained.pop("qwen2.5-0.5b") == pytest.approx(0.886, abs=0.001)
    assert min(explained.values()) == pytest.approx(0.945, abs=0.001)
    assert max(explained.values()) == pytest.approx(0.987, abs=0.001)
    assert invariant_domains(leaderboard.domains) == (
        "llama-3-8b", "qwen2.5-14b", "llama-3.1-8b", "qwen2-7b", "qwen2.5-7b"
    )  # fmt: skip


def test_mic_of_the_leaderboard(leaderboard):
    names = ["llama-3-8b", "qwen2.5-14b", "llama-3.1-8b", "qwen2-7b", "qwen2.5-7b"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = HCA(variation_draws=0).fit(leaderboard.only(names).domains)
        others = ["mistral-7b", "gemma-2-9b", "qwen2.5-0.5b", "llama-3-8b"]
        far = HCA(variation_draws=0).fit(leaderboard.only(others).domains)
    sets = {names: mic for names, mic in model.subsets(4).items() if len(names) == 4}
    chosen = ("llama-3-8b", "qwen2.5-14b", "llama-3.1-8b", "qwen2.5-7b")
    assert min(sets, key=lambda names: sets[names]) == chosen
    assert sets.pop(chosen) == pytest.approx(0.0261, abs=0.001)
    assert sorted(sets.values()) == pytest.approx([0.062, 0.074, 0.078, 0.097], abs=0.003)
    assert far.mic_ == pytest.approx(0.398, abs=0.003)
