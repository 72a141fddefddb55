"""Environments behind one interface: `make("dm_control/walker-walk")`, `make("gymnasium/HalfCheetah-v5")`."""

from latent.rl.envs.adapter import Environment as Environment
from latent.rl.envs.adapter import Step as Step
from latent.rl.envs.adapter import VectorEnvironment as VectorEnvironment
from latent.rl.envs.adapter import VectorStep as VectorStep
from latent.rl.envs.adapter import make as make
from latent.rl.envs.adapter import make_vector as make_vector
