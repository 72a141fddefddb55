"""Ways to find a direction in activations that come in batches, so that memory does not depend on how many there are.

`Stream` reads them from a model. Each trainer takes the rows of two classes, or differences of pairs, and returns a
vector whose length has a meaning, so that a strength of one has one too.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from latent.core.activations.capture import Captured, Positions, capture
from latent.core.activations.edit import Add, edit
from latent.core.activations.moments import Moments
from latent.core.activations.sites import resolve
from latent.core.errors import ConfigError
from latent.core.metrics.likelihood import negative_log_likelihood

__all__ = [
    "Inputs",
    "Rows",
    "Stream",
    "difference_of_means",
    "linear_probe",
    "logistic_probe",
    "optimise_vector",
    "principal_direction",
    "stream_moments",
]

Inputs = Mapping[str, Tensor]
"""What a model is called with, by name."""

Rows = Tensor | Iterable[Tensor]
"""Activations, floating `(samples, hidden)`, or batches of such rows."""


@dataclass(frozen=True)
class Stream(Iterable[Tensor]):
    """Activations of one site of a model, read anew each time it is iterated over.

    Args:
        model: The model.
        batches: Its inputs; a list or whatever can be iterated over more than once.
        site: Name of the site.
        positions: Which token of each row, see `capture`.

    Raises:
        ConfigError: When it is iterated over and `site` names several sites.
    """

    model: nn.Module
    batches: Iterable[Inputs]
    site: str
    positions: Positions = "last"

    def __iter__(self) -> Iterator[Tensor]:
        (name, *more) = (site.name for site in resolve(self.model, self.site))
        if more:
            raise ConfigError(f"{self.site!r} names {len(more) + 1} sites.", hint="Name one; see stream_moments.")
        for shown in _passes(self.model, self.batches, self.site, self.positions):
            yield _as_rows(shown[name])


def stream_moments(
    model: nn.Module, batches: Iterable[Inputs], sites: str | Iterable[str], *, positions: Positions = "last"
) -> dict[str, Moments]:
    """Return the moments of several sites from one pass over the data."""
    found: dict[str, Moments] = {site.name: Moments() for site in resolve(model, sites)}
    for shown in _passes(model, batches, sites, positions):
        for name, moments in found.items():
            moments.update(_as_rows(shown[name]))
    return found


def _passes(
    model: nn.Module, batches: Iterable[Inputs], sites: str | Iterable[str], positions: Positions
) -> Iterator[Captured]:
    for batch in batches:
        # A context of its own for each batch: between two batches the model is the caller's.
        with torch.no_grad(), capture(model, sites, positions=positions) as acts:
            shown = acts.run(**batch)
        yield shown


def _as_rows(chosen: Tensor) -> Tensor:
    return chosen.reshape(-1, chosen.shape[-1])


def difference_of_means(positive: Rows | Moments, negative: Rows | Moments) -> Tensor:
    """Return the mean of the positive rows less that of the negative ones, float64 `(hidden,)`.

    arXiv:2312.06681, equation 1, where the rows are those of contrast pairs.
    """
    return _moments(positive).mean - _moments(negative).mean


def principal_direction(differences: Rows | Moments) -> Tensor:
    """Return the first principal direction of differences of pairs, float64 `(hidden,)`.

    The differences are not centred: centring would take away what all pairs have in common, which is what is looked
    for. It is the direction that principal component analysis finds when the two members of each pair are swapped at
    random (arXiv:2310.01405, section 3.1). It points to where the mean difference does; its length is the root mean
    square of the differences along it.
    """
    moments = _moments(differences)
    sizes, vectors = torch.linalg.eigh(moments.second_moment)
    vector = vectors[:, -1]
    sign = torch.where(vector @ moments.mean < 0, -1.0, 1.0)
    found: Tensor = sign * vector * sizes[-1].clamp_min(0).sqrt()
    return found


def linear_probe(positive: Rows | Moments, negative: Rows | Moments, *, penalty: float = 1e-3) -> Tensor:
    """Return the direction of the least-squares probe that tells the classes apart, float64 `(hidden,)`.

    It is Fisher's discriminant `(S + penalty * tr(S) / hidden * I)^-1 (mean1 - mean0)`, with S the mean covariance
    within the classes. Its length is the distance of the class means along it.

    Raises:
        ConfigError: When the penalty is not positive, or nothing varies within the classes.
    """
    _check_penalty(penalty)
    one, zero = _moments(positive), _moments(negative)
    within = (one.covariance * one.count + zero.covariance * zero.count) / (one.count + zero.count)
    difference = one.mean - zero.mean
    if not float(within.diagonal().sum()) > 0:
        raise ConfigError("Each class has one activation alone, or equal ones.", hint="Give more different texts.")
    ridge = penalty * within.diagonal().mean().clamp_min(torch.finfo(within.dtype).tiny)
    weight = torch.linalg.solve(
        within + ridge * torch.eye(len(within), dtype=within.dtype, device=within.device), difference
    )
    return _between(weight, difference)


def logistic_probe(
    positive: Rows, negative: Rows, *, penalty: float = 1e-2, passes: int = 25, tolerance: float = 1e-6
) -> Tensor:
    """Return the direction of logistic regression between the classes, float64 `(hidden,)`.

    Newton's method on standardised coordinates, with one pass over the data for each step and memory for one Hessian.
    Its length is the distance of the class means along it.

    Args:
        positive: Rows of class 1; batches must be iterable more than once.
        negative: Rows of class 0.
        penalty: Half of it weighs the squared weights against the mean loss.
        passes: Most passes over the data.
        tolerance: Norm of the gradient at which it stops.

    Raises:
        ConfigError: When the penalty is not positive, or rows can be iterated over once only.
    """
    _check_penalty(penalty)
    for rows in (positive, negative):
        if isinstance(rows, Iterator):
            raise ConfigError("These rows can be read only once.", hint="Give a list, a tensor or a Stream.")
    one, zero = _moments(positive), _moments(negative)
    share = one.count / (one.count + zero.count)
    centre = share * one.mean + (1 - share) * zero.mean
    within = share * one.covariance + (1 - share) * zero.covariance
    spread = within.diagonal() + share * (one.mean - centre) ** 2 + (1 - share) * (zero.mean - centre) ** 2
    # A coordinate that does not vary but for rounding would get a huge weight, for it is free to act as the bias.
    varies = spread > 1e-12 * centre.square()
    scale = spread.sqrt().where(varies, torch.full_like(spread, float("inf")))
    weight = torch.zeros(len(centre) + 1, dtype=centre.dtype, device=centre.device)  # the last one is the bias
    best, step = float("inf"), weight
    for _ in range(passes):
        loss, gradient, hessian = _logistic_pass(weight, ((positive, 1.0), (negative, 0.0)), centre, scale, penalty)
        if loss > best:  # the step was too long
            step = step / 2
            weight = weight - step
            continue
        best = loss
        if float(gradient.norm()) < tolerance:
            break
        step = -torch.linalg.solve(hessian, gradient)
        weight = weight + step
    return _between(weight[:-1] / scale, one.mean - zero.mean)


def _logistic_pass(
    weight: Tensor, classes: tuple[tuple[Rows, float], ...], centre: Tensor, scale: Tensor, penalty: float
) -> tuple[float, Tensor, Tensor]:
    """Return loss, gradient and Hessian at `weight` from one pass over the rows."""
    loss, gradient = 0.0, torch.zeros_like(weight)
    hessian = weight.new_zeros(len(weight), len(weight))
    count = 0
    for rows, label in classes:
        for batch in [rows] if isinstance(rows, Tensor) else rows:
            x = nn.functional.pad((batch.detach().double() - centre) / scale, (0, 1), value=1.0)
            logits = x @ weight
            probability = logits.sigmoid()
            loss += float(nn.functional.softplus(logits).sum() - label * logits.sum())
            gradient += x.mT @ (probability - label)
            hessian += (x * (probability * (1 - probability)).unsqueeze(1)).mT @ x
            count += len(x)
    ridge = torch.full_like(weight, penalty)
    ridge[-1] = 1e-9  # the bias is free
    loss = loss / count + float((ridge * weight.square()).sum()) / 2
    return loss, gradient / count + ridge * weight, hessian / count + torch.diag(ridge)


def optimise_vector(
    model: nn.Module,
    site: str,
    batches: Iterable[Inputs],
    objective: Callable[[nn.Module, Inputs], Tensor] | None = None,
    *,
    width: int,
    steps: int = 60,
    learning_rate: float = 0.05,
    norm: float | None = None,
    generator: torch.Generator,
) -> Tensor:
    """Return the vector that, added at a site, makes an objective small: float32 `(hidden,)`.

    Gradient descent by Adam through the frozen model, one batch a step, over and over.

    Args:
        model: A causal language model for the default objective, else any module.
        site: Where the vector is added, at every token.
        batches: Inputs of the target behaviour; a list.
        objective: Called with the edited model and a batch; returns the loss. By default the negative log-likelihood
            of the batch's tokens.
        width: Coordinates of an activation at the site.
        steps: Updates.
        learning_rate: Of Adam, as a share of `norm` where that is given.
        norm: Greatest norm of the vector; None for no limit.
        generator: Source of the small random start.

    Raises:
        ConfigError: When there is no batch.
    """
    given = list(batches)
    if not given:
        raise ConfigError("There is no text to optimise a vector on.", hint="Give at least one.")
    device = next(model.parameters()).device
    start = torch.randn(width, generator=generator, device=generator.device).to(device)
    vector = (start * 1e-3 / width**0.5).requires_grad_()
    optimiser = torch.optim.Adam([vector], lr=learning_rate * (1.0 if norm is None else norm / width**0.5))
    loss_of = objective or _mean_likelihood
    for step in range(steps):
        with torch.enable_grad(), edit(model, {site: Add(vector)}):
            loss = loss_of(model, given[step % len(given)])
        (vector.grad,) = torch.autograd.grad(loss, [vector])  # the model's own weights get no gradient
        optimiser.step()
        if norm is not None:
            with torch.no_grad():
                vector *= (norm / vector.norm().clamp_min(1e-12)).clamp_max(1.0)
    found: Tensor = vector.detach()
    return found


def _mean_likelihood(model: nn.Module, batch: Inputs) -> Tensor:
    logits = model(**batch).logits
    loss: Tensor = negative_log_likelihood(logits, batch["input_ids"], batch.get("attention_mask")).mean()
    return loss


def _between(weight: Tensor, difference: Tensor) -> Tensor:
    """Return the direction of `weight`, as long as the class means are apart along it."""
    unit = nn.functional.normalize(weight, dim=0)
    found: Tensor = unit * (unit @ difference)
    return found


def _moments(rows: Rows | Moments) -> Moments:
    return rows if isinstance(rows, Moments) else Moments.of(rows)


def _check_penalty(penalty: float) -> None:
    if not penalty > 0:
        raise ConfigError(f"penalty={penalty} is not positive.", hint="Use a small one, such as 1e-3.")
