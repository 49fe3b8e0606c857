"""Backbone-independent mechanics of latent diffusion training."""
