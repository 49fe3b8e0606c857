"""The weights of the restorer ``demo-sr``; MODEL_CARD.md says what they are."""
