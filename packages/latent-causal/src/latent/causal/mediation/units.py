"""Units: what is intervened on, a weight on coordinates of a site.

A `Place` is a site, a position and a featurizer; the units of several places are numbered in one row, so that every
search gives one number to each and every circuit is a vector of weights, whatever the units are.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args, overload

import torch
from torch import Tensor, nn

from latent.causal.mediation.calls import Call, Inputs, Runnable, call_of, take
from latent.causal.mediation.featurizers import Directions, Features, Featurizer, Heads, Neurons, Span, Whole
from latent.core.activations import Dictionary, Direction, Subspace, capture
from latent.core.activations.directions import locate
from latent.core.errors import ConfigError, ShapeError, UnknownName

__all__ = ["Kind", "Place", "Units", "units"]

Kind = Literal["layer", "head", "neuron", "direction", "subspace", "feature"]

_USUAL: Mapping[str, str] = {
    "layer": "layers.*.resid_post", "head": "layers.*.attn_heads", "neuron": "layers.*.mlp_act",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Place:
    """Where units are.

    Attributes:
        site: Site of the model, as the engine of activations names it.
        featurizer: Whose coordinates the units are.
        position: Place among the real tokens of a row, from 0, or from the end if negative; None for every token, and
            for sites without tokens.
    """

    site: str
    featurizer: Featurizer
    position: int | None = None

    @property
    def name(self) -> str:
        """The site with its position, such as `layers.2.mlp_act @5`."""
        return self._at(self.site)

    @property
    def names(self) -> list[str]:
        """Names of the units, such as `layers.2.mlp_act[17] @5`."""
        return [self._at(self.site + self.featurizer.label(unit)) for unit in range(self.featurizer.units)]

    def _at(self, what: str) -> str:
        return what if self.position is None else f"{what} @{self.position}"


class Units(Sequence[str]):
    """Units of several places, numbered place after place; as a sequence, their names.

    Args:
        places: Where they are. Places that share a site and a position are edited in this order.
        kind: What they are called in results.

    Attributes:
        places: The places.
        kind: What the units are.

    Raises:
        ConfigError: There is no place.
    """

    def __init__(self, places: Iterable[Place], kind: str = "unit") -> None:
        self.places = tuple(places)
        self.kind = kind
        if not self.places:
            raise ConfigError("There are no units without a place.", hint="Use units(model, kind, inputs=...).")
        self._sizes = [place.featurizer.units for place in self.places]

    @cached_property
    def _names(self) -> list[str]:
        return [name for place in self.places for name in place.names]  # there may be many, and a pass needs none

    def __len__(self) -> int:
        return sum(self._sizes)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        return self._names[index]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __add__(self, other: "Units") -> "Units":
        """Return the units of both, those of `other` numbered after these."""
        kind = self.kind if self.kind == other.kind else f"{self.kind} and {other.kind}"
        return Units([*self.places, *other.places], kind)

    def number(self, name: str) -> int:
        """Return the number of the unit with this name.

        Raises:
            UnknownName: There is none.
        """
        if name not in self._names:
            raise UnknownName.of("unit", name, self._names)
        return self._names.index(name)

    @property
    def sites(self) -> dict[str, Tensor]:
        """For each site the numbers of its units, int64 `(k,)`."""
        found: dict[str, list[Tensor]] = {}
        for place, numbers in zip(self.places, torch.arange(len(self)).split(self._sizes), strict=True):
            found.setdefault(place.site, []).append(numbers)
        return {site: torch.cat(numbers) for site, numbers in found.items()}

    def split(self, weights: Tensor) -> tuple[Tensor, ...]:
        """Return the weights of each place, `(..., its units)`, of weights `(..., units)`.

        Raises:
            ShapeError: There is not one weight for each unit.
        """
        if weights.ndim == 0 or weights.shape[-1] != len(self):
            raise ShapeError(
                f"Given weights of shape {tuple(weights.shape)} for {len(self)} units of kind {self.kind!r}.",
                hint="The last axis is the units: torch.zeros(len(units)).",
            )
        return weights.split(self._sizes, dim=-1)

    def size(self, chosen: Tensor | None = None) -> float:
        """Return the share of the units that are chosen; along directions, that of the dimensions of their sites.

        Args:
            chosen: bool `(units,)`; default: all.
        """
        chosen = torch.ones(len(self), dtype=torch.bool) if chosen is None else chosen
        if not all(isinstance(place.featurizer, (Directions, Span)) for place in self.places):
            return float(chosen.double().mean())
        parts = zip(self.places, self.split(chosen), strict=True)
        inside = sum(float(place.featurizer.spread(part.double()).sum()) for place, part in parts)
        return inside / sum(place.featurizer.width for place in self.places)

    def part(self, places: Sequence[int]) -> "Units":
        """Return the units of some places, by the numbers of the places."""
        return Units([self.places[place] for place in places], self.kind)


def units(
    model: Runnable,
    kind: Kind,
    *,
    inputs: Inputs,
    sites: str | Iterable[str] | None = None,
    positions: int | Iterable[int] | None = None,
    heads: int | None = None,
    vectors: Tensor | Direction | Subspace | None = None,
    dictionary: Dictionary | None = None,
    latents: Sequence[int] | None = None,
    transfer: bool = False,
) -> Units:
    """Return all units of one kind at some sites and positions.

    Args:
        model: A model, see `call_of`.
        kind: `"layer"`: the whole vector of a site; `"head"`, `"neuron"`; `"direction"`, `"subspace"`: along `vectors`;
            `"feature"`: latents of a `dictionary`.
        inputs: A batch from which the widths of the sites are learned; its first row is run.
        sites: Names or patterns; default: where a language model has units of this kind, or where a `Direction` or
            `Subspace` was found.
        positions: One or several positions, each with its own units; None: one unit for all tokens.
        heads: Attention heads; default: what the model's config says.
        vectors: Orthogonal directions `(units, width)`, or rows that span a subspace.
        dictionary: A sparse autoencoder.
        latents: Those of its latents that are units; default: all.
        transfer: Allow a `Direction` or `Subspace` of another model or site.

    Raises:
        UnknownName: The model has no such site.
        ConfigError: There is no such kind, or something that it needs is missing.
        ShapeError: A site has no vectors, or of another width than was given.
        ProvenanceError: A `Direction` or `Subspace` is of another model or site, and `transfer` is not set.
    """
    if kind not in get_args(Kind):
        raise ConfigError(f"kind={kind!r} is none of {', '.join(get_args(Kind))}.", hint="Use kind='neuron'.")
    call = call_of(model)
    origin = vectors.config if isinstance(vectors, (Direction, Subspace)) else None
    wanted = sites or (origin.site if origin and origin.site else _USUAL.get(kind, ""))
    if not wanted:
        raise ConfigError(f"It is not known at which site the {kind}s are.", hint="Pass sites='layers.3.resid_post'.")
    names = call.sites(wanted)
    if origin is not None:
        for name in names:
            locate(call.model, name, origin, origin=origin.site, transfer=transfer)
    rows = (
        vectors.unit if isinstance(vectors, Direction) else vectors.basis if isinstance(vectors, Subspace) else vectors
    )
    given: dict[str, Any] = {"heads": heads, "vectors": rows, "dictionary": dictionary, "latents": latents}
    where: list[int | None] = [None] if positions is None else _positions(positions)
    places = []
    for name, vector in _vectors(call, names, inputs).items():
        featurizer = _featurizer(kind, call, name, vector.shape[-1], **given).to(vector.device)
        places += [Place(name, featurizer, position) for position in where]
    return Units(places, kind)


def _positions(positions: int | Iterable[int]) -> list[int | None]:
    found = [positions] if isinstance(positions, int) else list(positions)
    if not found or len(set(found)) < len(found):
        raise ConfigError(
            f"Positions are different whole numbers, given {found}.", hint="Leave them out for all tokens."
        )
    return [int(position) for position in found]


def _vectors(call: Call, names: Sequence[str], inputs: Inputs) -> dict[str, Tensor]:
    """Return what stands at each site for the first row of inputs."""
    first = take(inputs, torch.zeros(1, dtype=torch.long))
    with torch.no_grad(), capture(call.root, names) as seen:
        call(first)
    found = {name: seen[name] for name in names}
    for name, tensor in found.items():
        if tensor.ndim not in (2, 3) or not tensor.is_floating_point():
            raise ShapeError(
                f"Site {name!r} carries {str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}; expected "
                "vectors (rows, width) or (rows, time, width).",
                hint="Choose another site.",
            )
    return found


def _featurizer(
    kind: str,
    call: Call,
    site: str,
    width: int,
    *,
    heads: int | None,
    vectors: Tensor | None,
    dictionary: Dictionary | None,
    latents: Sequence[int] | None,
) -> Featurizer:
    """Return what makes units of a kind of the vectors of a site."""
    if kind == "layer":
        return Whole(width)
    if kind == "neuron":
        return Neurons(width)
    if kind == "head":
        return Heads(width, heads or _heads(call.model))
    if kind == "feature":
        if dictionary is None:
            raise ConfigError("Features are those of a dictionary.", hint="Pass dictionary=, a SparseAutoencoder.")
        return Features(dictionary, width, latents)
    if vectors is None:
        raise ConfigError(f"A {kind} is given by its vectors.", hint="Pass vectors=, floating (rows, width).")
    if vectors.shape[-1] != width:
        raise ShapeError(
            f"Site {site!r} has width {width}, the vectors {tuple(vectors.shape)}.",
            hint="Use vectors that were found at this site of this model.",
        )
    return Directions(vectors) if kind == "direction" else Span(vectors)


def _heads(model: nn.Module) -> int:
    config: Any = getattr(model, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    found = getattr(config, "num_attention_heads", None)
    if not isinstance(found, int):
        raise ConfigError(f"A {type(model).__name__} does not say how many heads it has.", hint="Pass heads=8.")
    return found
