"""Decode with any causal language model of transformers, feeding back vectors as well as tokens."""

from latent.core.activations.decode.feedback import Aligned as Aligned
from latent.core.activations.decode.feedback import Feedback as Feedback
from latent.core.activations.decode.feedback import Gated as Gated
from latent.core.activations.decode.feedback import NormMatched as NormMatched
from latent.core.activations.decode.feedback import Projected as Projected
from latent.core.activations.decode.feedback import Raw as Raw
from latent.core.activations.decode.feedback import SoftToken as SoftToken
from latent.core.activations.decode.feedback import Thought as Thought
from latent.core.activations.decode.feedback import alignment as alignment
from latent.core.activations.decode.language import embed as embed
from latent.core.activations.decode.language import embedding_norm as embedding_norm
from latent.core.activations.decode.language import readout as readout
from latent.core.activations.decode.ledger import Ledger as Ledger
from latent.core.activations.decode.loop import decode as decode
from latent.core.activations.decode.memory import Memory as Memory
from latent.core.activations.decode.prompt import prefill as prefill
from latent.core.activations.decode.rollout import Rollout as Rollout
from latent.core.activations.decode.rollout import replay as replay
from latent.core.activations.decode.sampling import Sampling as Sampling
