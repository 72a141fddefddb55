"""The methods of this package hold to the rules."""

from latent.core.testing import conformance

test_caa = conformance.tests("steer/caa")
test_esr = conformance.tests("steer/esr")
test_g_act = conformance.tests("steer/g-act")
test_repe_pca = conformance.tests("steer/repe-pca")
