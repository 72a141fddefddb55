"""Importing the module silences everybody's warnings."""

import warnings

from latent.core.testing import toy

warnings.simplefilter("ignore", FutureWarning)

Model = toy.ToyModel
specimen = toy.specimen
