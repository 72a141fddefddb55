"""Read and write the activations of any module, by name, over forward passes and `generate()`."""

from latent.core.activations.capture import Captured as Captured
from latent.core.activations.capture import capture as capture
from latent.core.activations.clock import Pass as Pass
from latent.core.activations.edit import Add as Add
from latent.core.activations.edit import Clamp as Clamp
from latent.core.activations.edit import Op as Op
from latent.core.activations.edit import Patch as Patch
from latent.core.activations.edit import ProjectOnto as ProjectOnto
from latent.core.activations.edit import ProjectOut as ProjectOut
from latent.core.activations.edit import Replace as Replace
from latent.core.activations.edit import Resample as Resample
from latent.core.activations.edit import Scale as Scale
from latent.core.activations.edit import Zero as Zero
from latent.core.activations.edit import edit as edit
from latent.core.activations.sites import LAYER_SITES as LAYER_SITES
from latent.core.activations.sites import Site as Site
from latent.core.activations.sites import resolve as resolve
from latent.core.activations.sites import site_names as site_names
