"""Files of networks: what is known of them, where they lie, and how they come here, verified.

`fetch` is the one way to a weight; `model_source` tells what a user's own model is.
"""
