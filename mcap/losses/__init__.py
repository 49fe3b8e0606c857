"""Pure tensors in, a scalar out; one file an idea. Nothing here knows a model."""
