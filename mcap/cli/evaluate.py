"""``mcap evaluate``: subjects measured, or recipes trained and compared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mcap.cli import complete, options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from mcap.cli.evaluation_request import EvaluationRequest
    from mcap.cli.measures import Yardsticks
    from mcap.cli.settings import Settings
    from mcap.evaluation.entrants import Comparison, Result
    from mcap.evaluation.summary import Summary

SUBJECTS = typer.Argument(
    help="Trained subjects to measure. Without any, --source and --style say what to train and "
    "compare.",
    metavar="SUBJECT",
    show_default=False,
)
OUT = typer.Option(
    help="Where the report goes, and whatever is trained and drawn for it.", metavar="DIR"
)
SOURCE = typer.Option(
    help="Photos of the people: a folder with one subfolder a person, or the photos of one person. "
    "With subjects, theirs are found in it.",
    metavar="PATH",
)
STYLE = typer.Option(
    help="Style profiles to train in, by name or path; several with commas, or more than once.",
    metavar="PROFILE,...",
    autocompletion=complete.profiles,
)
AGAINST = typer.Option(
    help="Recipes to compare magicapture with, with commas or more than once.",
    metavar="RECIPE,...",
    autocompletion=complete.recipes,
)
IMAGES = typer.Option(
    help="Measure the pictures in this folder instead of drawing some; once for each subject.",
    metavar="DIR",
)
MEASURE_WITH = typer.Option(
    help="The identity network that measures, even one that taught. Default: one that did not.",
    metavar="NAME",
    autocompletion=complete.identities,
)
MEASURES = typer.Option(
    help="Take only these measures, with commas or more than once; mcap plugins lists them.",
    metavar="NAME,...",
    autocompletion=complete.metrics,
)
COUNT = typer.Option(help="Pictures of each subject.", metavar="N", min=1, max=10_000)
SEED = typer.Option(help="Seed of the first picture; the next has one more.", metavar="N", min=0)
REPEATS = typer.Option(help="Trainings of each, with the seeds 0, 1, ...", metavar="N", min=1)
SET = typer.Option(
    "--set", help="Override a key of every recipe, as mcap train does.", metavar="KEY=VALUE"
)
BACKBONE = typer.Option(
    help="The model that learns, as of mcap train; with subjects where their backbone is now, if "
    "it was moved. Default: demo; with subjects the one that they were trained on.",
    metavar="BACKBONE",
    autocompletion=complete.backbones,
)
SEARCH = typer.Option(
    help="Search keys of each recipe instead of comparing, by successive halving over these "
    "values, the same for all. More than once for several keys. Give people that the comparison "
    "will not use.",
    metavar="KEY=VALUE,...",
)
TUNED = typer.Option(
    help="Compare the recipes with the keys that a search has found for each.",
    metavar="search.json",
)
DRY_RUN = typer.Option("--dry-run", help="Say what would be trained and how long, and stop.")
LOW_MEMORY = typer.Option("--low-memory", help="Train with less memory and more time.")


def evaluate(
    ctx: typer.Context,
    out: Annotated[Path, OUT],
    subjects: Annotated[list[Path] | None, SUBJECTS] = None,
    source: Annotated[list[Path] | None, SOURCE] = None,
    style: Annotated[list[str] | None, STYLE] = None,
    against: Annotated[list[str] | None, AGAINST] = None,
    images: Annotated[list[Path] | None, IMAGES] = None,
    measure_with: Annotated[str | None, MEASURE_WITH] = None,
    measures: Annotated[list[str] | None, MEASURES] = None,
    count: Annotated[int, COUNT] = 8,
    seed: Annotated[int, SEED] = 0,
    repeats: Annotated[int, REPEATS] = 1,
    set_: Annotated[list[str] | None, SET] = None,
    search: Annotated[list[str] | None, SEARCH] = None,
    tuned: Annotated[Path | None, TUNED] = None,
    dry_run: Annotated[bool, DRY_RUN] = False,
    backbone: Annotated[str | None, BACKBONE] = None,
    detector: Annotated[str | None, options.DETECTOR] = None,
    identity: Annotated[str | None, options.IDENTITY] = None,
    masker: Annotated[str | None, options.MASKER] = None,
    device: Annotated[str | None, options.DEVICE] = None,
    precision: Annotated[str | None, options.PRECISION] = None,
    low_memory: Annotated[bool, LOW_MEMORY] = False,
) -> None:
    """Measure subjects, or train recipes on the same people and compare them.

    Likeness by a network that did not teach, leak, style and more, each with its 95 % interval;
    differences from magicapture on the same people, styles and seeds. Writes results.csv,
    summary.json and report.html. Trainings and pictures that are there are found again: the same
    command goes on after an interruption.

    Examples:

      mcap evaluate me.mcap --source selfies --out measured

      mcap evaluate me.mcap you.mcap --source people --measures likeness,leak --out measured

      mcap evaluate --source people --style passport,business --against released --out compared

      mcap evaluate --source others --style passport --search lora_rank=8,32 --out searched
    """
    from mcap.cli.evaluation_request import EvaluationRequest, split
    from mcap.cli.lock_folder import take_folder
    from mcap.cli.settings import load_settings

    settings = load_settings(
        ctx.obj, backbone=backbone, detector=detector, identity=identity, masker=masker,
        device=device, precision=precision,
    )  # fmt: skip
    if measure_with is None and settings.measure.identity not in ("auto", "none"):
        measure_with = settings.measure.identity
    request = EvaluationRequest(
        out=out, subjects=subjects or [], source=source or [], styles=split(style),
        against=split(against), images=images or [], measures=split(measures),
        measure_with=measure_with, count=count, seed=seed, repeats=repeats, overrides=set_ or [],
        search=search or [], backbone=backbone, low_memory=low_memory, dry_run=dry_run,
        tuned=read_tuned(tuned) if tuned else {},
    )  # fmt: skip
    request.require_sense()
    take_folder(ctx, out, "evaluate", dry_run=dry_run)
    done = perform(ctx, settings, request)
    if done is not None:
        write(ctx, out, *done)


def read_tuned(path: Path) -> dict[str, list[str]]:
    """Return recipe -> KEY=VALUE texts of a search.json; `UsageError` for any other file."""
    from mcap.errors import UsageError
    from mcap.evaluation.files import SEARCH_SCHEMA
    from mcap.runtime.documents import read_json

    try:
        found = read_json(path)
        if found["schema"] != SEARCH_SCHEMA:
            raise ValueError(f"schema {found['schema']!r}")
        best = {recipe: told["best"] for recipe, told in found["recipes"].items()}
        if not all(isinstance(text, str) for texts in best.values() for text in texts):
            raise ValueError("key 'best'")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"--tuned {path}: is no search.json of mcap evaluate --search: {error}."
        ) from None
    return best


def perform(
    ctx: typer.Context, settings: Settings, request: EvaluationRequest
) -> tuple[Yardsticks, list[Result]] | None:
    """Measure, compare or search; None where there is nothing to write a report of."""
    if request.subjects:
        from mcap.cli.measure_subjects import measure_subjects

        return measure_subjects(ctx, settings, request)
    if request.search:
        from mcap.cli.search_recipes import search_recipes

        search_recipes(ctx, settings, request)
        return None
    from mcap.cli.compare_recipes import compare_recipes

    return compare_recipes(ctx, settings, request)


def write(ctx: typer.Context, out: Path, yardsticks: Yardsticks, results: Sequence[Result]) -> None:
    """Write the three files, and print the table."""
    from functools import partial

    from mcap.cli.output import emit
    from mcap.cli.repeat_command import told_command
    from mcap.evaluation.entrants import Comparison
    from mcap.evaluation.files import write_results, write_summary
    from mcap.evaluation.report import write_report
    from mcap.evaluation.summary import as_json, summarize

    comparison = Comparison(results, yardsticks.facts, yardsticks.left_out, told_command(ctx))
    summary = summarize(comparison)
    written = {
        "results": write_results(out, comparison),
        "summary": write_summary(out, comparison, summary),
        "report": write_report(out, comparison, summary),
    }
    told = {**as_json(comparison, summary), **written}
    emit(ctx, told, partial(print_table, comparison=comparison, summary=summary, files=written))


def print_table(
    console: Console, comparison: Comparison, summary: Summary, files: dict[str, Path]
) -> None:
    """Print a row a measure and a column a recipe; then what is missing, and the report."""
    from mcap.cli.output import print_rows
    from mcap.evaluation.report import gaps, table_cell

    rows = []
    for facts in comparison.measures:
        cells = [table_cell(summary, facts, recipe) for recipe in comparison.recipes]
        told = [
            f"{cell.mean} {cell.interval}" + (f", {cell.verdict}" if cell.verdict else "")
            for cell in cells
        ]
        rows.append((facts.name, *(text.strip() for text in told)))
    print_rows(console, ("", *comparison.recipes), rows)
    for name, reason in comparison.left_out.items():
        console.print(f"left out  {name}: {reason}", markup=False)
    for name, reason in gaps(comparison.results):
        console.print(f"missing   {name}: {reason}", markup=False)
    console.print(f"Report: {files['report']}", markup=False)
