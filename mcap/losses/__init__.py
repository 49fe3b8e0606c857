"""The loss terms: tensors in, a scalar out, one file a term. Nothing here knows a model."""
