"""What an answer is worth: 0 when it is accepted in full, down to -1 when it is not."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latent.core.activations.decode import Ledger, decode, prefill
from latent.core.errors import ConfigError, ShapeError
from latent.core.language import Backbone
from latent.reason.data.problem import Problem, Problems
from latent.reason.reasoner import Prompts, Reasoner, name_of, rendered, texts_of
from latent.reason.trace import Cost

__all__ = ["CHECKS", "Check", "ExactReward", "Reward", "Rewarded", "SelfReward", "constant", "rated"]

Reward = Callable[[Sequence[str], Sequence[str]], Tensor]
"""Is given prompts and the answers to them and returns float `(batch,)` in [-1, 0]; a row depends on itself alone."""

_VERDICT = re.compile(r"\b(yes|no)\b", re.IGNORECASE)


def rated(reward: Reward, prompts: Sequence[str], texts: Sequence[str]) -> list[float]:
    """Return the rewards of texts.

    Raises:
        ShapeError: There is not one reward for each text.
        ConfigError: A reward is not in [-1, 0]: a positive one would hold a search where it is.
    """
    given = reward(prompts, texts).detach().float().cpu()
    if given.shape != (len(texts),):
        raise ShapeError(
            f"The reward returned {tuple(given.shape)} for {len(texts)} texts.", hint="Return one number for each."
        )
    if not bool(((given >= -1) & (given <= 0)).all()):
        raise ConfigError(
            f"Rewards lie between {float(given.min()):g} and {float(given.max()):g}; expected -1 to 0.",
            hint="0 is the best answer; subtract the greatest reward and divide by the range.",
        )
    found: list[float] = given.tolist()
    return found


def constant(value: float = -1.0) -> Reward:
    """Return a reward that knows nothing: the same for every text."""
    return lambda prompts, texts: torch.full((len(texts),), value)


@dataclass(frozen=True)
class ExactReward:
    """The verifier that knows the answers (the paper's PSRM): 0 for a right answer, -1 for another.

    Attributes:
        problems: With the answers; a question that stands there twice has one answer.

    Raises:
        ConfigError: A question has two answers that are not the same.
    """

    problems: Problems

    def __post_init__(self) -> None:
        """Refuse a question with two answers: which of them a prompt asks for cannot be told."""
        known: dict[str, Problem] = {}
        for item in self.problems.items:
            first = known.setdefault(item.question, item)
            if first.answer != item.answer and not self.problems.correct(first, item.answer):
                raise ConfigError(
                    f"{item.question!r} has the answers {first.answer!r} and {item.answer!r} in {self.problems.name}; "
                    "expected one answer to each question.",
                    hint="Remove one of the two problems, or tell their questions apart.",
                )

    def __call__(self, prompts: Sequence[str], texts: Sequence[str]) -> Tensor:
        """Return the rewards of texts.

        Raises:
            ConfigError: A prompt is no question of the problems.
        """
        known: dict[str, Problem] = {item.question: item for item in self.problems.items}
        if unknown := [prompt for prompt in prompts if prompt not in known]:
            raise ConfigError(
                f"{unknown[0]!r} is no question of {self.problems.name}.", hint="Reward the problems that are asked."
            )
        right = [
            self.problems.correct(known[prompt], self.problems.extract(text))
            for prompt, text in zip(prompts, texts, strict=True)
        ]
        return torch.tensor(right).float() - 1


@dataclass(frozen=True)
class Check:
    """A question about an answer that is answered with yes or no.

    Attributes:
        name: Of the check.
        weight: What failing it costs, relative to the others.
        question: What is asked.
    """

    name: str
    weight: float
    question: str


#: The four checks and weights of the official code, in our words.
CHECKS = (
    Check("calculation", 2.0, "Check every calculation of the answer. Is each of them right?"),
    Check("completeness", 2.0, "Does the answer go through to the end and state a final result?"),
    Check("answer", 1.0, "Solve the problem yourself. Is the final result of the answer right?"),
    Check("understanding", 1.0, "Does the answer deal with what the problem asks, with all that is given?"),
)


class SelfReward:
    """The model judges answers itself: minus the weighted share of failed checks.

    The judge writes greedily, so that the same answer always gets the same reward. A check without a verdict fails,
    that of a judge who was cut off before it included.

    Args:
        backbone: The model.
        checks: What is asked about an answer.
        tokens: Tokens that the judge writes at most.

    Attributes:
        costs: What each row of the last call took.

    Raises:
        ConfigError: There is no check, one has no weight, or the judge may not write.
    """

    def __init__(self, backbone: Backbone, *, checks: Sequence[Check] = CHECKS, tokens: int = 512) -> None:
        if not checks or min(check.weight for check in checks) <= 0 or tokens < 1:
            raise ConfigError("A judge needs checks of positive weight, and a token to write.", hint="Use CHECKS.")
        self.backbone = backbone
        self.checks = tuple(checks)
        self.tokens = tokens
        self.costs: list[Cost] = []

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str], texts: Sequence[str]) -> Tensor:
        """Return the rewards of texts."""
        failed = torch.zeros(len(texts))
        spent = Ledger.empty(len(texts), self.backbone.device)
        for check in self.checks:
            asked = [self._asked(check, *each) for each in zip(prompts, texts, strict=True)]
            given = Prompts.of(self.backbone, asked)
            memory = prefill(self.backbone.model, given.ids, given.mask)
            judged = decode(self.backbone.model, memory, max_new_tokens=self.tokens, stop=self.backbone.ends.tolist())
            failed += check.weight * torch.tensor([not _approves(text) for text in texts_of(self.backbone, judged)])
            spent = spent + judged.memory.ledger
        self.costs = Cost.of(spent)
        return -failed / sum(check.weight for check in self.checks)

    def _asked(self, check: Check, prompt: str, text: str) -> str:
        content = (
            f"Problem:\n{prompt}\n\nAnswer to be judged:\n{text}\n\n{check.question}\n"
            "Give your reasons in short, then end with one word, yes or no."
        )
        return rendered(self.backbone, {"role": "user", "content": content})


def _approves(text: str) -> bool:
    """Return whether the last verdict in a text is yes."""
    found = _VERDICT.findall(text)
    return bool(found) and found[-1].lower() == "yes"


class Rewarded(Reasoner):
    """A way to answer that asks a reward how good its texts are."""

    reward: Reward

    @property
    def parts(self) -> Mapping[str, str]:
        """The reward too."""
        return {**super().parts, "reward": name_of(self.reward)}

    @property
    def knows_answers(self) -> bool:
        """Whether the reward does."""
        return isinstance(self.reward, ExactReward)
