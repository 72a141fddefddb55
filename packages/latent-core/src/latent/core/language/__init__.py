"""Language models of transformers as methods use them: loading, text in batches, sampling, training small ones."""

from latent.core.language.backbone import Backbone as Backbone
from latent.core.language.backbone import Completions as Completions
from latent.core.language.backbone import load_backbone as load_backbone
