"""Methods that others are compared with, on the same models, texts and judges."""
