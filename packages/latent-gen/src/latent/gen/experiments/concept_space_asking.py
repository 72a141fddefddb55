"""All ways in which the held-out class of circles is asked for, and two that must not help."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from latent.core.run.seed import generator
from latent.gen.elicitation import Family, Shift, concept_direction, latent_shift, naive, over_prompt
from latent.gen.methods.concept_space import ConceptGenerator
from latent.gen.worlds.circles import Circles

__all__ = ["ASKED", "HELD", "embedding_moves", "ways_of_asking"]

HELD = "11"
ASKED = ("00", "01", "10", HELD)


def ways_of_asking(
    model: ConceptGenerator,
    world: Circles,
    *,
    over: Sequence[float],
    alphas: Sequence[float],
    draws: int,
    seed: int,
    step: int,
) -> list[Family]:
    """Return all ways of asking for the held-out class.

    Args:
        model: The generator.
        world: Its circles.
        over: Exaggerated colours; those within the world's are left out.
        alphas: Strengths of latent shifts.
        draws: Random directions from each trained neighbour.
        seed: Of the noise that directions are measured under, and of random ones.
        step: Updates made, which that noise depends on too.
    """
    prompts = {each: world.prompt(each) for each in ASKED}
    more = [value for value in over if value > world.colour] or [(1 + world.colour) / 2]
    exaggerated = {f"{value:g}": world.prompt(HELD, colour=value) for value in more}
    # From each trained neighbour along the concept that it lacks.
    near = {"01": "10", "10": "01"}
    embedded, middle = (
        {each: (prompts[each], _direction(model, world, lacks, site, axis, seed, step))
         for each, lacks in near.items()}
        for site, axis in (("embed", -1), ("unet.mid_block", 1))
    )  # fmt: skip
    astray = {
        f"{each} {draw}": (prompt, _astray(shift, generator(seed, "random", step, each, draw)))
        for each, (prompt, shift) in embedded.items()
        for draw in range(draws)
    }
    return [
        naive(prompts[HELD]),
        over_prompt(exaggerated),
        latent_shift(embedded, alphas=alphas),
        latent_shift(middle, alphas=alphas, name="h-space"),
        over_prompt(_as_far(model, prompts[HELD], exaggerated), name="irrelevant"),
        latent_shift(astray, alphas=alphas, name="random"),
    ]


def _astray(shift: Shift, random: torch.Generator) -> Shift:
    """Return a shift of the same length in a random direction."""
    drawn = torch.randn(len(shift.vector), generator=random).to(shift.vector)
    return Shift(shift.site, shift.vector.norm() * drawn / drawn.norm(), shift.axis)


@torch.no_grad()
def _as_far(model: ConceptGenerator, prompt: Tensor, others: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return prompts that say something of the background, which is never said, and nothing else of what is asked.

    Each moves the embedding as far as one of the others does: how much is said is found by halving.
    """
    device = next(model.parameters()).device
    unsaid = torch.eye(len(prompt), device=device)[-1]
    plain = prompt.to(device)

    def moved(prompts: Tensor) -> Tensor:
        distance: Tensor = (model.denoiser.embed(prompts) - model.denoiser.embed(plain[None])).norm(dim=1)
        return distance

    wanted = moved(torch.stack(list(others.values())).to(device))
    low, high = torch.zeros_like(wanted), torch.ones_like(wanted)
    for _ in range(20):
        high = torch.where(moved(plain + high[:, None] * unsaid) < wanted, 2 * high, high)
    for _ in range(30):
        middle = (low + high) / 2
        near = moved(plain + middle[:, None] * unsaid) < wanted
        low, high = torch.where(near, middle, low), torch.where(near, high, middle)
    return {key: prompt + value * unsaid.cpu() for key, value in zip(others, high.cpu(), strict=True)}


@torch.no_grad()
def embedding_moves(model: ConceptGenerator, family: Family, plain: Tensor) -> Tensor:
    """Return how far attempts move the embedding: of the plain prompt, or of their own where they shift it."""
    device = next(model.parameters()).device
    moves = []
    for attempt in family.attempts:
        shift = attempt.shift
        if shift is None:
            both = torch.stack([attempt.prompt, plain]).to(device)
            moves.append(model.denoiser.embed(both).diff(dim=0).norm())
        else:
            moves.append(shift.vector.norm().to(device) if shift.site == "embed" else torch.full((), torch.nan))
    return torch.stack([each.float().cpu() for each in moves])


def _direction(
    model: ConceptGenerator, world: Circles, combination: str, site: str, axis: int, seed: int, step: int
) -> Shift:
    """Return the shift from class 00 to a class that differs from it in one concept, at random noise levels."""
    rows, device = 64, next(model.parameters()).device

    def call(each: str) -> object:
        # The same noise, levels, positions and backgrounds for both.
        random = generator(seed, "direction", step)
        clean = world.render(world.draw_class(each, rows, generator=random)).to(device)
        noise = model.start(rows, generator=random)
        times = torch.randint(model.sampler.levels, (rows,), generator=random).to(device)
        told = world.prompt(each).to(device).expand(rows, -1)
        return model.denoiser(model.sampler.noisy(model.squares(clean), noise, times), times, told)

    return concept_direction(model.denoiser, site, on=lambda: call(combination), off=lambda: call("00"), axis=axis)
