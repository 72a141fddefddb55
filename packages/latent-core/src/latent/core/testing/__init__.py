"""What tests of `latent` and of its plugins share."""
