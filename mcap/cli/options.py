"""Options that several commands take, worded once."""

from __future__ import annotations

from typing import Literal

import typer

from mcap.cli import complete
from mcap.contracts import SubjectKind as SubjectKind

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
SUBJECT_KIND = typer.Option(
    help="What is learned: the face of a person, or an object: an animal or a thing, which no face "
    "is looked for in.",
    show_default="face",
)
DEVICE = typer.Option(
    help="What computes: auto, cpu, cuda (an NVIDIA GPU; cuda:1 is the second), mps (Apple).",
    metavar="NAME",
)
PRECISION = typer.Option(
    help="How exactly to compute: auto, fp32, bf16 or fp16; the last two take half the memory, on "
    "a GPU. int8 and nf4 keep the weights of klein and zimage in eight or four bits (pip install "
    "'mcap[8bit]'). Enhancing takes bf16 on a CPU, too, by auto where it is the faster one.",
    metavar="NAME",
)
METADATA = typer.Option(
    help="What is written into the files. all: how they were drawn, and the marks that a machine "
    "made them; label, none: only these marks.",
)
LORA = typer.Option(
    help="A LoRA file of another program (.safetensors; kohya, AUTOMATIC1111, ComfyUI, diffusers), "
    "with its strength after a colon. More than once for several.",
    metavar="FILE[:WEIGHT]",
)
EMBEDDING = typer.Option(
    help="A textual-inversion file (.safetensors, .pt, .bin). Its name without the suffix is the "
    "word to write into --prompt or --negative. More than once for several.",
    metavar="FILE",
)
WITH = typer.Option(
    "--with",
    help="Another subject of the same backbone, with its LoRA's strength after a colon: {id2} and "
    "{style2} in --prompt; the next is {id3} and {style3}.",
    metavar="SUBJECT[:WEIGHT]",
)
BATCH_SIZE = typer.Option(
    help="Pictures drawn at once; fewer need less memory.", metavar="N", min=1
)
BACKBONE = typer.Option(
    help="Where the subject's backbone is now, if it was moved, or another one (with --force): a "
    "name, a folder, a .safetensors checkpoint or a hub id.",
    metavar="BACKBONE",
    autocompletion=complete.backbones,
)
