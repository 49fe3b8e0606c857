"""One entrant on the terminal: its pictures drawn where they are not there, and measured."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mcap.cli.backbone import load_judge
from mcap.cli.follow import follow
from mcap.cli.output import note
from mcap.cli.photo_tools import make_photo_tools, photo_entries
from mcap.contracts import FaceTools
from mcap.evaluation.drawing import draw_strangers, drawn_pictures
from mcap.evaluation.run import measure_entrant
from mcap.generation.events import GenerationFinished
from mcap.generation.run import generate
from mcap.generation.settings import GenerateSettings

if TYPE_CHECKING:
    import typer

    from mcap.cli.measures import Yardsticks
    from mcap.cli.settings import Settings
    from mcap.contracts import MetricInput
    from mcap.evaluation.entrants import Entrant, Result
    from mcap.generation.events import GenerationEvent
    from mcap.generation.settings import GenerationModels
    from mcap.style.profile import StyleProfile
    from mcap.subjects.subject import Subject

PICTURES = "pictures"
STRANGERS = "strangers"


@dataclass(frozen=True)
class Drawing:
    """Number of pictures to draw, first seed and folder; and who measures them."""

    out: Path
    count: int
    seed: int
    yardsticks: Yardsticks


def face_tools(settings: Settings) -> FaceTools:
    """Return what finds, compares, masks and judges faces, as the settings name it."""
    of_faces = settings.model_copy(update={"subject_kind": "face"})
    tools = make_photo_tools(photo_entries(of_faces, None))
    assert isinstance(tools, FaceTools)
    return replace(tools, judge=load_judge(settings, settings.identity))


def draw_and_measure(
    ctx: typer.Context,
    entrant: Entrant,
    subject: Subject,
    profile: StyleProfile,
    models: GenerationModels,
    known: MetricInput,
    drawing: Drawing,
) -> Result:
    """Draw an entrant's pictures, and strangers where a measure needs them; measure them.

    What is there already is not drawn again.
    """
    folder = drawing.out / PICTURES / entrant.name
    settings = GenerateSettings(count=drawing.count, seed=drawing.seed)

    def begin(on_step: Callable[[int], None]) -> Generator[GenerationEvent]:
        return generate(subject, profile, models, folder, settings, on_step=on_step)

    *_, finished = follow(ctx, begin, folder, entrant.name, "draw", models.backbone)
    assert isinstance(finished, GenerationFinished)  # the last event
    observer = drawing.yardsticks.observer
    if drawing.yardsticks.need("strangers"):
        note(ctx, f"{entrant.name}: strangers, drawn without the identity word.")
        strangers = partial(
            draw_strangers,
            backbone=models.backbone,
            profile=profile,
            seeds=range(drawing.seed, drawing.seed + drawing.count),
            folder=drawing.out / STRANGERS,
            safety=models.safety,
            marks=models.marks,
        )
        drawn, before = strangers(subject), strangers(None)
        both = [seed for seed in drawn if seed in before]  # none withheld
        known = replace(
            known,
            strangers=[observer.see(drawn[seed]) for seed in both],
            untouched=[observer.see(before[seed]) for seed in both],
        )
    pictures = drawn_pictures(finished.pictures, (profile.title or profile.name).lower())
    metrics = drawing.yardsticks.metrics
    info = models.backbone.info
    found = measure_entrant(entrant, pictures, known, observer, metrics, info.id)
    return replace(found, notice=info.notice)
