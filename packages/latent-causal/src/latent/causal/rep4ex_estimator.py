"""Rep4Ex as an estimator: from tables of observations, actions and outcomes to outcomes of actions never tried."""

import copy
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, RegressorMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_array, check_is_fitted
from torch import Tensor

from latent.causal.arrays import Kind, matrix
from latent.causal.control_function import ControlFunction, ControlFunctionLearner, Do
from latent.causal.errors import DataError, DataWarning
from latent.causal.methods.rep4ex import Rep4ExConfig, Rep4ExLearner, Rep4ExModel
from latent.causal.moments import deviations, median_distance, moment_test
from latent.causal.rows import ShuffledRows
from latent.core.contract import Estimator
from latent.core.errors import ConfigError, UnknownName
from latent.core.metrics.stats import coefficient_of_determination
from latent.core.run.seed import derive, generator, isolated
from latent.core.run.training import fit_in_memory

__all__ = ["PENALTIES", "Rep4Ex", "canonical_correlations", "fit_control_function"]

#: Weights of the restriction that `penalty="auto"` tries, the first one for comparison.
PENALTIES = (0.0, 0.3, 1.0, 3.0, 10.0)
# Reconstruction may become worse by this factor (card of the method: 1.5 times that of a plain autoencoder).
_WORSE = 1.5
_HELD_OUT = 0.1


