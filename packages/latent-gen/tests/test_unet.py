"""Networks that are told a vector: each begins as what it was, hears what it is told, and is built from its config."""

import json

import pytest
import torch
from diffusers import AutoencoderKL, DiTTransformer2DModel, UNet2DConditionModel, UNet2DModel

from latent.core.errors import ConfigError
from latent.core.run.seed import generator, isolated
from latent.gen.unet import NETWORKS, check_sides, conditional, config_text, small_unet, unet_from_json

LEVELS = {
    "sample_size": 8, "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4,
    "attention_head_dim": 4, "in_channels": 4, "out_channels": 4,
}  # fmt: skip


def unet():
    return UNet2DModel(
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"), **LEVELS
    )


def text_unet(**more):
    return UNet2DConditionModel(**LEVELS | {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "cross_attention_dim": 12,
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), **more,
    })  # fmt: skip


def dit(**more):
    made = DiTTransformer2DModel(**{
        "num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 4, "num_layers": 2, "sample_size": 8,
        "num_embeds_ada_norm": 10, "norm_num_groups": 4, "out_channels": 8, **more,
    })  # fmt: skip
    for parameter in made.parameters():  # otherwise close to zero, where little is heard
        torch.nn.init.normal_(parameter, std=0.2)
    return made


def plain(network, noisy, times):
    """What a network predicts that is told nothing."""
    if isinstance(network, UNet2DModel):
        return network(noisy, times).sample
    if isinstance(network, UNet2DConditionModel):
        return network(noisy, times, torch.zeros(len(noisy), 5, 12)).sample
    none = torch.full((len(noisy),), 10)  # the class beyond the last, which stands for none
    return network(noisy, timestep=times, class_labels=none).sample[:, :4]


@pytest.fixture(params=[unet, text_unet, dit], ids=["unet", "text", "dit"])
def network(request):
    with isolated(0, "network"):
        return request.param().eval()


@pytest.fixture(scope="module")
def given():
    random = generator(1, "given")
    return torch.randn(3, 4, 8, 8, generator=random), torch.tensor([5, 500, 900]), torch.randn(3, 6, generator=random)


def test_it_begins_as_what_it_was_whatever_it_is_told(network, given):
    noisy, times, condition = given
    with torch.no_grad(), isolated(9, "other"):
        wanted = plain(network, noisy, times)
        assert wanted.std() > 0.01
        again = conditional(unet_from_json(config_text(network)), 6)
        again.begin_with(network.state_dict())
        for told in (condition, again.null(condition)):
            assert torch.equal(again.eval()(noisy, times, told), wanted)


@pytest.mark.parametrize("hidden", [0, 5])
def test_what_it_is_told_reaches_each_row_and_no_other(network, given, hidden):
    noisy, times, condition = given
    model = conditional(network, 6, hidden=hidden).eval()
    with torch.no_grad():
        untold = model(noisy, times, model.null(condition))
        for parameter in model.embed.parameters():
            parameter.normal_(generator=generator(2, "map"))
        told = model(noisy, times, condition)
        assert ((told - untold).abs().amax((1, 2, 3)) > 1e-3).all()
        alone = torch.cat([model(*(each[row : row + 1] for each in given)) for row in range(3)])
        assert torch.allclose(told, alone, atol=1e-4)
        moved = model(noisy, times, torch.cat([condition[:1] + 1, condition[1:]]))
        assert (moved[0] - told[0]).abs().max() > 1e-3
        assert torch.allclose(moved[1:], told[1:], atol=1e-5)


def test_every_weight_learns(network, given):
    model = conditional(network, 6)
    model(*given).square().mean().backward()
    assert not [name for name, weight in model.named_parameters() if weight.grad is None]
    assert model.embed.weight.grad.abs().sum() > 0


