"""The methods of this package hold to the rules."""

from latent.core.testing import conformance

test_hca = conformance.tests("causal/hca")
test_sdm = conformance.tests("causal/sdm")
test_right_mediator = conformance.tests("causal/right-mediator")
test_rep4ex = conformance.tests("causal/rep4ex")
