"""``mcap evaluate --search KEY=V1,V2``: a few keys of each recipe, searched with one budget."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from mcap.cli.compare_recipes import Comparing, make_trial, taught
from mcap.cli.measures import choose_yardsticks
from mcap.cli.output import emit, note
from mcap.cli.repeat_command import repeat_command
from mcap.cli.train_output import about
from mcap.errors import Interrupted, McapError, UsageError
from mcap.evaluation.entrants import Entrant
from mcap.evaluation.files import SEARCH_SCHEMA
from mcap.evaluation.search import (
    SCORED_BY,
    Candidate,
    Rung,
    better_half,
    candidates,
    rungs,
    score,
)
from mcap.images.find import people_in
from mcap.runtime.files import write_json
from mcap.training.plan import required_weights
from mcap.weights.locate import require_here

if TYPE_CHECKING:
    import typer
    from rich.console import Console

    from mcap.cli.compare_recipes import Trial
    from mcap.cli.evaluation_request import EvaluationRequest
    from mcap.cli.settings import Settings
    from mcap.evaluation.entrants import Result

SEARCH = "search.json"


def search_recipes(ctx: typer.Context, settings: Settings, wanted: EvaluationRequest) -> None:
    """Search each recipe's keys by successive halving, and write search.json.

    Every recipe has the same candidates, trainings and pictures. Trainings are found again.
    """
    choices = candidates(wanted.search)
    people = people_in(wanted.source, "--source ")
    # People first: a candidate's second training is of another person and not in another style.
    cells = [(person, style) for style in wanted.styles for person in people]

    def trial(recipe: str, candidate: Candidate, cell: tuple[str, str]) -> Trial:
        person, style = cell
        place = Entrant(label(recipe, candidate), person, style, 0, people[person])
        return make_trial(settings, wanted, place, recipe, candidate)

    first = [trial(recipe, (), cell) for recipe in wanted.recipes for cell in cells]
    # A key or value that does not exist is told now and not after hours.
    every = [trial(recipe, one, cells[0]) for recipe in wanted.recipes for one in choices]
    teachers = {settings.identity} if any(taught(one) for one in every) else set()
    yardsticks = choose_yardsticks(SCORED_BY, wanted.measure_with, settings.detector, teachers)
    if set(yardsticks.metrics) != set(SCORED_BY):
        why = "; ".join(f"{name}: {reason}" for name, reason in yardsticks.left_out.items())
        raise UsageError(f"--search scores by {' and '.join(SCORED_BY)}. {why}")
    if not wanted.dry_run:
        require_here(sorted({line.name for one in first for line in required_weights(one.request)}))
    work = Comparing(ctx, settings, wanted, yardsticks)
    work.find_faces(first)
    for one in first:
        if (refusal := work.refusal(one)) is not None:
            raise refusal
    plan = rungs(len(choices), len(cells))
    found = announce(ctx, wanted, work, plan, first[:: len(cells)])
    if wanted.dry_run:
        emit(ctx, found, lambda console: console.print("--dry-run: nothing was trained."))
        return
    for recipe in wanted.recipes:
        left, told = choices, list[dict[str, Any]]()
        for rung in plan:
            scores = {
                one: scored(work, [trial(recipe, one, cell) for cell in cells[: rung.cells]])
                for one in left
            }
            left = better_half(scores)
            told.append(
                {
                    "cells": rung.cells,
                    "scores": [{"set": list(one), "score": scores[one]} for one in scores],
                }
            )
        found["recipes"][recipe] = {"best": list(left[0]), "rungs": told}
        write_json(wanted.out / SEARCH, found)
    emit(
        ctx, {**found, "file": wanted.out / SEARCH}, partial(print_best, found=found, wanted=wanted)
    )


def announce(
    ctx: typer.Context,
    wanted: EvaluationRequest,
    work: Comparing,
    plan: Sequence[Rung],
    each: Sequence[Trial],
) -> dict[str, Any]:
    """Say how many trainings there are and about how long they take; return search.json's start.

    ``each`` is one training of each recipe.
    """
    before = 0
    trainings = 0
    for rung in plan:  # a candidate that goes on is trained on the further cells alone
        trainings += rung.candidates * (rung.cells - before)
        before = rung.cells
    seconds = work.seconds_of([one for one in each for _ in range(trainings)])
    time = "a time not known yet" if seconds is None else f"{about(seconds)} without the drawing"
    note(
        ctx,
        f"Search: {plan[0].candidates} candidates of each of {', '.join(wanted.recipes)}; "
        f"{trainings} trainings of each; {time}. Interrupted, the same command goes on.",
    )
    return {
        "schema": SEARCH_SCHEMA,
        "command": repeat_command(ctx),
        "scored_by": list(SCORED_BY),
        "trainings_of_each": trainings,
        "seconds": seconds,
        "recipes": {},
    }


def label(recipe: str, candidate: Candidate) -> str:
    """Return the name of a candidate's files: the recipe's own, or with a hash of its keys."""
    if not candidate:
        return recipe
    return f"{recipe}-{hashlib.sha256(' '.join(candidate).encode()).hexdigest()[:8]}"


def scored(work: Comparing, trials: Sequence[Trial]) -> float:
    """Return a candidate's score; one whose training fails is the worst, and said to be."""
    results: list[Result] = []
    for one in trials:
        try:
            work.left = work.begun + 1
            results.append(work.result(one))
        except Interrupted:
            raise
        except McapError as error:
            note(work.ctx, f"{one.entrant.name}: {error}")
            return score([])
    return score(results)


def print_best(console: Console, found: Mapping[str, Any], wanted: EvaluationRequest) -> None:
    """Print each recipe's best keys, as they are given to other commands."""
    for recipe, told in found["recipes"].items():
        keys = " ".join(f"--set {text}" for text in told["best"]) or "as it is"
        console.print(f"{recipe}: {keys}", markup=False)
    console.print(f"Compare them so, on other people: --tuned {wanted.out / SEARCH}", markup=False)
