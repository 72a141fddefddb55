"""Transitions: collecting them, keeping them on a device and drawing batches from them."""

from latent.rl.data.buffer import TransitionBuffer as TransitionBuffer
from latent.rl.data.buffer import TransitionSource as TransitionSource
from latent.rl.data.collect import Policy as Policy
from latent.rl.data.collect import SmoothedRandom as SmoothedRandom
from latent.rl.data.collect import Uniform as Uniform
from latent.rl.data.collect import collect as collect
from latent.rl.data.rnd import RND as RND
from latent.rl.data.rnd import RNDConfig as RNDConfig
