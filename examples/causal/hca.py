"""Hierarchical component analysis where the order is known: found, and not found where domains are all alike."""

import warnings

import torch

from latent.causal import HCA, linear_domains, nested_span_error

generator = torch.Generator().manual_seed(0)
world = linear_domains(generator=generator, domains=4, samples=2000)  # x = pinv(H) z, and z has one order
model = HCA(n_components=3, random_state=0).fit(world.domains)
errors = nested_span_error(model.unmixing_, world.unmixing)
print(f"MIC {model.mic_:.4f}; error of the spans of 1, 2, 3 upstream factors: {[round(float(e), 4) for e in errors]}")
print(f"Effects in the first domain, cause by effect:\n{model.adjacency('domain 0').round(decimals=2)}")

null = model.null_test("random_in_subspace", draws=100)
print(f"Random unmixing matrices have a MIC of {float(null.mic.median()):.2f} (p = {null.p_value:.2f}).")

print("\nThe same with domains that are all alike:")
alike = linear_domains(generator=torch.Generator().manual_seed(0), domains=4, samples=2000, alike=True)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    model = HCA(n_components=3, random_state=0).fit(alike.domains)
errors = nested_span_error(model.unmixing_, alike.unmixing)
print(f"MIC {model.mic_:.4f}, just as small; but the errors are {[round(float(e), 2) for e in errors]}.")
print(f"It says so: {caught[-1].message}")
