"""The conformance kit: what every method must hold to, as `latent check ID` and as tests.

In a test file of a plugin, two lines run every check as a test of its own:

    from latent.core.testing import conformance
    test_conformance = conformance.tests("acme/ridge")
"""

import functools
from collections.abc import Callable

from latent.core.testing.conformance import contract, inference, interpreter, training  # noqa: F401 - they register
from latent.core.testing.conformance.kit import CHECKS, Check, Outcome, check, run_check
from latent.core.testing.conformance.subject import CheckFailed, Subject

__all__ = ["CHECKS", "Check", "CheckFailed", "Outcome", "Subject", "check", "run_check", "tests"]


def tests(method: str, *, backend: str = "aot_eager") -> Callable[[str], None]:  # noqa: PT028 - no test itself
    """Return a pytest test with one case for each check; what does not apply is skipped and says why.

    Args:
        method: Registry id.
        backend: Backend of `torch.compile`.
    """
    import pytest

    subject = functools.cache(lambda: Subject(method, backend=backend))  # made when the first case runs, not at import

    @pytest.mark.parametrize("name", list(CHECKS))
    def test_conformance(name: str) -> None:
        outcome = run_check(subject(), name)
        if outcome.status == "failed":
            pytest.fail(f"{method}: the check {name!r} failed\n{outcome.message}", pytrace=False)
        if outcome.status == "expected failure":
            pytest.xfail(outcome.message)
        if outcome.status == "does not apply":
            pytest.skip(outcome.message)

    return test_conformance
