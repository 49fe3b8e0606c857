"""Mechanics of latent diffusion that know no method: encode, noise, adapt, sample, record."""
