"""The network and weights of the restorer ``demo-face``; MODEL_CARD.md says what they are."""

from mcap.contracts import RestorerInfo

INFO = RestorerInfo(
    kind="face", scale=1, moves=True, tileable=False, input_size=384, drawn_by=("demo",)
)
"""FFHQ's frame at 384 pixels: a head in it is some 315 high, on a print of 413 x 531 pixels 380; a
frame of 512 takes nearly twice the time."""
