"""Names of sites: the same for every architecture, and answered well when wrong."""

import subprocess
import sys
import weakref

import pytest
import torch
from torch import nn

from latent.core.activations import LAYER_SITES, capture, resolve, site_names
from latent.core.errors import LatentError, UnknownName


def test_every_architecture_has_every_name(model):
    names = site_names(model)
    experts = "moe" in model.config.model_type or model.config.model_type == "mixtral"
    layer = [key for key in LAYER_SITES if not (experts and key == "mlp_act")]
    assert names == ["embed", *(f"layers.{i}.{key}" for i in range(3) for key in layer), "final_norm", "logits"]


def test_what_attention_and_feed_forward_add_is_what_the_stream_gains(model, ids):
    with capture(model, "layers.*.*") as acts:
        model(ids)
    for i in range(3):
        read = {key: acts[f"layers.{i}.{key}"] for key in ("resid_pre", "attn_out", "mlp_out", "resid_post")}
        gained = read["resid_pre"] + read["attn_out"] + read["mlp_out"]
        torch.testing.assert_close(gained, read["resid_post"])
        assert read["attn_out"].abs().max() > 1e-4
        assert read["mlp_out"].abs().max() > 1e-4


def test_projections_link_what_is_before_and_after_them(model, ids):
    sites = {site.name: site for site in resolve(model, "layers.1.*")}
    with capture(model, list(sites)) as acts:
        model(ids)
    for before, after in (("attn_heads", "attn_out"), ("mlp_act", "mlp_out")):
        if f"layers.1.{before}" not in sites:
            continue
        module = model.get_submodule(sites[f"layers.1.{before}"].path)
        given = module(acts[f"layers.1.{before}"])
        if sites[f"layers.1.{after}"].path != sites[f"layers.1.{before}"].path:  # a norm follows
            given = model.get_submodule(sites[f"layers.1.{after}"].path)(given)
        torch.testing.assert_close(given, acts[f"layers.1.{after}"])


def test_logits_are_what_the_model_returns(model, ids):
    with capture(model, ["logits", "final_norm"]) as acts:
        logits = model(ids).logits
    assert torch.equal(acts["logits"], logits)
    assert acts["final_norm"].shape == (3, 6, 32)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("layers.9.resid_post", "layers 0 to 2.\nDid you mean 'layers.2.resid_post'"),
        ("layers.1.resid_pots", "Did you mean 'layers.1.resid_post'"),
        ("resid_post", "'layers.*.resid_post'"),
        ("logit", "Did you mean 'logits'"),
        ("model.layerz.1.mlp", "Did you mean 'model.layers.1.mlp'"),
        ("model.layers.1.mlp:sideways", "Unknown site"),
        ("layers.*.nothing", "Unknown site"),
    ],
)
def test_wrong_names_are_answered(llama, name, answer):
    with pytest.raises(UnknownName) as error:
        resolve(llama, name)
    assert answer in str(error.value)


def test_a_mixture_of_experts_says_that_it_has_no_hidden_units(model):
    if "layers.0.mlp_act" not in site_names(model):
        with pytest.raises(UnknownName, match=r"mixture of experts[\s\S]*model\.layers\.1\.mlp"):
            resolve(model, "layers.1.mlp_act")


def test_an_attention_inside_an_attention_is_looked_into(neo, ids):
    (site,) = resolve(neo, "layers.1.attn_heads")
    assert (site.path, site.side) == ("transformer.h.1.attn.attention.out_proj", "input")
    test_every_architecture_has_every_name(neo)
    test_what_attention_and_feed_forward_add_is_what_the_stream_gains(neo, ids)
    test_projections_link_what_is_before_and_after_them(neo, ids)