class Rep4Ex(ClassNamePrefixFeaturesOutMixin, TransformerMixin, RegressorMixin, BaseEstimator, Estimator):  # type: ignore[misc]  # scikit-learn has no types
    """Representation for intervention extrapolation.

    Args:
        latent_dim: Coordinates of the state, no more than the action has.
        action_columns: Columns of `X` that are actions, when `fit` is not given actions of their own; the form that
            pipelines and cross-validation of scikit-learn need.
        penalty: Weight of the restriction. `auto` takes the largest of `PENALTIES` with which reconstruction is at
            most 1.5 times as bad as without: too much of it and any uninformative state obeys.
        epochs: Passes through the rows, for the autoencoder.
        effect_epochs: For the regression; the best weights on held-out rows are kept.
        batch_size: Rows of a batch, two more at least than actions have coordinates: an affine map of the action
            explains fewer rows altogether, which leaves nothing to restrict.
        learning_rate: Of Adam.
        width: Width of the autoencoder's hidden layers.
        layers: Hidden layers of encoder and decoder.
        members: Networks of the regression's ensemble.
        minimum_overlap: `predict_do` refuses actions under which a smaller share of states is where training states
            are, `predict` tables of which a smaller share of rows is.
        weak_actions: What to do if the actions do not move every direction of the state, as far as these rows can
            tell: `refuse`, or `warn`.
        random_state: Seed.

    Attributes:
        model_: The model, which can be saved and published.
        penalty_: Weight of the restriction.
        reconstruction_: Share of the observations' variance that is lost, for each weight tried.
        canonical_correlations_: Between states and actions, the greatest first; a small one is a direction that the
            actions do not move.
        n_features_in_: Columns of `X`.

    Observations and actions are standardised in float64, so that their units and offsets do not matter; what follows
    is in float32.
    """

    def __init__(
        self,
        latent_dim: int = 2,
        *,
        action_columns: tuple[int, ...] = (),
        penalty: float | Literal["auto"] = "auto",
        epochs: int = 80,
        effect_epochs: int = 60,
        batch_size: int = 1000,
        learning_rate: float = 3e-3,
        width: int = 64,
        layers: int = 2,
        members: int = 5,
        minimum_overlap: float = 0.5,
        weak_actions: Literal["refuse", "warn"] = "refuse",
        random_state: int = 0,
    ) -> None:
        self.latent_dim = latent_dim
        self.action_columns = action_columns
        self.penalty = penalty
        self.epochs = epochs
        self.effect_epochs = effect_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.width = width
        self.layers = layers
        self.members = members
        self.minimum_overlap = minimum_overlap
        self.weak_actions = weak_actions
        self.random_state = random_state

    def __sklearn_tags__(self) -> Tags:
        """Say that outcomes may have several columns, and that a small table of noise is predicted badly."""
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.multi_output = True
        tags.regressor_tags.poor_score = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def fit(self, X: Any, y: Any = None, *, actions: Any = None) -> Self:
        """Fit the autoencoder, then the regression.

        Args:
            X: Observations `(samples, obs)`; with actions among them if `action_columns` names their columns.
            y: Outcomes `(samples,)` or `(samples, outputs)`.
            actions: Actions `(samples, action)`, set and not chosen in view of anything that moves the outcome.

        Raises:
            DataError: Tables do not fit together, or the actions move fewer directions than the state has.
            ConfigError: A setting is out of range.
        """
        self._check_settings()
        obs, action = self._split(X, actions, reset=True)
        outcome = self._outcomes(y, obs)
        if len(obs) < 10:
            raise DataError(
                f"n_samples={len(obs)} rows; a tenth is held out, and 10 is the least.", hint="Record more."
            )
        self._check_actions(action)
        config = Rep4ExConfig(
            obs_dim=obs.shape[1], latent_dim=self.latent_dim, action_dim=action.shape[1], outcome_dim=outcome.shape[1],
            width=self.width, layers=self.layers, members=self.members, kept=min(2000, len(obs)),
        )  # fmt: skip
        if self.batch_size < action.shape[1] + 2:
            raise ConfigError(
                f"batch_size={self.batch_size} for {action.shape[1]} coordinates of the action: an affine map of the "
                "action explains every batch.",
                hint=f"Use at least {action.shape[1] + 2}; some hundred are better.",
            )
        self._n_features_out = self.latent_dim
        self.model_, self.penalty_, self.reconstruction_ = self._represent(config, obs, action)
        with torch.no_grad():
            latent, action = self.model_.encode(obs), self.model_.standard_action(action)
        self.canonical_correlations_ = canonical_correlations(latent, action).tolist()
        self._check_strength(least=3 * (action.shape[1] / len(obs)) ** 0.5)
        self.model_.control.load_state_dict(
            fit_control_function(
                self.model_.control, latent, action, outcome, epochs=self.effect_epochs, batch_size=self.batch_size,
                seed=derive(self.random_state, "control function"),
            ).state_dict()
        )  # fmt: skip
        return self

    def transform(self, X: Any) -> Any:
        """Return the state of each row, `(samples, latent)`, up to an affine map."""
        check_is_fitted(self)
        obs, _ = self._split(X, None, reset=False, needed=False)
        with torch.no_grad():
            return Kind.of(X).give(self.model_.encode(obs))

    def predict(self, X: Any, actions: Any = None, *, outside: Literal["refuse", "warn"] = "refuse") -> Any:
        """Return the mean outcome of rows that were seen under these actions.

        Args:
            X: Observations, as in `fit`.
            actions: Actions, as in `fit`.
            outside: What to do if too few rows lie where training rows were: `refuse`, or `warn`.

        Raises:
            DataError: The share of rows that lie among training rows, by their state and by what the action does not
                explain of it, is below `minimum_overlap`. `model_.predict_do_given(...).overlap` has it row by row.
        """
        check_is_fitted(self)
        _check_outside(outside)
        obs, action = self._split(X, actions, reset=False)
        found = self.model_.predict_do_given(obs, action)
        far, share = (found.overlap == 0).nonzero().flatten().tolist(), float(found.overlap.mean())
        if share < self.minimum_overlap:
            _say(
                f"{len(far)} of {len(obs)} rows lie where no training rows are: the overlap is {share:.2f}, "
                f"minimum_overlap = {self.minimum_overlap} ({_first(far)}). What the outcome is there nobody saw.",
                outside,
                hint="Leave these rows out, or ask with outside='warn'.",
            )
        return self._outcome_like(Kind.of(X).give(found.mean))

    def score(self, X: Any, y: Any, actions: Any = None) -> float:
        """Return the R2 of `predict`, the mean over outcomes."""
        truth, predicted = (
            _numbers(value, name).cpu().reshape(len(value), -1)
            for value, name in ((y, "y"), (self.predict(X, actions), "predictions"))
        )
        if truth.shape != predicted.shape:
            raise DataError(f"y is {list(truth.shape)}, predictions are {list(predicted.shape)}.")
        return float(coefficient_of_determination(truth, predicted).mean())

    def predict_do(self, actions: Any, *, outside: Literal["refuse", "warn"] = "refuse") -> Do:
        """Return what would happen if an action was set, for each of some actions.

        Args:
            actions: Actions `(batch, action)`.
            outside: What to do about actions whose states lie where no training state was: `refuse` all, or `warn`.

        Raises:
            DataError: An action's overlap is below `minimum_overlap`.
        """
        check_is_fitted(self)
        _check_outside(outside)
        device = self.model_.obs_mean.device
        given = self._actions(actions, device, width=self.model_.config.action_dim)
        with torch.no_grad():
            found = self.model_.predict_do(given)
        far = (found.overlap < self.minimum_overlap).nonzero().flatten().tolist()
        if far:
            _say(
                f"{len(far)} of {len(given)} actions put too few states where training states are: the least "
                f"overlap is {float(found.overlap.min()):.2f}, minimum_overlap = {self.minimum_overlap} "
                f"({_first(far)}). What the outcome is there nobody saw.",
                outside,
                hint="Ask for actions nearer to those that were tried, or outside='warn'.",
            )
        give = Kind.of(actions).give
        mean, low, high = (self._outcome_like(give(value)) for value in (found.mean, found.low, found.high))
        return Do(mean, low, high, give(found.overlap))

    def mmr(self, X: Any, actions: Any = None, *, permutations: int = 200) -> tuple[float, float]:
        """Return the moment of the restriction on some rows, and a p-value for its being 0."""
        check_is_fitted(self)
        obs, action = self._split(X, actions, reset=False)
        with torch.no_grad():
            latent, action = self.model_.encode(obs), self.model_.standard_action(action)
            value, p = moment_test(latent, action, generator=self._generator("mmr"), permutations=permutations)
        return float(value), p

    # Parts of `fit` ---------------------------------------------------------------------------------------------------

    def _check_settings(self) -> None:
        for name in ("latent_dim", "epochs", "effect_epochs", "batch_size", "width", "members"):
            if not getattr(self, name) >= 1:
                raise ConfigError(f"{name} must be at least 1, given {getattr(self, name)!r}.")
        penalty: Any = self.penalty
        if penalty != "auto" and (isinstance(penalty, str) or not penalty >= 0):
            raise ConfigError(f"penalty={self.penalty!r} is neither auto nor a number of at least 0.")
        if not 0 <= self.minimum_overlap <= 1:
            raise ConfigError(f"minimum_overlap={self.minimum_overlap} is no share.")
        if self.weak_actions not in ("refuse", "warn"):
            raise UnknownName.of("weak_actions", self.weak_actions, ("refuse", "warn"))

    def _split(self, X: Any, actions: Any, *, reset: bool, needed: bool = True) -> tuple[Tensor, Tensor]:
        """Return observations and actions, float64."""
        table = matrix(X, self, reset=reset, rows=2 if reset else 1)
        width = table.shape[1]
        columns = [column % width for column in self.action_columns if -width <= column < width]
        if len(set(columns)) < len(self.action_columns):
            raise DataError(f"action_columns={self.action_columns} does not name different columns of {width}.")
        rest = [column for column in range(width) if column not in columns]
        if not rest:
            raise DataError(f"X has n_features={width}, all of them actions; at least one must be an observation.")
        if actions is not None and columns:
            raise DataError("Both actions and action_columns were given.", hint="Give one of them.")
        if actions is not None:
            action = self._actions(actions, table.device, width=None if reset else self.model_.config.action_dim)
            if len(action) != len(table):
                raise DataError(f"X has {len(table)} rows, actions has {len(action)}.")
            return table, action
        if needed and not columns:
            raise DataError(
                "There are no actions.",
                hint="Write fit(X, y, actions=A), or Rep4Ex(action_columns=(0, 1)).fit(table, y).",
            )
        return table[:, rest], table[:, columns]

    def _actions(self, actions: Any, device: torch.device, *, width: int | None) -> Tensor:
        """Return actions of `width` coordinates, None for any number."""
        given = _numbers(actions, "actions", dtype=torch.float64)
        if given.ndim != 2 or given.shape[1] != (width or max(1, given.shape[1])):
            raise DataError(
                f"actions is {list(given.shape)}; expected (samples, {width or 'action'}).",
                hint="For one coordinate write actions[:, None].",
            )
        return given.to(device)

    def _outcomes(self, y: Any, obs: Tensor) -> Tensor:
        if y is None:
            raise DataError("requires y to be passed, but the target y is None.")
        given = _numbers(y, "y")
        self._flat = given.ndim == 1
        outcome = (given[:, None] if self._flat else given).to(obs.device)
        if outcome.ndim != 2:
            raise DataError(f"y is {list(given.shape)}; expected (samples,) or (samples, outputs).")
        if len(outcome) != len(obs):
            raise DataError(f"X has {len(obs)} rows, y has {len(outcome)}.")
        return outcome

    def _outcome_like(self, value: Any) -> Any:
        """Return outcomes with as many axes as `y` had."""
        return value[:, 0] if self._flat else value

    def _check_actions(self, action: Tensor) -> None:
        if self.latent_dim > action.shape[1]:
            raise DataError(
                f"latent_dim={self.latent_dim} is more than the {action.shape[1]} coordinates of the action: "
                "directions that no action moves are not identified.",
                hint="Lower latent_dim, or record more actions.",
            )
        few = [column for column in range(action.shape[1]) if len(action[:, column].unique()) < 5]
        if few:
            warnings.warn(
                f"Columns {few} of the actions have fewer than 5 values; the state is identified only where actions "
                "fill an interval.",
                DataWarning,
                stacklevel=3,
            )

    def _check_strength(self, *, least: float) -> None:
        """Refuse actions that move fewer directions than the state has: `least` is beyond what chance correlates."""
        if self.canonical_correlations_[-1] >= least:
            return
        text = (
            f"The actions move fewer than {self.latent_dim} directions of the state: canonical correlations "
            f"{[round(value, 3) for value in self.canonical_correlations_]}, the last must be above {least:.3f}."
        )
        if self.weak_actions == "refuse":
            raise DataError(text, hint="Lower latent_dim, give stronger actions or more rows, or weak_actions='warn'.")
        warnings.warn(text, DataWarning, stacklevel=3)

    def _represent(
        self, config: Rep4ExConfig, obs: Tensor, action: Tensor
    ) -> tuple[Rep4ExModel, float, dict[float, float]]:
        """Train autoencoders and return the chosen one, its penalty and what each lost of the observations."""
        tried = PENALTIES if self.penalty == "auto" else (float(self.penalty),)
        lost, models = dict[float, float](), dict[float, Rep4ExModel]()
        for penalty in tried:
            models[penalty] = self._autoencoder(config, obs, action, penalty)
            with torch.no_grad():
                model = models[penalty]
                standard = model.standard_obs(obs)
                lost[penalty] = float((standard - model.decoder(model.encoder(standard))).square().mean())
            if lost[penalty] > _WORSE * lost[tried[0]]:
                break
        chosen = max(penalty for penalty in lost if lost[penalty] <= _WORSE * lost[tried[0]])
        return models[chosen], chosen, lost

    def _autoencoder(self, config: Rep4ExConfig, obs: Tensor, action: Tensor, penalty: float) -> Rep4ExModel:
        with isolated(self.random_state, "rep4ex"):
            model = Rep4ExModel(replace(config)).to(obs.device)
        model.obs_mean.copy_(obs.mean(dim=0))
        model.obs_scale.copy_(deviations(obs))
        model.action_mean.copy_(action.mean(dim=0))
        model.action_scale.copy_(deviations(action))
        bandwidth = median_distance(model.standard_action(action))
        learner = Rep4ExLearner(model, penalty=penalty, bandwidth=bandwidth, learning_rate=self.learning_rate)
        steps = self.epochs * max(1, len(obs) // self.batch_size)
        source = ShuffledRows({"obs": obs, "action": action}, rows=self.batch_size, drop_last=True)
        fit_in_memory(learner, source, steps=steps, seed=derive(self.random_state, "rows"), device=obs.device)
        return model.eval().requires_grad_(requires_grad=False)

    def _generator(self, *path: str) -> torch.Generator:
        return generator(self.random_state, "rep4ex", *path)


def _check_outside(outside: str) -> None:
    if outside not in ("refuse", "warn"):
        raise UnknownName.of("outside", outside, ("refuse", "warn"))


def _say(text: str, outside: str, *, hint: str) -> None:
    """Refuse or warn about what lies outside of what was seen, in the name of the caller's caller."""
    if outside == "refuse":
        raise DataError(text, hint=hint)
    warnings.warn(text, DataWarning, stacklevel=3)


def _first(rows: list[int]) -> str:
    return f"rows {', '.join(map(str, rows[:5]))}{' ...' if len(rows) > 5 else ''}"


def _numbers(given: Any, name: str, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return finite real numbers of any shape on their own device."""
    if not isinstance(given, Tensor):
        try:
            given = torch.from_numpy(
                check_array(given, dtype=np.float64, ensure_2d=False, allow_nd=True, input_name=name, copy=True)
            )
        except (TypeError, ValueError) as error:
            raise DataError(f"{name} are not finite numbers: {error}") from None
    if given.is_complex() or not bool(torch.isfinite(given).all()):
        raise DataError(f"{name} are complex, NaN or infinite; expected finite real numbers.")
    return given.detach().to(dtype)


def canonical_correlations(one: Tensor, other: Tensor) -> Tensor:
    """Return the canonical correlations of two tables of equally many rows, the greatest first, float64."""
    bases = [torch.linalg.qr(table.double() - table.double().mean(dim=0)).Q for table in (one, other)]
    correlations: Tensor = torch.linalg.svdvals(bases[0].mT @ bases[1]).clamp_max(1)
    return correlations


def fit_control_function(
    control: ControlFunction,
    latent: Tensor,
    action: Tensor,
    outcome: Tensor,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
) -> ControlFunction:
    """Return a fitted copy of a control function, whatever the states come from.

    Args:
        control: Its sizes and first weights.
        latent: States `(samples, latent)`.
        action: Actions `(samples, action)`.
        outcome: Outcomes `(samples, outputs)`.
        epochs: Passes through the rows.
        batch_size: Rows of a batch.
        seed: Seed of held-out rows, weights of the rows and batches.
    """
    control = copy.deepcopy(control).requires_grad_(requires_grad=True)
    order = torch.randperm(len(latent), generator=generator(seed, "held out")).to(latent.device)
    control.set_rows(latent[order], action[order], outcome[order])
    rows = {"latent": latent[order], "residual": control.residual(latent, action)[order], "outcome": outcome[order]}
    count = max(1, round(_HELD_OUT * len(latent)))
    held_out: Mapping[str, Tensor] = {name: value[:count] for name, value in rows.items()}
    members = control.effect.last.weight.shape[0]
    weight = -torch.rand(len(latent) - count, members, generator=generator(seed, "weights")).clamp_min(1e-9).log()
    seen = {name: value[count:] for name, value in rows.items()} | {"weight": weight.to(latent.device)}
    learner = ControlFunctionLearner(control, held_out)
    steps = epochs * max(1, (len(latent) - count) // batch_size)
    source = ShuffledRows(seen, rows=batch_size, drop_last=True)
    fit_in_memory(learner, source, steps=steps, seed=seed, device=latent.device)
    learner.finish()
    return control.requires_grad_(requires_grad=False)
