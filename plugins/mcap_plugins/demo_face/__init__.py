"""The network and weights of the restorer ``demo-face``; MODEL_CARD.md says what they are."""
