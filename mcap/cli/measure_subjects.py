"""``mcap evaluate SUBJECT...``: subjects that are trained already, drawn from and measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mcap.cli.backbone import load_generation_models
from mcap.cli.draw_and_measure import Drawing, draw_and_measure, face_tools
from mcap.cli.enhance import backbone_notice
from mcap.cli.measures import Yardsticks, choose_yardsticks
from mcap.cli.output import warn
from mcap.contracts import MetricInput
from mcap.errors import McapError, UsageError
from mcap.evaluation.drawing import pictures_in
from mcap.evaluation.entrants import Entrant, Result
from mcap.evaluation.run import measure_entrant, teaches, training_cost
from mcap.generation.run import check_backbone
from mcap.images.find import find_photos
from mcap.masking.records import MaskSettings
from mcap.masking.select import mask_photos, mask_references
from mcap.registry import registry
from mcap.runtime.files import sha256_of
from mcap.style.profile import find_profile
from mcap.subjects.subject import read_subject

if TYPE_CHECKING:
    import typer

    from mcap.cli.evaluation_request import EvaluationRequest
    from mcap.cli.settings import Settings
    from mcap.contracts import FaceTools
    from mcap.generation.settings import GenerationModels
    from mcap.style.profile import StyleProfile
    from mcap.subjects.subject import Subject


def measure_subjects(
    ctx: typer.Context, settings: Settings, wanted: EvaluationRequest
) -> tuple[Yardsticks, list[Result]]:
    """Return the values of each subject; one that cannot be measured becomes a row that says why.

    Raises the error of the first where that is true of all of them.
    """
    read: list[Subject | McapError] = []
    for path in wanted.subjects:
        try:
            read.append(read_subject(path))
        except McapError as error:
            read.append(error)
    there = [subject for subject in read if not isinstance(subject, McapError)]
    if not there:
        assert isinstance(read[0], McapError)
        raise read[0]
    teachers = {one.identity_network for one in there if teaches(one.manifest.recipe)}
    yardsticks = choose_yardsticks(
        wanted.measures, wanted.measure_with, settings.detector, teachers
    )
    work = Measuring(ctx, settings, wanted, yardsticks, named_photos(wanted.source))
    results: list[Result] = []
    errors: list[McapError] = []
    for index, found in enumerate(read):
        entrant = work.entrant(wanted.subjects[index], found)
        try:
            if isinstance(found, McapError):
                raise found
            images = wanted.images[index] if wanted.images else None
            results.append(work.measure(entrant, found, images))
        except McapError as error:
            if error.exit_code == 130:
                raise
            errors.append(error)
            if len(read) > 1:
                warn(ctx, str(error))
            results.append(Result(entrant, remark=str(error)))
    if len(errors) == len(read):
        raise errors[0]
    return yardsticks, results


def named_photos(sources: Sequence[Path]) -> dict[Path, str]:
    """Return the photos in these folders and their subfolders, each with its folder's name.

    `UsageError` where there is no such folder.
    """
    found: dict[Path, str] = {}
    for source in sources:
        if not source.exists():
            raise UsageError(f"--source {source}: there is no such file or folder.")
        inner = (
            [path for path in sorted(source.iterdir()) if path.is_dir()] if source.is_dir() else []
        )
        for folder in (source, *inner):
            found |= {path: folder.resolve().name for path in find_photos([folder])}
    return found


class Measuring:
    """The subjects one after the other; what they share is loaded once."""

    def __init__(
        self,
        ctx: typer.Context,
        settings: Settings,
        wanted: EvaluationRequest,
        yardsticks: Yardsticks,
        photos: dict[Path, str],
    ) -> None:
        self.ctx, self.settings, self.wanted = ctx, settings, wanted
        self.yardsticks = yardsticks
        self.photos = photos
        self.hashes = {path: sha256_of(path) for path in photos}
        self.people: dict[frozenset[str], str] = {}
        self.taken: set[tuple[str, ...]] = set()
        self.tools: FaceTools = face_tools(settings)
        self.loaded: tuple[str, GenerationModels] | None = None

    def entrant(self, path: Path, subject: Subject | McapError) -> Entrant:
        """Return a subject's place in the table.

        Subjects that were trained on the same photos are of one person. Two that differ in nothing
        that the table shows are told apart by their folders' names.
        """
        name = path.name.removesuffix(".mcap")
        if isinstance(subject, McapError):
            return Entrant("not read", name, "", 0, path)
        manifest = subject.manifest
        hashes = frozenset(manifest.inputs.get("source photos", {}).values())
        own = [folder for photo, folder in self.photos.items() if self.hashes[photo] in hashes]
        person = self.people.setdefault(hashes or frozenset([str(path)]), own[0] if own else name)
        recipe = str(manifest.recipe.get("name", "unknown"))
        found = Entrant(recipe, person, manifest.profile.name, manifest.seed, path)
        if (recipe, *found.key) in self.taken:
            found = replace(found, recipe=f"{recipe} ({name})")
        self.taken.add((recipe, *found.key))
        return found

    def measure(self, entrant: Entrant, subject: Subject, images: Path | None) -> Result:
        """Return one subject's values."""
        profile = self.profile(subject)
        masking = MaskSettings(photos=self.settings.photos, faces=self.settings.faces)
        observer = self.yardsticks.observer
        photos = self.photos_of(subject)
        masked = mask_photos(photos, self.tools, masking)
        references = sorted((subject.path / "references").glob("*.png"))
        if not references and profile is not None:
            references = profile.reference_paths()
        style = mask_references(references, self.tools, masking)
        known = MetricInput(
            (),
            photos=observer.see_photos(masked),
            references=observer.see_photos(style),
            profile=profile,
            training=training_cost(subject),
        )
        trained = subject.manifest.backbone
        if images is not None:
            words = (profile.title if profile else "") or subject.manifest.profile.name
            pictures = pictures_in(images, subject, words.lower())
            metrics = self.yardsticks.metrics
            found = measure_entrant(entrant, pictures, known, observer, metrics, trained.id)
            return replace(found, notice=backbone_notice(subject.path))
        if profile is None:
            raise UsageError(
                f"{subject.path}: its style '{subject.manifest.profile.name}' is not here, so "
                "nothing can be drawn; give the profile's file with --style, or --images."
            )
        models = self.models(subject)
        check_backbone(subject, models.backbone.info)
        wanted = self.wanted
        drawing = Drawing(wanted.out, wanted.count, wanted.seed, self.yardsticks)
        return draw_and_measure(self.ctx, entrant, subject, profile, models, known, drawing)

    def photos_of(self, subject: Subject) -> list[Path]:
        """Return the photos that a subject was trained on, else those that lie there loosely."""
        hashes = set(subject.manifest.inputs.get("source photos", {}).values())
        own = [path for path in self.photos if self.hashes[path] in hashes]
        loose = [source.resolve() for source in self.wanted.source]
        return own or [path for path in self.photos if path.parent.resolve() in loose]

    def profile(self, subject: Subject) -> StyleProfile | None:
        """Return the subject's style, one of ``--style`` or one that is found by name."""
        name = subject.manifest.profile.name
        for text in (*self.wanted.styles, name):
            try:
                found = find_profile(text, registry().profile_dirs)
            except UsageError:
                if text != name:
                    raise
                return None
            if found.name == name:
                return found
        return None

    def models(self, subject: Subject) -> GenerationModels:
        """Return the subject's backbone and networks; those of the last one where they fit."""
        trained = subject.manifest
        key = f"{trained.backbone.sha256} {subject.identity_network} {trained.encoder}"
        if self.loaded is None or self.loaded[0] != key or self.wanted.backbone:
            self.loaded = None
            models = load_generation_models(self.ctx, subject, self.settings, self.wanted.backbone)
            self.loaded = key, models
        return self.loaded[1]
