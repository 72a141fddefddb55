"""Hand-overs that a team is compared with: caches that are lost, mixed up or read again, and careless padding."""

from collections.abc import Sequence
from dataclasses import replace

from latent.core.activations.decode import Memory, prefill
from latent.reason.methods.latentmas import LatentMAS
from latent.reason.methods.roles import Role
from latent.reason.reasoner import Generators, Prompts
from latent.reason.trace import Budget, Trace

__all__ = ["PaddedRight", "dropped", "one_agent", "reencoded", "stranger"]


def one_agent(roles: Sequence[Role]) -> Role:
    """Return the role of a single agent that is told at once what each of `roles` is told."""

    def everything(question: str) -> str:
        return "\n\n".join(role.message(question, others=place > 0) for place, role in enumerate(roles))

    return Role(name="one", task="{question}", view=everything)


def dropped(team: LatentMAS, prompts: Sequence[str], budget: Budget, generator: Generators) -> list[Trace]:
    """Answer with nothing of what the others have found."""
    return team.conclude(prompts, None, budget=budget, generator=generator)


def stranger(
    team: LatentMAS, prompts: Sequence[str], budget: Budget, generator: Generators, *, others: Sequence[str]
) -> list[Trace]:
    """Answer each prompt on top of the cache of another one, that of the same place in `others`."""
    return team.conclude(prompts, team.memory(others), budget=budget, generator=generator)


def reencoded(team: LatentMAS, prompts: Sequence[str], budget: Budget, generator: Generators) -> list[Trace]:
    """Answer on top of a cache that was thrown away and made again of everything that had been read."""
    memory = team.memory(prompts)
    model = team.backbone.model
    again = prefill(model, vectors=memory.inputs(model), mask=memory.mask)
    again = replace(again, ledger=memory.ledger + again.ledger)
    return team.conclude(prompts, again, budget=budget, generator=generator)


class PaddedRight(LatentMAS):
    """A team whose messages are padded on the right, where the padding is read as if it were text."""

    def read(self, texts: Sequence[str], *, memory: Memory | None = None) -> Memory:
        """Read texts with the padding after them, so that column -1 is that of a pad."""
        given = Prompts.of(self.backbone, texts)
        order = given.mask.argsort(dim=1, descending=True, stable=True)
        return prefill(self.backbone.model, given.ids.gather(1, order), memory=memory)
