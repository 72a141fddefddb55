"""Names of the places in a network where activations are read and written, and how a tensor is taken from them.

In a causal language model the names are the same for every architecture; they are found by the tree of modules, not by
a list of classes. In any other module a place is a module's path, with `:input` for what goes in.
"""

import re
import weakref
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass, replace
from itertools import chain
from operator import attrgetter
from typing import Any

from torch import Tensor, nn

from latent.core.activations.clock import Pass
from latent.core.errors import LatentError, ShapeError, UnknownName

__all__ = ["LAYER_SITES", "Site", "resolve", "site_names"]

LAYER_SITES: dict[str, str] = {
    "resid_pre": "the residual stream that enters the layer",
    "attn_heads": "the outputs of all heads, side by side, before the output projection",
    "attn_out": "what attention adds to the residual stream",
    "mlp_in": "what the feed-forward part is given (normalised)",
    "mlp_act": "the hidden units of the feed-forward part, before its last projection",
    "mlp_out": "what the feed-forward part adds to the residual stream",
    "resid_post": "the residual stream that leaves the layer",
}
"""Sites of one layer, as `layers.3.NAME`, in the order in which they run."""

_INPUTS_OF_ATTENTION = re.compile(r"(^|_)(q|k|v|kv|qkv|Wqkv|query|key|value|c_attn)(_|$)")
_INPUTS_OF_FEED_FORWARD = re.compile(r"(^|_)(gate|up|in|w1|w3|fc1|h_to_4h)(_|$)|_fc$")
_FIRST_ARGUMENTS = ("hidden_states", "input", "x", "sample")


@dataclass(frozen=True)
class Site:
    """A place where a tensor can be read and replaced.

    Attributes:
        name: What the user calls it.
        path: Path of the module, as in `named_modules()`; empty for the model itself.
        side: Whether the tensor goes into the module or comes out of it.
        tokens: Whether the tensor is known to have one vector for each token.
    """

    name: str
    path: str
    side: str = "output"
    tokens: bool = False

    def module(self, model: nn.Module) -> nn.Module:
        """Return the module at the site's path."""
        for part in self.path.split(".") if self.path else ():
            model = model._modules[part]  # type: ignore[assignment]  # not None: it was found there
        return model

    def read(self, value: Any, call: Pass) -> Tensor:
        """Take the tensor out of what the module got or gave, as `(rows, time, hidden)` when it has tokens.

        Args:
            value: `(args, kwargs)` of an input site, the returned value of an output site.
            call: The pass that is under way.

        Raises:
            ShapeError: When there is no tensor, or its rows or tokens are not those of the pass.
        """
        tensor = value if isinstance(value, Tensor) else self._tensor(value)
        if call.time is None:
            fits = tensor.ndim > 0 and tensor.shape[0] == call.rows
            return tensor if fits else self._refuse(tensor, call)
        if tensor.ndim == 2 and tensor.shape[0] == call.rows * call.time:
            return tensor.reshape(call.rows, call.time, -1)
        fits = tensor.ndim > 0 and tensor.shape[0] == call.rows
        if fits and self.tokens:
            # Logits may be asked for at the last tokens alone.
            fits = tensor.ndim == 3 and (
                tensor.shape[1] == call.time or (self.path == "" and tensor.shape[1] < call.time and not call.cut)
            )
        return tensor if fits else self._refuse(tensor, call)

    def write(self, value: Any, new: Tensor) -> Any:
        """Return what the module got or gave with its tensor replaced by `new`, in the form that it had."""
        if isinstance(value, Tensor) and new.shape == value.shape:
            return new
        old = self._tensor(value)
        new = new if new.shape == old.shape else new.reshape(old.shape)
        if self.side == "input":
            args, kwargs = value
            if args:
                return (new, *args[1:]), kwargs
            return args, {**kwargs, self._argument(kwargs): new}
        if isinstance(value, Tensor):
            return new
        if isinstance(value, MutableMapping):  # the outputs of transformers and diffusers, changed in place
            value[_first(value)] = new
            return value
        changed = (new, *value[1:])
        return type(value)._make(changed) if hasattr(value, "_make") else type(value)(changed)

    def _tensor(self, value: Any) -> Tensor:
        if isinstance(value, Tensor):
            return value
        if self.side == "input":
            args, kwargs = value
            found = args[0] if args else kwargs.get(self._argument(kwargs))
        elif isinstance(value, Mapping):
            found = value.get(_first(value))
        else:
            found = value[0] if isinstance(value, (tuple, list)) and value else value
        if not isinstance(found, Tensor):
            raise ShapeError(
                f"Site {self.name!r} carries a {type(value).__name__} that does not begin with a tensor.",
                hint="Choose another module, or its ':input'.",
            )
        return found

    def _argument(self, kwargs: Mapping[str, Any]) -> str:
        return next((name for name in _FIRST_ARGUMENTS if name in kwargs), "")

    def _refuse(self, tensor: Tensor, call: Pass) -> Tensor:
        expected = f"{call.rows} rows" + ("" if call.time is None else f" of {call.time} tokens")
        raise ShapeError(
            f"Site {self.name!r} carries a tensor of shape {tuple(tensor.shape)}; the pass has {expected}.",
            hint="Its first axis is not the batch: choose another site.",
        )


