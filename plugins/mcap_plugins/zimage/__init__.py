"""Z-Image, for the library: docs/transformers.md says what is missing for ``--backbone``."""
