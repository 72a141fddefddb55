"""SDM (arXiv:2502.20167): a head on frozen vectors that knows how far its training reaches.

Beside its logits z a prediction has two signals of the training points: the Similarity q, how many of the nearest ones
in a row were predicted right and as the same class, and the Distance d, which share of calibration points is farther
from its nearest one. They make the base and the exponent of the activation

    sdm(z)_i = (2 + q)^(d z_i) / sum_c (2 + q)^(d z_c)

and its outputs, seen among those of calibration points of each class, a probability that is reported with its band, or
a rejection. What a model is trained with comes as `similarity` and `distance` in the batches; `SDMEstimator` brings
them up to date after every epoch, calibrates and repeats the whole.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import nn

from latent.causal.calibration import ClassConditionalCDF, NoRegion, Region, dkw_error
from latent.causal.neighbours import Neighbours, neighbours
from latent.causal.rows import ShuffledRows
from latent.causal.sdm_activation import SOFTMAX_SIMILARITY, sdm_cross_entropy, sdm_log_softmax
from latent.core.capabilities import Scores
from latent.core.config import setting
from latent.core.contract import Batch, Learner, Model
from latent.core.errors import ConfigError, ShapeError, UnknownName
from latent.core.nn import FusedAdam
from latent.core.typing import Float, Tensor, checked

__all__ = ["SDM", "SDMConfig", "SDMLearner", "SDMOutput", "Signals", "training_rows"]

Activation = Literal["sdm", "no-distance", "softmax"]


@dataclass(frozen=True, kw_only=True)
class SDMConfig:
    """Sizes of a model, and how it decides."""

    features: int = setting(2, "Coordinates of the vectors.")
    classes: int = setting(2, "Classes.")
    exemplar_dim: int = setting(1000, "Coordinates in which neighbours are looked for.", paper="1000 (A.3)")
    support: int = setting(5, "Training points that are kept.")
    rows: int = setting(1, "Most calibration points of a class.")
    exemplars: int = setting(5, "Nearest training points that a prediction names.")
    limit: int = setting(1000, "Greatest Similarity.", paper="1000, or the largest class")
    alpha: float = setting(0.95, "Probability that an admitted prediction must reach.", paper="0.95")
    bins: int = setting(20, "Whole numbers of rescaled Similarity that have an offset of their own.", paper="20 (code)")
    activation: Activation = setting(
        "sdm", "sdm; no-distance: as if every point were near; softmax: as if it were similar too (controls)."
    )

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        sizes = (self.features, self.exemplar_dim, self.rows, self.exemplars, self.limit, self.bins)
        if min(sizes) < 1 or self.classes < 2:
            raise ConfigError("There must be 2 classes, and every size must be at least 1.")
        if self.support < self.exemplars:
            raise ConfigError(
                f"exemplars={self.exemplars} is more than the {self.support} training points that are kept."
            )
        if not 0.5 < self.alpha < 1:
            raise ConfigError(f"alpha={self.alpha} is not inside (0.5, 1).", hint="For example 0.95.")
        if self.activation not in get_args(Activation):
            raise UnknownName.of("activation", str(self.activation), get_args(Activation))


@dataclass(frozen=True, eq=False)
class Signals:
    """What the three signals of some points are.

    Attributes:
        logits: Magnitudes, float32 `(batch, classes)`.
        pred: Class of the greatest logit, int64 `(batch,)`.
        neighbours: What lies around them.
        distance: d in [0, 1], 0 where a point is farther than any calibration point, float32 `(batch,)`.
        similarity: q, 0 where d is 0, int64 `(batch,)`.
        probabilities: SDM activation, float32 `(batch, classes)`.
    """

    logits: Tensor
    pred: Tensor
    neighbours: Neighbours
    distance: Tensor
    similarity: Tensor
    probabilities: Tensor


@dataclass(frozen=True, eq=False)
class SDMOutput:
    """What is predicted, how probable it is and whether to rely on it. All of `(batch,)` where nothing else is said.

    Tensors, or numpy arrays where an estimator was given numpy.

    Attributes:
        pred: Predicted class, int64: where an estimator predicts, a place in its `classes_`, and no label.
        q: Similarity, int64.
        d: Distance in [0, 1]; 0 where nothing in calibration was as far.
        d_nearest: Euclidean distance to the nearest training point.
        probabilities: SDM activation, float32 `(batch, classes)`; uniform where d is 0.
        q_tilde: Rescaled Similarity, 0 where rescaling prefers another class.
        prob_lower: Probability of the predicted class at the lower end of the band, less the restarts' offset.
        prob_centroid: The same without a band.
        prob_upper: The same at its upper end.
        admitted: Whether the prediction is one to rely on, bool.
        exemplars: Rows of the nearest training points in the data that were given to `fit`, nearest first, int64
            `(batch, exemplars)`.
    """

    pred: Any
    q: Any
    d: Any
    d_nearest: Any
    probabilities: Any
    q_tilde: Any
    prob_lower: Any
    prob_centroid: Any
    prob_upper: Any
    admitted: Any
    exemplars: Any


class SDM(Model, Scores):
    """The head with all that a prediction needs: training points, calibration distributions, region, offsets.

    A model that was built from a config alone knows no training points and admits nothing.
    """

    Config: ClassVar[type] = SDMConfig
    config: SDMConfig
    mean: Tensor
    scale: Tensor
    support: Tensor
    groups: Tensor
    origin: Tensor
    q_min: Tensor
    psi: Tensor
    offsets: Tensor

    def __init__(self, config: SDMConfig) -> None:
        super().__init__(config)
        self.exemplar = nn.Linear(config.features, config.exemplar_dim)
        self.head = nn.Linear(config.exemplar_dim, config.classes)
        self.rescaler = nn.Linear(config.classes, config.classes, bias=False)
        self.nearest_cdf = ClassConditionalCDF(config.classes, config.rows)
        self.output_cdf = ClassConditionalCDF(config.classes, config.rows)
        self.similarity_cdf = ClassConditionalCDF(config.classes, config.rows)
        for name, value in {
            "mean": torch.zeros(()),
            "scale": torch.ones(()),
            "support": torch.zeros(config.support, config.exemplar_dim),
            "groups": torch.full((config.support,), -1),
            "origin": torch.arange(config.support),
            "q_min": torch.tensor(torch.inf),
            "psi": torch.ones(config.classes),
            "offsets": torch.zeros(config.classes, config.bins),
        }.items():
            self.register_buffer(name, value)

    @property
    def region(self) -> Region | NoRegion:
        """Where predictions are admitted."""
        if not bool(self.q_min.isfinite()):
            return NoRegion("the model has none")
        return Region(float(self.q_min), tuple(self.psi.tolist()))

    def embed(self, h: Tensor) -> Tensor:
        """Return the exemplar vectors of `h`, `(batch, exemplar_dim)`."""
        return self.exemplar((h.to(self.mean.dtype) - self.mean) / self.scale)

    def activate(self, logits: Tensor, similarity: Tensor, distance: Tensor) -> Tensor:
        """Return the activation of logits, float32 `(batch, classes)`."""
        return sdm_log_softmax(logits, *self.inputs(similarity, distance), base="e").exp()

    def inputs(self, similarity: Tensor, distance: Tensor) -> tuple[Tensor, Tensor]:
        """Return Similarity and Distance as the activation takes them: as they are, but for the controls."""
        similarity, near = similarity.float(), torch.ones_like(distance)
        match self.config.activation:
            case "sdm":
                return similarity, distance
            case "no-distance":
                return similarity, near
            case "softmax":
                return torch.full_like(similarity, SOFTMAX_SIMILARITY), near

    def distance(self, nearest: Tensor, cdf: ClassConditionalCDF) -> Tensor:
        """Return for distances to the nearest point the least share, over classes, of those that are no nearer."""
        # Equal but for rounding is equal: a calibration point in a batch of another size is no farther than itself.
        nearest = nearest * (1 - 1e-5)
        share = 1 - cdf(nearest.unsqueeze(1).expand(-1, self.config.classes))
        return share.where(cdf.counts > 0, 0.0).amin(1)  # nothing is comparable to a class that was never seen

    def look(self, h: Tensor) -> tuple[Tensor, Tensor, Neighbours]:
        """Return logits `(batch, classes)` of new points, what they are predicted to be, and what lies around them."""
        vectors = self.embed(h)
        logits = self.head(vectors)
        pred = logits.argmax(1)
        k, limit = self.config.exemplars, self.config.limit
        return logits, pred, neighbours(vectors, self.support, pred, self.groups, k=k, limit=limit)

    def signals(self, logits: Tensor, pred: Tensor, found: Neighbours) -> Signals:
        """Return the three signals of what `look` found."""
        distance = self.distance(found.nearest, self.nearest_cdf)
        # At d = 0 the activation is uniform and has no argmax: nothing is similar that far away.
        similarity = found.count.where(self.inputs(found.count, distance)[1] > 0, 0)
        return Signals(logits, pred, found, distance, similarity, self.activate(logits, similarity, distance))

    def rescale(self, levels: Tensor, similarity: Tensor, pred: Tensor) -> tuple[Tensor, Tensor]:
        """Return rescaled Similarity and output distribution (eq. 10 and 11), `(batch,)` and `(batch, classes)`.

        Args:
            levels: Shares v of the calibration outputs of each class that are below a point's, `(batch, classes)`.
            similarity: q of each point.
            pred: Its predicted class.
        """
        rescaled = levels.gather(1, pred.unsqueeze(1)).squeeze(1) * torch.log(2.0 + similarity)
        outputs = self.outputs(levels, rescaled)
        return rescaled.where(outputs.argmax(1) == pred, 0.0), outputs

    def outputs(self, levels: Tensor, rescaled: Tensor) -> Tensor:
        """Return the output distribution for levels and rescaled Similarity, `(batch, classes)`."""
        return sdm_log_softmax(self.rescaler(levels), rescaled, torch.ones_like(rescaled), base="e").exp()

    @checked
    def predict(self, h: Float[Tensor, "batch latent"]) -> SDMOutput:
        """Return the prediction for each row, with its signals and whether it is admitted.

        Raises:
            ShapeError: The rows have another width than the config says.
        """
        if h.shape[1] != self.config.features:
            raise ShapeError(f"h: given {list(h.shape)}, expected [batch latent={self.config.features}].")
        # No gradient passes counts and ranks.
        with torch.no_grad(), torch.autocast(h.device.type, enabled=False):
            return self._decide(self.signals(*self.look(h)))

    @checked
    def score(self, z: Float[Tensor, "batch latent"]) -> Float[Tensor, " batch"]:
        """Return the lower probability of each row's prediction, 0 where it is not admitted.

        Raises:
            ShapeError: The rows have another width than the config says.
        """
        found = self.predict(z)
        return found.prob_lower.where(found.admitted, 0.0)

    def _decide(self, signals: Signals) -> SDMOutput:
        """Return probabilities and admission (eq. 9 to 13 and 28)."""
        pred, similarity = signals.pred, signals.similarity
        levels = self.output_cdf(signals.probabilities, saturate=True)
        q_tilde, centroid = self.rescale(levels, similarity, pred)
        error = self._band(q_tilde)
        inward = error * (2 * nn.functional.one_hot(pred, self.config.classes) - 1)
        lowest, lower = self.rescale((levels - inward).clamp(0, 1), similarity, pred)
        highest, upper = self.rescale((levels + inward).clamp(0, 1), similarity, pred)
        prob_lower = self._less_offset(lower, lowest, pred)
        others = lower.scatter(1, pred.unsqueeze(1), -1.0)
        alone = (others < self.psi).all(1) & (prob_lower >= self.psi[pred])
        return SDMOutput(
            pred=pred,
            q=signals.neighbours.count,
            d=signals.distance,
            d_nearest=signals.neighbours.nearest,
            probabilities=signals.probabilities,
            q_tilde=q_tilde,
            prob_lower=prob_lower,
            prob_centroid=self._less_offset(centroid, q_tilde, pred),
            prob_upper=self._less_offset(upper, highest, pred),
            admitted=alone & (lowest >= 1) & (lowest >= self.q_min),
            exemplars=self.origin[signals.neighbours.indices],
        )

    def _band(self, q_tilde: Tensor) -> Tensor:
        """Return how far the level of each class may be off, by how many of its points are as dissimilar (eq. 12)."""
        below = self.similarity_cdf.rank(q_tilde.unsqueeze(1).expand(-1, self.config.classes))
        return dkw_error(below.minimum(self.similarity_cdf.counts - 1), self.config.alpha)

    def _less_offset(self, outputs: Tensor, q_tilde: Tensor, pred: Tensor) -> Tensor:
        """Return the probability of the predicted class less what restarts differ by, `(batch,)`."""
        place = q_tilde.long().clamp(max=self.config.bins - 1)
        probability = outputs.gather(1, pred.unsqueeze(1)).squeeze(1)
        return (probability - self.offsets[pred, place]).clamp(min=0)


# Training -------------------------------------------------------------------------------------------------------------


def training_rows(
    h: Tensor,
    y: Tensor,
    similarity: Tensor | None = None,
    distance: Tensor | None = None,
    *,
    rows: int = 50,
    epoch: int = 0,
) -> ShuffledRows:
    """Return what `SDMLearner` trains with: vectors `(samples, features)`, classes, and q and d of each.

    Args:
        h: Vectors.
        y: Classes, int64 `(samples,)`.
        similarity: q of each row as of the epoch before; None for that of the softmax.
        distance: d of each row; None for 1.
        rows: Rows of a batch.
        epoch: Number of the epoch.
    """
    ones = torch.ones(len(y), device=h.device)
    return ShuffledRows(
        {
            "h": h,
            "y": y,
            "similarity": SOFTMAX_SIMILARITY * ones if similarity is None else similarity.float(),
            "distance": ones if distance is None else distance,
        },
        rows=rows,
        epoch=epoch,
    )


class SDMLearner(Learner):
    """Adam on exemplar layer and head.

    Args:
        model: What to train.
        learning_rate: Step size.
    """

    METRICS: ClassVar[Mapping[str, str]] = {
        "loss": "Mean of the negative logarithm of the true class's output, to the base 2 + q.",
        "accuracy": "Share of the batch that is predicted right.",
        "similarity": "Mean q of the batch, as of the last epoch.",
        "distance": "Mean d of the batch, as of the last epoch.",
    }

    def __init__(self, model: SDM, *, learning_rate: float = 1e-5) -> None:
        self.model: SDM = model
        self.optimiser = FusedAdam([*model.exemplar.parameters(), *model.head.parameters()], lr=learning_rate)

    def step(self, batch: Batch, *, step: int) -> Mapping[str, Tensor]:
        """Make one update."""
        logits = self.model.head(self.model.embed(batch["h"]))
        similarity, distance = self.model.inputs(batch["similarity"], batch["distance"])
        loss = sdm_cross_entropy(logits, batch["y"], similarity, distance)
        self.optimiser.zero_grad()
        torch.autograd.backward(loss)
        self.optimiser.step()
        return {
            "loss": loss.detach(),
            "accuracy": (logits.detach().argmax(1) == batch["y"]).float().mean(),
            "similarity": similarity.mean(),
            "distance": distance.mean(),
        }