def test_the_same_weights_say_the_same_after_training(network, given):
    """Weights with a condition, which no bare network has, and a transformer's own places."""
    model = conditional(network, 6).eval()
    with torch.no_grad():
        model.embed.weight.normal_(generator=generator(2, "map"))
        text = config_text(network)
        assert "class_labels" not in text
        again = conditional(unet_from_json(text), 6).eval()
        again.load_state_dict(model.state_dict())
        assert torch.equal(again(*given), model(*given))


def test_a_transformer_of_another_size_divides_it(given):
    with isolated(0, "network"):
        model = conditional(dit(), 6).eval()
    with torch.no_grad():
        assert model(torch.randn(2, 4, 12, 12), given[1][:2], given[2][:2]).shape == (2, 4, 12, 12)


def test_a_config_names_its_class_and_no_place():
    small = small_unet(channels=1, size=8)
    small.register_to_config(_name_or_path="/somewhere")
    text = config_text(small)
    assert json.loads(text)["_class_name"] == "UNet2DModel"
    assert "somewhere" not in text
    assert isinstance(unet_from_json(json.dumps({**json.loads(text), "_class_name": "UNet2DModel"})), UNet2DModel)
    nameless = {key: value for key, value in json.loads(text).items() if key != "_class_name"}
    assert isinstance(unet_from_json(json.dumps(nameless)), UNet2DModel)
    assert unet_from_json(small.to_json_string()).config.norm_num_groups == 8


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"addition_embed_type": "text", "addition_embed_type_num_heads": 4}, "addition_embed_type='text'"),
        ({"encoder_hid_dim": 4}, "encoder_hid_dim_type='text_proj'"),
        ({"time_cond_proj_dim": 4}, "time_cond_proj_dim=4"),
        ({"attention_type": "gated"}, "attention_type='gated'"),
        ({"cross_attention_dim": (12, 16)}, r"cross_attention_dim=\[12, 16\]"),
        ({"num_class_embeds": 3}, "embeds classes by Embedding"),
    ],
)
def test_a_unet_that_needs_more_is_refused(more, text):
    with pytest.raises(ConfigError, match=text):
        conditional(text_unet(**more), 6)


def test_what_is_no_such_network_is_refused():
    with pytest.raises(ConfigError, match=r"A Linear cannot .* expected one of UNet2DModel, UNet2DConditionModel, DiT"):
        conditional(torch.nn.Linear(1, 1), 6)
    vae = AutoencoderKL(block_out_channels=(4,), norm_num_groups=2)
    with pytest.raises(ConfigError, match="config of a AutoencoderKL, and no config of a U-Net"):
        unet_from_json(config_text(vae))
    for broken in (
        "{",
        "[]",
        '{"block_out_channels": [8]}',
        '{"_class_name": "DiTTransformer2DModel", "patch_size": "x"}',
    ):
        with pytest.raises(ConfigError, match="no config of a U-Net or transformer"):
            unet_from_json(broken)
    assert NETWORKS == ("UNet2DModel", "UNet2DConditionModel", "DiTTransformer2DModel")


def test_channels_and_sides():
    check_sides(unet(), 4, 8, what="pictures")
    check_sides(dit(), 4, 8, what="pictures")
    check_sides(dit(out_channels=None), 4, 6, what="pictures")
    with pytest.raises(ConfigError, match=r"DiT.* from 4 to 8 channels .* 1/2; latents have 3 channels") as caught:
        check_sides(dit(), 3, 8, what="latents")
    assert "whole pipeline" in caught.value.hint
    with pytest.raises(ConfigError, match=r"sides of 7") as caught:
        check_sides(text_unet(), 4, 7, what="pictures")
    assert "sides such as 8" in caught.value.hint
    with pytest.raises(ConfigError, match="from 4 to 6 channels"):
        check_sides(UNet2DModel(**LEVELS | {"out_channels": 6, "down_block_types": ("DownBlock2D",) * 2,
                                            "up_block_types": ("UpBlock2D",) * 2}), 4, 8, what="pictures")  # fmt: skip