def test_a_layer_that_is_made_otherwise_has_the_sites_that_are_found(roberta, ids):
    both = ("resid_pre", "resid_post")
    assert site_names(roberta) == ["embed", *(f"layers.{i}.{key}" for i in range(3) for key in both), "logits"]
    paths = ["roberta.encoder.layer.1", "roberta.encoder.layer.1.attention.output:output"]
    with capture(roberta, ["layers.1.resid_post", "layers.2.resid_pre", "logits", *paths]) as acts:
        logits = roberta(ids).logits
    assert torch.equal(acts["logits"], logits)
    assert torch.equal(acts[paths[0]], acts["layers.1.resid_post"])
    assert torch.equal(acts[paths[0]], acts["layers.2.resid_pre"])
    assert acts[paths[1]].shape == (3, 6, 32)
    for name in ("layers.1.attn_out", "layers.*.attn_heads"):
        with pytest.raises(UnknownName, match="expected one output projection of attention, found self, output"):
            resolve(roberta, name)
    with pytest.raises(UnknownName, match="expected one feed-forward part, found intermediate, output"):
        resolve(roberta, "layers.0.mlp_act")
    with pytest.raises(UnknownName, match="expected one normalisation beside the layers, found none"):
        resolve(roberta, "final_norm")
    with pytest.raises(UnknownName, match="layers 0 to 2"):
        resolve(roberta, "layers.3.resid_post")


class Adapted(nn.Module):
    """A projection with a low-rank adapter, as PEFT wraps it; it may tell its widths."""

    def __init__(self, base, tells):
        super().__init__()
        self.base_layer = base
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base.in_features, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, base.out_features, bias=False)})
        if tells:
            self.in_features, self.out_features = base.in_features, base.out_features

    def forward(self, x):
        return self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x))


def adapt(model, *names, tells=True):
    for path, module in [*model.named_modules()]:
        if path.rpartition(".")[2] in names:
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, Adapted(module, tells))
    return model


@pytest.mark.parametrize(
    "names", [("down_proj",), ("q_proj", "v_proj"), ("o_proj", "gate_proj", "up_proj", "down_proj")]
)
def test_a_wrapped_projection_is_one_projection(llama, ids, names):
    before = [(site.name, site.path, site.side) for site in resolve(llama, "layers.*.*")]
    adapt(llama, *names)
    assert [(site.name, site.path, site.side) for site in resolve(llama, "layers.*.*")] == before
    test_what_attention_and_feed_forward_add_is_what_the_stream_gains(llama, ids)
    test_projections_link_what_is_before_and_after_them(llama, ids)


def test_wrapped_projections_of_a_feed_forward_part_that_is_the_layer(ids, odd):
    opt = adapt(odd("opt"), "out_proj", "fc1", "fc2")
    assert [site.path for site in resolve(opt, "layers.0.mlp_*")] == [
        f"model.decoder.layers.0.{name}" for name in ("fc1", "fc2", "fc2")
    ]
    test_what_attention_and_feed_forward_add_is_what_the_stream_gains(opt, ids)


@pytest.mark.parametrize(
    ("name", "wrapped", "gone"),
    [
        ("llama", ["o_proj"], ["attn_heads", "attn_out"]),
        ("llama", ["down_proj"], ["mlp_in", "mlp_act", "mlp_out"]),
        ("llama", ["gate_proj", "up_proj", "down_proj"], ["mlp_in", "mlp_act", "mlp_out"]),
        ("opt", ["fc2"], ["mlp_in", "mlp_act", "mlp_out"]),
        ("opt", ["fc1", "fc2"], ["mlp_in", "mlp_act", "mlp_out"]),
        ("llama", ["up_proj"], []),
    ],
)
def test_no_site_is_guessed_where_a_wrapper_tells_nothing(odd, name, wrapped, gone):
    model = adapt(odd(name), *wrapped, tells=False)
    found = [site.name.rpartition(".")[2] for site in resolve(model, "layers.0.*")]
    assert found == [key for key in LAYER_SITES if key not in gone]
    for key in gone:
        with pytest.raises(UnknownName, match=r"no projection|expected one feed-forward part"):
            resolve(model, f"layers.0.{key}")


def test_projections_of_equal_widths_are_told_apart_or_left_out(odd, ids):
    model = odd("llama", intermediate_size=32)
    assert resolve(model, "layers.0.mlp_act")[0].path == "model.layers.0.mlp.down_proj"
    for layer in model.model.layers:
        part = layer.mlp
        part.first, part.second, part.third = part.gate_proj, part.up_proj, part.down_proj
        del part.gate_proj, part.up_proj, part.down_proj
    with pytest.raises(UnknownName, match=r"projection back to the residual stream .*found first, second, third"):
        resolve(model, "layers.0.mlp_act")


