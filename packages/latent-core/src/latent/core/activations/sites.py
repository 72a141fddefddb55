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

_INPUTS_OF_ATTENTION = re.compile(r"(^|_)(q|k|v|kv|qkv|query|key|value|c_attn)(_|$)")
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
    pattern = re.compile("[^.]+".join(re.escape(part) for part in path.split("*")))
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


def _unknown(name: str, survey: "_Survey") -> list[Site]:
    canonical = survey.canonical
    known = [*canonical, *(path for path in survey.paths if path)]
    part = name.rsplit(".", 1)[-1]
    layer = re.fullmatch(r"layers\.(-?\d+)\.(\w+)", name)
    layers = len({key.split(".")[1] for key in canonical if key.startswith("layers.")})
    if layer and layer[2] in LAYER_SITES and layers:
        if int(layer[1]) in range(layers):
            raise UnknownName(
                f"Unknown site {name!r}: this layer's feed-forward part is a mixture of experts.",
                hint=f"Name a module inside {canonical[f'layers.{layer[1]}.mlp_in'].path!r} by its path.",
            )
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
        why_not: The reason when there are none.
        matches: The sites that names and patterns stood for.
    """

    def __init__(self, model: nn.Module) -> None:
        modules = dict(model.named_modules())
        self.paths = tuple(modules)
        self.canonical, self.why_not = _canonical(model, modules)
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


def _canonical(model: nn.Module, modules: Mapping[str, nn.Module]) -> tuple[dict[str, Site], str]:
    """Return the canonical sites, or none and the reason."""
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
        sites += _layer(f"layers.{index}", f"{stack}.{index}", block)
    trunk = stack.rpartition(".")[0]
    norms = [name for name, child in modules[trunk].named_children() if _is_norm(child) and "emb" not in name]
    sites += [Site("final_norm", f"{trunk}.{norms[0]}".lstrip("."))] if len(norms) == 1 else []
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


def _layer(name: str, path: str, block: nn.Module) -> list[Site]:
    """Find the sites of one layer by what its parts are."""
    parts = {key: child for key, child in block.named_children() if any(True for _ in child.children())}
    attention = _one_of(name, [key for key in parts if _names_attention(key)], "attention")
    projection = _one_of(
        name,
        [key for key, child in parts[attention].named_children() if _is_linear(child) and not _reads(key)],
        "output projection of attention",
    )
    rest = [key for key, child in parts.items() if key != attention and any(p.ndim > 1 for p in child.parameters())]
    norms = [key for key, child in block.named_children() if _is_norm(child)]
    after_mlp = [key for key in norms if re.match(r"post_(feedforward|mlp)", key)]
    # In Llama `post_attention_layernorm` stands before the feed-forward part; it follows attention where another norm
    # follows the feed-forward part, unless a third name says so itself (GLM-4).
    own = [key for key in norms if key.startswith("post_self_attn")]
    after_attention = own or [key for key in norms if after_mlp and key.startswith("post_attention")]
    out = f"{path}.{attention}.{projection}"
    sites = {
        "resid_pre": Site("", path, "input"),
        "attn_heads": Site("", out, "input"),
        # Where a norm follows (Gemma 2), what is added to the residual stream is the output of that norm.
        "attn_out": Site("", f"{path}.{after_attention[0]}" if after_attention else out),
    }
    sites |= _feed_forward(path, block, _one_of(name, rest, "feed-forward part") if rest else "", out)
    if after_mlp:
        sites["mlp_out"] = Site("", f"{path}.{after_mlp[0]}")
    sites["resid_post"] = Site("", path)
    return [replace(sites[key], name=f"{name}.{key}") for key in LAYER_SITES if key in sites]


def _feed_forward(path: str, block: nn.Module, part: str, attention_out: str) -> dict[str, Site]:
    """Find the sites of the feed-forward part, which may be the layer itself (OPT) or a mixture of experts."""
    inside = block.get_submodule(part) if part else block
    where = f"{path}.{part}" if part else path
    linears = [key for key, child in inside.named_children() if _is_linear(child)]
    if any(p.ndim > 2 for p in inside.parameters()) or any(isinstance(m, nn.ModuleList) for m in inside.modules()):
        return {"mlp_in": Site("", where, "input"), "mlp_out": Site("", where)}
    width = _width(block.get_submodule(attention_out.removeprefix(f"{path}.")))
    back = [key for key in linears if _width(inside.get_submodule(key)) == width]
    last = f"{where}.{back[0] if len(back) == 1 else linears[-1]}"
    first = where if part else f"{where}.{linears[0]}"
    # The projection's own output: in Bloom the part as a whole returns the sum with the residual stream.
    return {"mlp_in": Site("", first, "input"), "mlp_act": Site("", last, "input"), "mlp_out": Site("", last)}


def _one_of(layer: str, found: list[str], what: str) -> str:
    if len(found) != 1:
        raise LatentError(
            f"{layer}: expected one {what}, found {', '.join(found) or 'none'}.",
            hint="Name modules by their paths, with ':output'.",
        )
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


def _reads(key: str) -> bool:
    return _INPUTS_OF_ATTENTION.search(key) is not None


def _is_leaf(module: nn.Module) -> bool:
    return not any(True for _ in module.children())


def _is_linear(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return _is_leaf(module) and isinstance(weight, Tensor) and weight.ndim == 2


def _is_norm(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return _is_leaf(module) and isinstance(weight, Tensor) and weight.ndim == 1


def _width(linear: nn.Module) -> int | None:
    """Return how many outputs a projection has; GPT-2's stores its weight the other way round and calls them `nf`."""
    return getattr(linear, "out_features", None) or getattr(linear, "nf", None)
