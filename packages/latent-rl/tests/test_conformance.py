import pytest

from latent.core.testing import conformance
from latent.core.testing.conformance.subject import Subject
from latent.core.testing.conformance.training import scores

pytest.importorskip("dm_control")

test_td_jepa = conformance.tests("rl/td-jepa")


@pytest.mark.parametrize("seed", [3, 4])
def test_td_jepa_learns_at_other_seeds_than_the_checks(seed):
    found = scores(Subject("rl/td-jepa"), seed)
    assert found.trained > found.needed + 0.1
    assert found.broken < found.needed - 0.05
