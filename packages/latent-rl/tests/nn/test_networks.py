import pytest
import torch
from torch import nn

from latent.core.run.seed import isolated
from latent.rl.nn.actors import FlowActor, TruncatedNormalActor
from latent.rl.nn.encoder import Encoder, SphereHead
from latent.rl.nn.predictor import Predictor, TwoStream


@pytest.fixture(autouse=True)
def _same_first_weights():
    """Of small networks with ReLU some first weights give zero for an input, whatever other tests have drawn before."""
    with isolated(0, "networks"):
        yield


@pytest.fixture
def random():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_heads_end_on_the_sphere(layers, random):
    head = SphereHead(4, 7, width=8, layers=layers)
    encoded = head(100.0 * torch.randn(5, 4, generator=random))
    torch.testing.assert_close(encoded.norm(dim=-1), torch.full((5,), 7.0**0.5))
    assert sum(isinstance(layer, nn.Linear) for layer in head.modules()) == layers + 1


def test_encoder_of_states_has_no_trunk_and_of_pixels_has_one():
    options = {"width": 8, "layers": 1, "pixel_features": 12}
    states = Encoder((4,), 6, **options)
    assert (states.features, len(list(states.trunk.parameters()))) == (4, 0)
    pixels = Encoder((3, 32, 32), 6, **options)
    assert pixels.features == 12
    assert pixels(torch.zeros(2, 3, 32, 32)).shape == (2, 6)


def test_predictor_members_differ_and_read_all_three_inputs(random):
    predictor = Predictor(4, 2, 3, 5, width=8, layers=1, members=2)
    inputs = [torch.randn(6, size, generator=random, requires_grad=True) for size in (4, 2, 3)]
    prediction = predictor(*inputs)
    assert prediction.shape == (2, 6, 5)
    assert not torch.allclose(prediction[0], prediction[1])
    for gradient in torch.autograd.grad(prediction.sum(), inputs):
        assert gradient.abs().sum() > 0


def test_rows_of_a_predictor_do_not_mix(random):
    predictor = Predictor(4, 2, 3, 5, width=8, layers=1, members=2)
    inputs = [torch.randn(6, size, generator=random) for size in (4, 2, 3)]
    one = predictor(*(value[2:3] for value in inputs))
    torch.testing.assert_close(one, predictor(*inputs)[:, 2:3])


def test_two_stream_keeps_its_inputs_apart_until_the_trunk(random):
    network = TwoStream(3, 5, 2, width=8, layers=2)
    first, second = torch.randn(4, 3, generator=random), torch.randn(4, 5, generator=random)
    joined = torch.cat((network.first(first), network.second(second)), -1)
    torch.testing.assert_close(network(first, second), network.trunk(joined))
    assert sum(isinstance(layer, nn.Linear) for layer in network.trunk) == 3


@pytest.fixture
def actor():
    return TruncatedNormalActor(4, 3, 2, width=8, layers=1, std=0.2, clip=0.3)


def test_truncated_normal_adds_clipped_noise_to_its_mean(actor, random):
    features, task = torch.randn(6, 4, generator=random), torch.randn(6, 3, generator=random)
    mean = actor(features, task)
    assert mean.abs().max() < 1
    noise = torch.tensor([[0.5, -0.5]]).repeat(6, 1)
    torch.testing.assert_close(actor(features, task, noise), (mean + 0.2 * noise).clamp(-1, 1), atol=1e-5, rtol=0)
    far = actor(features, task, 100.0 * noise) - mean
    assert far.abs().max() <= 0.3 + 1e-6


def test_truncated_normal_keeps_gradients_where_it_clamps(actor):
    nn.init.constant_(actor.net.trunk[-1].bias, 1.3)  # tanh 0.86, plus 0.3 of noise is over the edge
    nn.init.zeros_(actor.net.trunk[-1].weight)
    action = actor(torch.zeros(1, 4), torch.zeros(1, 3), torch.full((1, 2), 5.0))
    assert (action < 1.0).all()
    assert (action > 0.999).all()
    action.sum().backward()
    assert (actor.net.trunk[-1].bias.grad > 0.1).all()


@pytest.fixture
def flow():
    return FlowActor(4, 3, 2, width=8, layers=1, field_width=8, field_layers=2, steps=4)


def test_flow_actor_depends_on_its_noise(flow, random):
    features, task = torch.randn(6, 4, generator=random), torch.randn(6, 3, generator=random)
    first, second = torch.randn(2, 6, 2, generator=random)
    assert not torch.allclose(flow(features, task, first), flow(features, task, second))
    assert torch.equal(flow(features, task), flow(features, task, torch.zeros(6, 2)))
    assert flow(features, task, 1e3 * first).abs().max() <= 1.0


def test_behaviour_integrates_the_field_by_euler(flow, random):
    features, noise = torch.randn(6, 4, generator=random), torch.randn(6, 2, generator=random)
    action = noise
    for time in (0.0, 0.25, 0.5, 0.75):
        action = action + flow.field(torch.cat((features, action, torch.full((6, 1), time)), -1)) / 4
    torch.testing.assert_close(flow.behaviour(features, noise), action.clamp(-1, 1))


def test_behaviour_of_a_constant_field_arrives_after_unit_time(flow):
    for layer in flow.field:
        if isinstance(layer, nn.Linear):
            nn.init.zeros_(layer.weight)
    flow.field[-1].bias.data = torch.tensor([0.5, -3.0])
    action = flow.behaviour(torch.zeros(1, 4), torch.zeros(1, 2))
    torch.testing.assert_close(action, torch.tensor([[0.5, -1.0]]))
