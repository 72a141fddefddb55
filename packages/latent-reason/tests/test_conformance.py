"""The methods of this package hold to the rules."""

from latent.core.testing import conformance

test_coconut = conformance.tests("reason/coconut")
test_intention_collapse = conformance.tests("reason/intention-collapse")
test_latent_trajectory = conformance.tests("reason/latent-trajectory")
test_latentmas = conformance.tests("reason/latentmas")
test_latentseek = conformance.tests("reason/latentseek")
