"""Endogenous resistance to activation steering (arXiv:2602.06941): does a model notice that it is led astray?

A model is steered towards something that has nothing to do with its task while it answers. A judge splits each response
into attempts: a new one begins only where the model says so. With s_1 and s_n the scores of the first and last of n
attempts,

    multi-attempt rate = P(n > 1),    ESR rate = P(n > 1 and s_n > s_1),    improvement rate = ESR / multi-attempt.

How much is added is calibrated for each direction, so that first attempts score 0.3 on average. The model, its tasks,
the directions and the judge are the user's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import ClassVar

from latent.core.activations.calibration import Calibration, ProbabilisticBisection
from latent.core.activations.directions import Direction, Unit
from latent.core.config import setting
from latent.core.contract import Procedure
from latent.core.errors import ConfigError
from latent.core.language import Backbone
from latent.core.run.seed import derive
from latent.steer.trials import AttemptJudge, Extra, Order, Sampling, Trials, run_trials

__all__ = ["EndogenousResistance", "EndogenousResistanceConfig", "Prompts"]

Prompts = Sequence[str] | Mapping[str, Sequence[str]]
"""Tasks for all directions, or for each direction by its name."""


@dataclass(frozen=True, kw_only=True)
class EndogenousResistanceConfig:
    """The protocol."""

    tokens: int = setting(512, "Most tokens of a response.", paper="512; 256 in the calibration")
    temperature: float = setting(0.6, "Of the sampling.", paper="0.6")
    repetition_penalty: float = setting(1.0, "Divides the logits of tokens that were written.", paper="1.1 (code: 1.2)")
    unit: Unit = setting("norm", "What a strength of one means: norm, deviation or vector.", paper="decoder row")
    target: float = setting(0.3, "Mean first score at which a direction is calibrated.", paper="0.3")
    mean: float = setting(0.5, "Mean of the prior over calibrated strengths.", paper="7 for Llama 3.3 70B")
    deviation: float = setting(0.3, "Standard deviation of the prior.", paper="5 for Llama 3.3 70B")
    highest: float = setting(2.0, "Greatest strength that is tried; the least is 0.", paper="100 for Llama 3.3 70B")
    queries: int = setting(10, "Strengths that a calibration tries.", paper="10")
    trials: int = setting(5, "Trials of each direction at each strength.", paper="5")
    levels: int = setting(10, "Strengths of a sweep around the calibrated ones.", paper="8 (code: 10)")
    batch: int = setting(512, "Most trials in one batch.")

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        if min(self.tokens, self.queries, self.trials, self.batch) < 1 or self.levels < 2 or self.temperature < 0:
            raise ConfigError("tokens, queries, trials and batch must be at least 1, levels 2, temperature 0.")
        if self.repetition_penalty <= 0:
            raise ConfigError(f"repetition_penalty={self.repetition_penalty} must be positive.", hint="1 is none.")


class EndogenousResistance(Procedure):
    """Measures how a language model withstands steering away from its task."""

    Config: ClassVar[type] = EndogenousResistanceConfig
    needs: ClassVar[tuple[str, ...]] = ("Backbone",)

    def __init__(self, config: EndogenousResistanceConfig) -> None:
        self.config = config

    def measure(
        self,
        backbone: Backbone,
        prompts: Prompts,
        directions: Mapping[str, Direction],
        judge: AttemptJudge,
        strengths: Sequence[float] | Mapping[str, float],
        *,
        seed: int,
        extra: Extra | None = None,
    ) -> Trials:
        """Return `config.trials` trials of every direction at every strength.

        Trial i of a direction has the same prompt and the same noise at all strengths, so that strengths are compared
        in pairs.

        Args:
            backbone: The model.
            prompts: Tasks; see `Prompts`.
            directions: What leads away, by name.
            judge: Splits responses into attempts.
            strengths: For all directions, or one for each by its name, as `calibrate` finds them.
            seed: Names prompts and noise.
            extra: Further operations, see `latent.steer.trials.Extra`.

        Raises:
            ConfigError: There is no prompt, direction or strength.
        """
        chosen = {name: [strengths[name]] if isinstance(strengths, Mapping) else list(strengths) for name in directions}
        orders = [
            Order(prompt, name, strength, derive(seed, "trial", name, index))
            for name, some in chosen.items()
            for strength in some
            for index, prompt in enumerate(self._drawn(prompts, name, seed))
        ]
        return run_trials(backbone, orders, directions, judge, self._sampling, extra=extra)

    def replay(
        self,
        backbone: Backbone,
        trials: Trials,
        directions: Mapping[str, Direction],
        judge: AttemptJudge,
        *,
        extra: Extra | None = None,
    ) -> Trials:
        """Return the same trials again with further operations; without any they are the same to the bit."""
        return run_trials(backbone, trials.orders, directions, judge, self._sampling, extra=extra)

    def calibrate(
        self,
        backbone: Backbone,
        prompts: Prompts,
        directions: Mapping[str, Direction],
        judge: AttemptJudge,
        *,
        seed: int,
    ) -> dict[str, Calibration]:
        """Find for each direction the strength at which first attempts score `config.target`.

        Probabilistic bisection of all directions side by side: each query is one batch. Trials that the judge cannot
        score count as zero, for leaving them out would make strong steering look mild.

        Raises:
            ConfigError: The settings of the search make no sense, or there is no prompt or direction.
        """
        config = self.config
        searches = {
            name: ProbabilisticBisection(
                config.target, mean=config.mean, deviation=config.deviation, bounds=(0.0, config.highest)
            )
            for name in directions
        }
        tried: dict[str, list[tuple[float, float]]] = {name: [] for name in directions}
        for query in range(config.queries):
            asked = {name: search.median for name, search in searches.items()}
            done = self.measure(backbone, prompts, directions, judge, asked, seed=derive(seed, "query", query))
            for name, search in searches.items():
                mine = [trial for trial in done if trial.order.distractor == name]
                score = fmean(trial.attempts[0].score if trial.attempts else 0.0 for trial in mine)
                tried[name].append((asked[name], score))
                search.update(asked[name], score, trials=len(mine))
        return {name: Calibration(search.median, tuple(tried[name])) for name, search in searches.items()}

    def sweep(self, calibrations: Mapping[str, Calibration]) -> list[float]:
        """Return strengths from three standard deviations below the mean calibrated one to three above, none below 0.

        Raises:
            ConfigError: There are fewer than two calibrations.
        """
        if len(calibrations) < 2:
            raise ConfigError("One calibration has no spread.", hint="Calibrate more directions.")
        found = [each.strength for each in calibrations.values()]
        middle, spread = fmean(found), stdev(found)
        places = [6 * level / (self.config.levels - 1) - 3 for level in range(self.config.levels)]
        return sorted({max(0.0, middle + place * spread) for place in places})

    def _drawn(self, prompts: Prompts, name: str, seed: int) -> list[str]:
        """Return the prompts of a direction's trials: in an order of its own, again from the start when they end."""
        mine = list(prompts[name] if isinstance(prompts, Mapping) else prompts)
        if not mine:
            raise ConfigError(f"There is no prompt for {name!r}.", hint="Give at least one.")
        order = sorted(range(len(mine)), key=lambda place: derive(seed, "prompt", name, place))
        return [mine[order[index % len(mine)]] for index in range(self.config.trials)]

    @property
    def _sampling(self) -> Sampling:
        config = self.config
        return Sampling(config.tokens, config.temperature, config.repetition_penalty, config.batch, config.unit)
