"""Linear probes: what can be read from a representation by a linear map, on rows that the map has not seen.

Every probe also fits the same labels shuffled among the rows. That control is what the probe's capacity gives on
nothing: a score means something by its distance from the control.
"""

from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy, one_hot

from latent.core.errors import ConfigError, ShapeError
from latent.core.metrics._rows import permutation
from latent.core.metrics.stats import coefficient_of_determination
from latent.core.typing import Float, Int, Tensor, checked

__all__ = ["LogisticProbe", "RidgeProbe", "logistic_probe", "ridge_probe"]


@dataclass(frozen=True, eq=False)
class RidgeProbe:
    """Result of `ridge_probe`.

    Attributes:
        score: Mean R2 over outputs, 0-d float64.
        per_output: R2 of each output, float64 `[outputs]`.
        control: Mean R2 with shuffled labels, 0-d float64: near 0 or below.
    """

    score: Tensor
    per_output: Tensor
    control: Tensor


@dataclass(frozen=True, eq=False)
class LogisticProbe:
    """Result of `logistic_probe`.

    Attributes:
        score: Accuracy on held-out rows, 0-d float64.
        control: The same with shuffled labels, 0-d float64: near chance.
        majority: Accuracy of always answering the most frequent training label, 0-d float64.
    """

    score: Tensor
    control: Tensor
    majority: Tensor


@checked
def ridge_probe(
    x: Float[Tensor, "samples features"],
    y: Float[Tensor, "samples outputs"],
    *,
    generator: torch.Generator,
    folds: int = 5,
    penalty: float = 1.0,
) -> RidgeProbe:
    """Return the cross-validated R2 of ridge regression from `x` to `y`.

    Each fold is predicted by the closed-form fit to the others; features are standardised by the fit rows alone. R2 is
    taken once over the predictions of all rows, so it does not depend on how a fold's own variance falls out.

    Args:
        x: Representation.
        y: Targets.
        generator: Source of the folds and of the shuffle.
        folds: Number of folds.
        penalty: Weight of the squared coefficients against the summed squared error (scikit-learn's `alpha`).

    Raises:
        ConfigError: If `penalty` is not positive or `folds` is not between 2 and the number of rows.
    """
    samples, outputs = y.shape
    if not 2 <= folds <= samples:
        raise ConfigError(f"folds={folds} is not between 2 and {samples}, the number of rows.", hint="Use folds=5.")
    _check_penalty(penalty)
    x, y = x.detach().double(), y.detach().double()
    order = permutation(samples, generator, x.device)
    # The shuffled labels are further outputs of the same fit: one factorisation serves both.
    targets = torch.cat([y, y[permutation(samples, generator, x.device)]], dim=1)
    predicted = torch.empty_like(targets)
    for held_out in order.tensor_split(folds):
        kept = torch.ones(samples, dtype=torch.bool, device=x.device)
        kept[held_out] = False
        predicted[held_out] = _ridge(x[kept], targets[kept], x[held_out], penalty)
    scores = coefficient_of_determination(targets, predicted)
    return RidgeProbe(scores[:outputs].mean(), scores[:outputs], scores[outputs:].mean())


@checked
def logistic_probe(
    x: Float[Tensor, "samples features"],
    labels: Int[Tensor, " samples"],
    *,
    generator: torch.Generator,
    held_out: float = 0.25,
    penalty: float = 1.0,
) -> LogisticProbe:
    """Return the held-out accuracy of multinomial logistic regression from `x` to `labels`.

    Args:
        x: Representation; standardised by the fit rows.
        labels: Class of each row, from 0.
        generator: Source of the split and of the shuffle.
        held_out: Share of rows that is scored and not fit.
        penalty: Half of it weighs the squared coefficients against the summed loss (scikit-learn's `1 / C`).

    Raises:
        ConfigError: If `penalty` is not positive, or `held_out` leaves no row to fit or to score.
        ShapeError: If a label is negative or all labels are equal.
    """
    samples = x.shape[0]
    scored = round(samples * held_out)
    if not 0 < scored < samples:
        raise ConfigError(f"held_out={held_out} of {samples} rows leaves none to fit or to score.", hint="Use 0.25.")
    _check_penalty(penalty)
    low, high = labels.min().item(), labels.max().item()
    if low < 0 or low == high:
        raise ShapeError(f"labels range from {low} to {high}; expected at least two classes, counted from 0.")
    x, labels = x.detach().double(), labels.long()
    order = permutation(samples, generator, x.device)
    test, train = order[:scored], order[scored:]
    shuffled = labels[permutation(samples, generator, x.device)]
    score, control = (
        (_logistic(x[train], y[train], x[test], int(high) + 1, penalty) == y[test]).double().mean()
        for y in (labels, shuffled)
    )
    return LogisticProbe(score, control, (labels[test] == labels[train].mode().values).double().mean())


def _ridge(x: Tensor, y: Tensor, unseen: Tensor, penalty: float) -> Tensor:
    """Fit ridge regression to `x`, `y` and predict the `unseen` rows."""
    x, unseen = _standardise(x, unseen)
    offset = y.mean(dim=0)
    samples, features = x.shape
    eye = torch.eye(min(samples, features), dtype=x.dtype, device=x.device)
    if features <= samples:
        weight = torch.linalg.solve(x.mT @ x + penalty * eye, x.mT @ (y - offset))
    else:  # the same weight by the push-through identity, with a smaller system
        weight = x.mT @ torch.linalg.solve(x @ x.mT + penalty * eye, y - offset)
    predicted: Tensor = unseen @ weight + offset
    return predicted


def _logistic(x: Tensor, labels: Tensor, unseen: Tensor, classes: int, penalty: float) -> Tensor:
    """Fit multinomial logistic regression by L-BFGS and return the predicted class of the `unseen` rows."""
    x, unseen = _standardise(x, unseen)
    weight = torch.zeros(x.shape[1], classes, dtype=x.dtype, device=x.device)
    bias = torch.zeros(classes, dtype=x.dtype, device=x.device)
    truth = one_hot(labels, classes).to(x.dtype)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=300, tolerance_grad=1e-8, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        # The gradient by hand: two lines, and it also works where the caller has switched autograd off.
        logits = x @ weight + bias
        error = (logits.softmax(dim=1) - truth) / len(x)
        weight.grad, bias.grad = x.mT @ error + weight * (penalty / len(x)), error.sum(dim=0)
        return cross_entropy(logits, labels) + weight.square().sum() * (penalty / 2 / len(x))

    optimiser.step(loss)
    return (unseen @ weight + bias).argmax(dim=1)


def _standardise(x: Tensor, unseen: Tensor) -> tuple[Tensor, Tensor]:
    """Give the fit rows zero mean and unit variance and apply the same map to the unseen rows."""
    mean, scale = x.mean(dim=0), x.std(dim=0, correction=0)
    scale = scale.where(scale > 1e-12 * mean.abs().clamp_min(1e-300), 1.0)  # a constant feature stays constant
    return (x - mean) / scale, (unseen - mean) / scale


def _check_penalty(penalty: float) -> None:
    if not penalty > 0:
        raise ConfigError(f"penalty={penalty} is not positive.", hint="Use a small one such as 1e-6 for hardly any.")
