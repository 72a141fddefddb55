"""`python -m latent.core` is the `latent` command."""

import sys

from latent.core.cli.main import main

sys.exit(main())
