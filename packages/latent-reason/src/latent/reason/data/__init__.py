"""Problems with exact answers, and languages in which small models learn to reason."""

from latent.reason.data.loaders import PUBLISHED as PUBLISHED
from latent.reason.data.loaders import load_problems as load_problems
from latent.reason.data.problem import Problem as Problem
from latent.reason.data.problem import Problems as Problems
