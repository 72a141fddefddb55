"""The methods of this package hold to the rules."""

from latent.core.testing import conformance

test_causal_diffae = conformance.tests("gen/causal-diffae")
test_concept_space = conformance.tests("gen/concept-space")
test_gan_multidir = conformance.tests("gen/gan-multidir")