def site_names(model: nn.Module) -> list[str]:
    """Return the canonical names that `model` has, in the order in which they run; none when it is no causal LM."""
    return list(_survey(model).canonical)


def resolve(model: nn.Module, names: str | Iterable[str]) -> list[Site]:
    """Find the sites that names or patterns stand for, without doubles.

    A name is a canonical one (`embed`, `layers.3.resid_post`, `final_norm`, `logits`) or the path of a module, with
    `:input` for what goes into it and `:output` (the default) for what comes out. `*` stands for one part between dots.

    Raises:
        UnknownName: When a name stands for nothing; the text lists the nearest names.
        LatentError: When a name is both canonical and the path of another module.
    """
    survey = _survey(model)
    found: dict[str, Site] = {}
    for name in [names] if isinstance(names, str) else names:
        if name not in survey.matches:
            survey.matches[name] = _matching(name, survey) or _unknown(name, survey)
        for site in survey.matches[name]:
            found[site.name] = site
    return list(found.values())


def _first(output: Mapping[str, Any]) -> str:
    return "logits" if "logits" in output else next(iter(output), "")


def _matching(name: str, survey: "_Survey") -> list[Site]:
    path, _, side = name.partition(":")
    pattern = _pattern(path)
    paths = (
        [known for known in survey.paths if known and pattern.fullmatch(known)]
        if side in ("", "input", "output")
        else []
    )
    sites = [] if side else [site for known, site in survey.canonical.items() if pattern.fullmatch(known)]
    if sites and any(known != sites[0].path for known in paths):
        raise LatentError(
            f"{name!r} is a site of every language model and also the path of a module of this one.",
            hint=f"Type '{name}:output' for the module, or '{sites[0].path}:{sites[0].side}' for the site.",
        )
    suffix = f":{side}" if side else ""
    return sites or [Site(known + suffix, known, side or "output") for known in paths]


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile("[^.]+".join(re.escape(part) for part in name.split("*")))


def _unknown(name: str, survey: "_Survey") -> list[Site]:
    canonical = survey.canonical
    known = [*canonical, *(path for path in survey.paths if path)]
    pattern = _pattern(name)
    reason = next((why for missing, why in survey.missing.items() if pattern.fullmatch(missing)), "")
    if reason:
        raise UnknownName(f"Unknown site {name!r}: {reason}.", hint="Name a module by its path, with ':output'.")
    part = name.rsplit(".", 1)[-1]
    layer = re.fullmatch(r"layers\.(-?\d+)\.(\w+)", name)
    layers = len({key.split(".")[1] for key in canonical if key.startswith("layers.")})
    if layer and layer[2] in LAYER_SITES and layers:
        raise UnknownName(
            f"Unknown site {name!r}: the model has layers 0 to {layers - 1}.",
            hint=f"Did you mean 'layers.{layers - 1}.{layer[2]}'?",
        )
    error = UnknownName.of("site", name, known, where=survey.why_not)
    if part in LAYER_SITES and canonical:
        error.hint = f"Did you mean 'layers.0.{part}' or 'layers.*.{part}'?"
    raise error


class _Survey:
    """What was found in a model, which holds for as long as its tree of modules is the same.

    Attributes:
        paths: Paths of all modules.
        canonical: The canonical sites by their names.
        missing: Why a canonical site is not there, by its name.
        why_not: The reason when there are none.
        matches: The sites that names and patterns stood for.
    """

    def __init__(self, model: nn.Module) -> None:
        modules = dict(model.named_modules())
        self.paths = tuple(modules)
        self.missing: dict[str, str] = {}
        self.canonical, self.why_not = _canonical(model, modules, self.missing)
        self.matches: dict[str, list[Site]] = {}
        # Each context asks `holds`, and memory that is not in the processor's cache is slow: so of a module without
        # children only these are looked at, and modules say themselves that they are gone.
        parents = [module for module in modules.values() if module._modules]
        leaves = [module for module in modules.values() if not module._modules]
        self._dead: list[weakref.ref[nn.Module]] = []
        self._parents = [weakref.ref(module, self._dead.append) for module in parents]
        self._leaves = [weakref.ref(module, self._dead.append) for module in leaves]
        self._no_children = [module._modules for module in leaves]
        self._children = _children(parents)

    def holds(self) -> bool:
        """Return whether all modules are still there and have the children that they had."""
        # Children are compared by identity, which names the same module as long as that module lives.
        if self._dead or any(self._no_children):
            return False
        return _children([known() for known in self._parents]) == self._children


