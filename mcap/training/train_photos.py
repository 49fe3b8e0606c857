"""The photos of ``mcap train``, looked at: those of the person and those of the style."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mcap.cli.progress import progress
from mcap.masking.select import MaskedSet, MaskSettings, mask_photos
from mcap.registry import registry
from mcap.subjects.manifest import RefusedRecord

if TYPE_CHECKING:
    import typer

    from mcap.contracts import Backbone, FaceDetector, IdentityModel
    from mcap.training.request import Request


@dataclass(frozen=True)
class Found:
    """The photos, looked at."""

    sources: MaskedSet
    references: MaskedSet | None  # None: the backbone draws them later
    detector: FaceDetector
    identity: IdentityModel
    drawn: list[MaskedSet] = field(default_factory=list)

    def require(self) -> None:
        """`InputRejectedError`, with the reasons, where nothing is left to train on."""
        self.sources.require_accepted()
        if self.references is not None:
            self.references.require_accepted()


def look_at_photos(ctx: typer.Context, request: Request) -> Found:
    """Find and mask the faces of the person and of the style's photos."""
    settings = request.settings
    detector = registry().create("detector", settings.detector)
    identity = registry().create("identity", settings.identity)
    masker = registry().create("masker", settings.masker)
    how = MaskSettings(
        photos=settings.photos,
        faces=settings.faces,
        size=request.facts.native_size,
        face_height=request.facts.face_height,
    )
    parts = {"detector": detector, "identity": identity, "masker": masker, "settings": how}
    count = 2 * (len(request.sources) + len(request.references))
    with progress(ctx, "finding faces", count, unit="photos") as bar:

        def tick(_path: Path) -> None:
            bar.advance(1)

        sources = mask_photos(
            request.sources,
            role="subject",
            subject=request.pinned,
            masks_dir=request.masks,
            on_photo=tick,
            **parts,
        )
        references = None
        if request.references:
            references = mask_photos(
                request.references,
                role="reference",
                on_photo=tick,
                **parts,
            )
    return Found(sources, references, detector, identity)


def draw_style(
    ctx: typer.Context, request: Request, backbone: Backbone, folder: Path, found: Found
) -> MaskedSet:
    """Draw the style's photos with the backbone, and find the faces in them."""
    from mcap.training.prepare import REFERENCES_DRAWN, draw_references

    with progress(ctx, "drawing the style", REFERENCES_DRAWN, unit="photos") as bar:
        paths = draw_references(
            backbone, request.profile, folder, request.seed, on_picture=lambda _: bar.advance(1)
        )
    masked = mask_photos(
        paths,
        role="reference",
        detector=found.detector,
        identity=found.identity,
        masker=registry().create("masker", request.settings.masker),
        settings=found.sources.settings,
    )
    found.drawn.append(masked)
    return masked


def refused_records(found: Found) -> list[RefusedRecord]:
    """Every photo that was left out, with its reason."""
    sets = [("source", found.sources), ("reference", found.references)]
    sets += [("reference", drawn) for drawn in found.drawn]
    return [
        RefusedRecord(name=entry.path.name, role=role, reason=entry.reason)
        for role, masked in sets
        if masked is not None
        for entry in masked.refused
    ]
