"""Estimators on another device than the CPU: nothing of two devices meets, and results are where the data are."""

import pytest
import torch

from latent.causal import HCA, Rep4Ex, SDMEstimator, linear_domains
from latent.causal.data.interventions import ActionWorld
from latent.core.run.seed import generator
from latent.core.testing.devices import other_device


def test_hca():
    tables = linear_domains(generator=torch.Generator().manual_seed(0)).domains
    first = next(iter(tables.values()))
    here = HCA(n_components=3, restarts=2, variation_draws=0).fit(tables)
    with other_device() as device:
        there = HCA(n_components=3, restarts=2, variation_draws=0).fit({k: x.to(device) for k, x in tables.items()})
        results = (there.transform(first.to(device)), there.mixing_, there.graph(), there.ambiguity(1))
        assert all(result.device == device for result in results)
        there.bootstrap(3)
        there.null_test("random_in_subspace", 3)
        assert there.mic_ == pytest.approx(here.mic_, abs=1e-6)
        assert torch.allclose(results[0].cpu(), here.transform(first), atol=1e-6)


def test_rep4ex():
    data = ActionWorld(0).sample(800)
    with other_device() as device:
        obs, outcome, action = (each.to(device) for each in (data.obs, data.outcome, data.action))
        model = Rep4Ex(latent_dim=2, penalty=1.0, epochs=2).fit(obs, outcome, actions=action)
        found = model.predict_do(torch.tensor([[0.2, 0.4]], device=device))
        assert found.mean.device == found.low.device == device
        assert model.predict(obs[:50], action[:50], outside="warn").device == device
        assert model.transform(obs[:5]).device == device


def test_sdm():
    x = torch.randn(400, 6, generator=generator(0, "device"))
    y = (x[:, 0] > 0).long()
    settings = {"alpha": 0.9, "exemplar_dim": 8, "restarts": 2, "epochs": 3, "learning_rate": 1e-2}
    with other_device() as device:
        solver = SDMEstimator(**settings, rescaler_epochs=20).fit(x.to(device), y.to(device))
        out = solver.verify(x[:20].to(device))
        for name in ("pred", "q", "d", "prob_lower", "admitted", "exemplars"):
            assert getattr(out, name).device == device, name
        assert solver.predict(x[:9].to(device)).device == device
        assert solver.predict_proba(x[:9].to(device)).device == device
