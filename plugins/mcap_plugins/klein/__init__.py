"""FLUX.2 klein, for the library: docs/transformers.md says what is missing for ``--backbone``."""