def test_granite_scales_what_is_added(odd, ids):
    """As the manual says."""
    with capture(odd("granite"), "layers.0.*") as acts:
        acts.run(ids)
    read = {key: acts[f"layers.0.{key}"] for key in ("resid_pre", "attn_out", "mlp_out", "resid_post")}
    torch.testing.assert_close(read["resid_pre"] + 0.3 * (read["attn_out"] + read["mlp_out"]), read["resid_post"])


def test_wildcards_stand_for_one_part(llama):
    assert [s.name for s in resolve(llama, "layers.*.resid_post")] == [f"layers.{i}.resid_post" for i in range(3)]
    assert [s.path for s in resolve(llama, "model.layers.*.mlp")] == [f"model.layers.{i}.mlp" for i in range(3)]
    assert len(resolve(llama, ["layers.*.mlp_in", "layers.1.mlp_in"])) == 3


def test_any_module_has_its_paths():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    assert site_names(model) == []
    x = torch.ones(5, 3)
    with capture(model, ["0", "2:input"]) as acts:
        model(x)
    assert torch.equal(acts["0"], model[0](x))
    assert torch.equal(acts["2:input"], model[0](x).relu())
    with pytest.raises(UnknownName, match="name modules by their paths"):
        resolve(model, "layers.0.resid_post")


def test_outputs_with_names_show_their_first_tensor(llama):
    ids = torch.full((2, 5), 7)
    with capture(llama, ["model", "final_norm"]) as acts:
        llama(ids)
    assert torch.equal(acts["model"], acts["final_norm"])


def test_a_name_that_means_two_things_is_refused(llama):
    llama.embed = nn.Linear(2, 2)
    with pytest.raises(LatentError, match="embed:output"):
        resolve(llama, "embed")
    assert resolve(llama, "embed:output")[0].path == "embed"


def test_two_stacks_of_layers_are_ambiguous(llama):
    llama.other = nn.ModuleList(llama.model.layers)
    with pytest.raises(UnknownName, match="2 stacks of layers"):
        resolve(llama, "layers.0.resid_post")


def test_the_engine_does_not_import_transformers():
    code = "import sys, latent.core.activations; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_list_with_empty_places_is_no_stack_of_layers():
    """U-Nets of diffusers without attention have `ModuleList([None])`."""
    model = nn.ModuleDict({"attentions": nn.ModuleList([None]), "linear": nn.Linear(2, 2)})
    model.forward = lambda x: model["linear"](x)
    with capture(model, "linear") as acts:
        model(torch.ones(3, 2))
    assert acts["linear"].shape == (3, 2)


def test_sites_follow_a_tree_that_changes(llama):
    assert len(resolve(llama, "layers.*.resid_post")) == 3
    del llama.model.layers[0]
    assert [site.path for site in resolve(llama, "layers.*.resid_post")] == ["model.layers.0", "model.layers.1"]
    llama.model.layers[1].norm_after = llama.model.layers[1].post_attention_layernorm
    del llama.model.layers[1].post_attention_layernorm
    assert "model.layers.1.norm_after" in [site.name for site in resolve(llama, "model.layers.1.*")]
    with pytest.raises(UnknownName):
        resolve(llama, "model.layers.1.post_attention_layernorm")


def test_a_new_module_under_an_old_name_is_looked_at(llama):
    (before,) = resolve(llama, "layers.1.attn_out")
    old = llama.model.layers[1].self_attn
    old.dense, old.o_proj = old.o_proj, None
    del old.o_proj
    (after,) = resolve(llama, "layers.1.attn_out")
    assert (before.path, after.path) == ("model.layers.1.self_attn.o_proj", "model.layers.1.self_attn.dense")


def test_a_module_that_gets_its_first_child_is_looked_at(llama):
    with pytest.raises(UnknownName):
        resolve(llama, "model.norm.adapter")
    llama.model.norm.adapter = nn.Identity()
    assert [site.path for site in resolve(llama, "model.norm.adapter")] == ["model.norm.adapter"]


def test_modules_are_freed_while_their_sites_are_known(llama):
    resolve(llama, "layers.*.resid_post")
    layer = weakref.ref(llama.model.layers[2])
    del llama.model.layers[2]
    assert layer() is None
    assert len(resolve(llama, "layers.*.resid_post")) == 2
