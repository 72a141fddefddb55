"""Building blocks of more than one family: perceptrons, ensembles, an optimiser, moving averages, projections."""

from latent.core.nn.adam import FusedAdam as FusedAdam
from latent.core.nn.ema import EMA as EMA
from latent.core.nn.ema import target_copy as target_copy
from latent.core.nn.ensemble import EnsembleLayerNorm as EnsembleLayerNorm
from latent.core.nn.ensemble import EnsembleLinear as EnsembleLinear
from latent.core.nn.mlp import MLP as MLP
from latent.core.nn.mlp import Tanh as Tanh
from latent.core.nn.mlp import orthogonal_ as orthogonal_
from latent.core.nn.mlp import tanh as tanh
from latent.core.nn.project import project_to_sphere as project_to_sphere