_SURVEYS: weakref.WeakKeyDictionary[nn.Module, _Survey] = weakref.WeakKeyDictionary()


def _survey(model: nn.Module) -> _Survey:
    """Look for the sites of a model, unless that was done: it takes forty times as long as to compare the tree."""
    survey = _SURVEYS.get(model)
    if survey is None or not survey.holds():
        survey = _SURVEYS[model] = _Survey(model)
    return survey


def _children(modules: Iterable[Any]) -> tuple[list[str], list[int]]:
    """Return the names and the identities of all children, module by module."""
    children = [*map(attrgetter("_modules"), modules)]  # chained without a loop in Python: each context compares them
    return [*chain.from_iterable(children)], [*map(id, chain.from_iterable(map(dict.values, children)))]


def _canonical(
    model: nn.Module, modules: Mapping[str, nn.Module], missing: dict[str, str]
) -> tuple[dict[str, Site], str]:
    """Return the canonical sites, or none and the reason; note in `missing` why single ones are not there."""
    stacks = [path for path, module in modules.items() if _is_stack(module)]
    stacks = [path for path in stacks if not any(path.startswith(f"{other}.") for other in stacks)]
    words, head = _embeddings(model)
    if len(stacks) != 1 or words is None or head is None:
        several = f"it has {len(stacks)} stacks of layers ({', '.join(stacks)})" if len(stacks) > 1 else "it is none"
        return {}, f"Canonical names are for causal language models, and {several}: name modules by their paths."
    (stack,) = stacks
    path_of = {module: path for path, module in modules.items()}
    sites = [Site("embed", path_of[words])]
    for index, block in enumerate(modules[stack].children()):
        found, reasons = _layer(f"{stack}.{index}", block)
        sites += [replace(found[key], name=f"layers.{index}.{key}") for key in LAYER_SITES if key in found]
        missing |= {f"layers.{index}.{key}": why for key, why in reasons.items()}
    trunk = stack.rpartition(".")[0]
    norms = [name for name, child in modules[trunk].named_children() if _is_norm(child) and "emb" not in name]
    try:
        sites.append(Site("final_norm", f"{trunk}.{_one_of(norms, 'normalisation beside the layers')}".lstrip(".")))
    except _NotFound as reason:
        missing["final_norm"] = str(reason)
    sites.append(Site("logits", ""))
    return {site.name: replace(site, tokens=True) for site in sites}, ""


def _embeddings(model: nn.Module) -> tuple[nn.Module | None, nn.Module | None]:
    """Return the layer that embeds words and the head, as the methods that every transformers model has give them."""
    found = []
    for name in ("get_input_embeddings", "get_output_embeddings"):
        get: Any = getattr(model, name, None)
        module = get() if callable(get) else None
        found.append(module if isinstance(module, nn.Module) else None)
    return found[0], found[1]


def _layer(path: str, block: nn.Module) -> tuple[dict[str, Site], dict[str, str]]:
    """Find the sites of one layer by what its parts are; of those that are not found, tell why."""
    sites = {"resid_pre": Site("", path, "input"), "resid_post": Site("", path)}
    reasons: dict[str, str] = {}
    norms = [key for key, child in block.named_children() if _is_norm(child)]
    after_mlp = [key for key in norms if re.match(r"post_(feedforward|mlp)", key)]
    # In Llama `post_attention_layernorm` stands before the feed-forward part; it follows attention where another norm
    # follows the feed-forward part, unless a third name says so itself (GLM-4).
    own = [key for key in norms if key.startswith("post_self_attn")]
    after_attention = own or [key for key in norms if after_mlp and key.startswith("post_attention")]
    width = None
    try:
        out = _attention_out(block)
        width = _width(block.get_submodule(out))
        sites["attn_heads"] = Site("", f"{path}.{out}", "input")
        # Where a norm follows (Gemma 2), what is added to the residual stream is the output of that norm.
        sites["attn_out"] = Site("", f"{path}.{after_attention[0] if after_attention else out}")
    except _NotFound as reason:
        reasons |= dict.fromkeys(("attn_heads", "attn_out"), str(reason))
    try:
        sites |= _feed_forward(path, block, width)
        if after_mlp:
            sites["mlp_out"] = Site("", f"{path}.{after_mlp[0]}")
        if "mlp_act" not in sites:
            experts = sites["mlp_in"].path
            reasons["mlp_act"] = f"this layer's feed-forward part is a mixture of experts, {experts!r}"
    except _NotFound as reason:
        reasons |= dict.fromkeys(("mlp_in", "mlp_act", "mlp_out"), str(reason))
    return sites, reasons


