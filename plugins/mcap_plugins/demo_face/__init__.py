"""The network and weights of the restorer ``demo-face``; MODEL_CARD.md says what they are."""

from mcap.contracts import RestorerInfo

FFHQ_SIDE = 384
"""Side in pixels of FFHQ's square, in which the network was trained: a head in it is some 315 high,
on a print of 413 x 531 pixels 380; a square of 512 takes nearly twice the time."""

LEFT, TOP = 32, 8
"""Pixels of the frame left of and above that square: it reaches the same to the right, and further
down, where the collar is."""

INFO = RestorerInfo(
    kind="face",
    scale=1,
    moves=True,
    tileable=False,
    input_size=448,
    # FFHQ's landmarks in the frame
    template=(
        (176.735, 187.9625),
        (271.175, 188.1425),
        (224.4725, 243.515),
        (182.945, 286.5575),
        (266.8175, 286.3625),
    ),
    drawn_by=("demo",),
    masked=False,
)
