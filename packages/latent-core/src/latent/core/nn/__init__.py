"""Blocks of more than one family: perceptrons, ensembles, an optimiser, averages, projections and dictionaries."""

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
from latent.core.nn.sparse import SparseAutoencoder as SparseAutoencoder
from latent.core.nn.sparse import SparseAutoencoderConfig as SparseAutoencoderConfig
from latent.core.nn.sparse import SparseAutoencoderLearner as SparseAutoencoderLearner
from latent.core.nn.sparse import SparseAutoencoderTraining as SparseAutoencoderTraining