def _attention_out(block: nn.Module) -> str:
    """Return the path, inside a layer, of the projection that attention ends with."""
    names = [key for key, child in block.named_children() if _names_attention(key) and _is_part(child)]
    path = _one_of(names, "attention")
    while True:
        parts = {key: child for key, child in block.get_submodule(path).named_children() if _has_matrix(child)}
        key = _one_of([key for key in parts if not _INPUTS_OF_ATTENTION.search(key)], "output projection of attention")
        path = f"{path}.{key}"
        if _is_linear(parts[key]):
            return path
        if not _names_attention(key):
            raise _NotFound(f"{key!r} of its attention is no projection")


def _feed_forward(path: str, block: nn.Module, width: int | None) -> dict[str, Site]:
    """Find the sites of the feed-forward part, which may be the layer itself (OPT) or a mixture of experts.

    `width` is that of the residual stream, if it is known.
    """
    parts = {key: child for key, child in block.named_children() if _has_matrix(child) and not _names_attention(key)}
    if parts and all(map(_is_linear, parts.values())):
        where = path
    else:
        part = _one_of([*parts], "feed-forward part")
        where, inside = f"{path}.{part}", parts[part]
        if any(p.ndim > 2 for p in inside.parameters()) or any(isinstance(m, nn.ModuleList) for m in inside.modules()):
            return {"mlp_in": Site("", where, "input"), "mlp_out": Site("", where)}
        parts = {key: child for key, child in inside.named_children() if _has_matrix(child)}
    # What is no projection may hide the one that is looked for: it counts among those that could be it.
    back = [key for key, child in parts.items() if not _is_linear(child) or width in (None, _width(child))]
    back = [key for key in back if not _INPUTS_OF_FEED_FORWARD.search(key)]
    last = _one_of(back, "projection back to the residual stream in its feed-forward part")
    if not _is_linear(parts[last]):
        raise _NotFound(f"{last!r} of its feed-forward part is no projection")
    first = where if where != path else f"{path}.{next(iter(parts))}"
    # The projection's own output: in Bloom the part as a whole returns the sum with the residual stream.
    last = f"{where}.{last}"
    return {"mlp_in": Site("", first, "input"), "mlp_act": Site("", last, "input"), "mlp_out": Site("", last)}


class _NotFound(Exception):
    """A part of a model is not there exactly once."""


def _one_of(found: list[str], what: str) -> str:
    if len(found) != 1:
        raise _NotFound(f"expected one {what}, found {', '.join(found) or 'none'}")
    return found[0]


def _is_stack(module: nn.Module) -> bool:
    if not isinstance(module, nn.ModuleList) or len(module) == 0:
        return False
    blocks: list[nn.Module | None] = [*module]  # diffusers leaves places of a list empty
    return all(
        block is not None and any(_names_attention(key) and [*c.children()] for key, c in block.named_children())
        for block in blocks
    )


def _names_attention(key: str) -> bool:
    return "attn" in key or "attention" in key


def _is_leaf(module: nn.Module) -> bool:
    return not any(True for _ in module.children())


def _is_part(module: nn.Module) -> bool:
    return not _is_leaf(module) and not _is_linear(module)


def _has_matrix(module: nn.Module) -> bool:
    return _is_linear(module) or any(p.ndim > 1 for p in module.parameters())


def _is_linear(module: nn.Module) -> bool:
    """Whether a module is one projection, be it one that an adapter was wrapped around (LoRA)."""
    weight = getattr(module, "weight", None)
    return (isinstance(weight, Tensor) and weight.ndim == 2) or isinstance(getattr(module, "out_features", None), int)


def _is_norm(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return _is_leaf(module) and isinstance(weight, Tensor) and weight.ndim == 1


def _width(linear: nn.Module) -> int | None:
    """Return how many outputs a projection has; GPT-2's stores its weight the other way round and calls them `nf`."""
    for name in ("out_features", "nf"):
        if isinstance(getattr(linear, name, None), int):
            return int(getattr(linear, name))
    return int(linear.weight.shape[0]) if isinstance(linear.weight, Tensor) else None
