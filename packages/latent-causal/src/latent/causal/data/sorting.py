"""Six letters of three kinds, and a small real model that writes them in order.

The model (`models/gpt_nano_sort` in the folder that `LATENT_DATA` names; Bycroft 2023, MIT) is a GPT-2 of 86 thousand
weights. What it is given are tokens 0, 1, 2 in any order and the sorted ones so far; it answers with the next one.
All that the answer depends on are two counts:

    answer k = 0 if k < zeros else 1 if k < zeros + ones else 2

so that much is known about it that no search has to take on trust.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from latent.causal.mediation.pairs import CausalModel, Pairs, Variables
from latent.core.data import data_file
from latent.core.errors import ConfigError, FormatError
from latent.core.run.seed import generator, isolated

__all__ = ["LENGTH", "every_input", "load_sorter", "sorting", "sorting_pairs", "split_inputs"]

#: Letters of an input.
LENGTH = 6
_KINDS = 3


def load_sorter(folder: Path | None = None, *, device: torch.device | str = "cpu") -> nn.Module:
    """Return the model, frozen and in evaluation mode.

    Args:
        folder: Where it lies; None for `models/gpt_nano_sort` of `LATENT_DATA`.
        device: Where to put it.

    Raises:
        ConfigError: `LATENT_DATA` is not set, or the model is not there.
        FormatError: The folder holds no causal language model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForCausalLM

    place = folder or data_file("models/gpt_nano_sort/config.json").parent
    try:
        with isolated(0, "sorter"):  # weights are drawn before they are read
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(place))
        model.load_state_dict(load_file(place / "model.safetensors"))
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise FormatError(f"{place} holds no causal language model: {reason}", hint="Copy it again.") from None
    frozen: nn.Module = model.to(device).eval().requires_grad_(requires_grad=False)
    return frozen


def every_input() -> Tensor:
    """Return all inputs, int64 `(729, 6)`."""
    return torch.cartesian_prod(*[torch.arange(_KINDS)] * LENGTH)


def split_inputs(share: float, *, seed: int) -> tuple[Tensor, Tensor]:
    """Return numbers of inputs to search on and of the others, to test on, int64: pairs are made within each part.

    Args:
        share: Share of the inputs that is searched on.
        seed: Names the draw.

    Raises:
        ConfigError: One of the parts would have fewer than two inputs.
    """
    every = _KINDS**LENGTH
    cut = round(share * every)
    if not 2 <= cut <= every - 2:
        raise ConfigError(f"share={share} of {every} inputs leaves a part with fewer than two.", hint="Use share=0.5.")
    order = torch.randperm(every, generator=generator(seed, "sorting", "inputs"))
    return order[:cut].sort().values, order[cut:].sort().values


def sorting(place: int) -> CausalModel:
    """Return the causal model of the answer at a place, from 0: `letters` `(rows, 6)`, all variables int64 `(rows,)`.

    Raises:
        ConfigError: The place is not one of the six.
    """
    if not 0 <= place < LENGTH:
        raise ConfigError(f"place={place} is not between 0 and {LENGTH - 1}.", hint="Use place=2.")

    def answer(values: Variables) -> Tensor:
        return (place >= values["zeros"]).long() + (place >= values["zeros"] + values["ones"]).long()

    return CausalModel(
        {
            "zeros": lambda values: (values["letters"] == 0).sum(1),
            "ones": lambda values: (values["letters"] == 1).sum(1),
            "answer": answer,
        }
    )


def sorting_pairs(
    place: int, *, seed: int, count: int | None = None, name: str = "pairs", among: Tensor | None = None
) -> Pairs:
    """Return minimal pairs: inputs that differ in one letter, and for which the answer at a place differs.

    Base and source are also given the same sorted letters before that place, `place` of them, so that nothing else
    differs. After the interchange of all that matters the answer should be that of the source.

    Args:
        place: Which answer, from 0.
        seed: Names the draw.
        count: How many; None for all there are, in the order of `every_input`.
        name: Names the stream that they are drawn from.
        among: Numbers of the inputs that base and source are among, int64 `(inputs,)`; None for all.

    Raises:
        ConfigError: The place is not one of the six, or there are fewer pairs.
    """
    model, letters = sorting(place), every_input() if among is None else every_input()[among]
    ordered, answers = letters.sort(1).values, model.run({"letters": letters})["answer"]
    one_apart = (letters.unsqueeze(1) != letters.unsqueeze(0)).sum(2) == 1
    same_before = (ordered[:, None, :place] == ordered[None, :, :place]).all(2)
    base, source = (one_apart & same_before & (answers.unsqueeze(1) != answers)).nonzero(as_tuple=True)
    if count is not None:
        if not 1 <= count <= len(base):
            raise ConfigError(f"There are {len(base)} pairs, asked for {count}.", hint="Leave count out for all.")
        drawn = torch.randperm(len(base), generator=generator(seed, "sorting", name))[:count]
        base, source = base[drawn], source[drawn]
    asked = [torch.cat([letters[rows], ordered[base, :place]], 1) for rows in (base, source)]
    first, second = ({"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in asked)
    return Pairs(
        first,
        second,
        labels=answers[source],
        base_labels=answers[base],
        source_labels=answers[source],
        values=answers[source],
    )
