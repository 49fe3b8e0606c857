"""Options that several commands take, worded once."""

from __future__ import annotations

from typing import Literal

import typer

from mcap.cli import complete

Format = Literal["png", "jpg", "webp"]
Metadata = Literal["all", "label", "none"]

FORMAT = typer.Option(help="File format of the pictures.")
QUALITY = typer.Option(
    help="Of jpg and webp: higher is better and larger; 100 in webp loses nothing.",
    metavar="N",
    min=1,
    max=100,
)
DETECTOR = typer.Option(
    help="What finds the faces; mcap plugins lists what there is.",
    metavar="NAME",
    autocompletion=complete.detectors,
)
IDENTITY = typer.Option(
    help="The network that compares faces; mcap plugins lists what there is.",
    metavar="NAME",
    autocompletion=complete.identities,
)
MASKER = typer.Option(
    help="What draws the masks of faces; mcap plugins lists what there is.",
    metavar="NAME",
    autocompletion=complete.maskers,
)
DEVICE = typer.Option(
    help="What computes: auto, cpu, cuda (an NVIDIA GPU; cuda:1 is the second), mps (Apple).",
    metavar="NAME",
)
PRECISION = typer.Option(
    help="How exactly to compute: auto, fp32, bf16 or fp16; the last two take half the memory, on "
    "a GPU.",
    metavar="NAME",
)
