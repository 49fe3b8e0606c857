"""The plan of a batch, before its first job: styles, weights, time and disk of every job."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mcap.batch.folder import JobFolders
from mcap.batch.jobs import Job
from mcap.batch.ledger import Planned
from mcap.batch.settings import BatchSettings
from mcap.cli.enhance import PERSON_MASKER
from mcap.cli.output import human_bytes
from mcap.cli.restorers import choose_restorer, restorer_names
from mcap.cli.settings import Settings
from mcap.cli.train import make_request
from mcap.diffusion.sampling import STEPS
from mcap.errors import MissingResourceError, UsageError
from mcap.images.find import find_photos
from mcap.registry import registry
from mcap.training.costs import (
    EFFICIENCY,
    estimate_disk_mb,
    estimate_step_seconds,
    measure_gflops,
)
from mcap.training.options import Options
from mcap.training.plan import required_weights
from mcap.training.request import TrainingRequest
from mcap.training.timing import estimated_time
from mcap.weights.required import WeightLine, weight_lines

PICTURES_MB = 100.0
"""On disk of a job's masks, pictures and subject, about."""

MACHINES_OWN = frozenset({"cache_dir"})
"""Settings that are each machine's own."""


@dataclass(frozen=True)
class BatchPlan:
    """The jobs of a batch, the weights that they need, and notices."""

    jobs: Sequence[Planned]
    weights: Sequence[WeightLine]
    notices: Sequence[str]
    """Of licences, and of the backbone's pictures."""

    @property
    def seconds(self) -> float | None:
        """Of all jobs, one after the other; None where it is not known."""
        known = [job.estimate for job in self.jobs if job.estimate is not None]
        return sum(known) if len(known) == len(self.jobs) else None

    def require_weights(self) -> None:
        """Raise `MissingResourceError` with the list of what is to be fetched first.

        Every worker needs the same, and none is to wait for another one's download.
        """
        absent = [line for line in self.weights if not line.here]
        if absent:
            told = "; ".join(
                f"{line.name}, {human_bytes(line.bytes)}, {line.licence}"
                + ("" if line.commercial else ", no commercial use")
                + f" ({line.used_for})"
                for line in absent
            )
            command = f"mcap models pull {' '.join(line.name for line in absent)}"
            raise MissingResourceError(
                f"Not on this machine: {told}. No job was begun. Fetch once, for all of them: "
                f"{command}",
                details={"missing": [line.name for line in absent], "command": command},
            )


def plan_batch(
    jobs: Sequence[Job], out: Path, settings: Settings, wanted: BatchSettings
) -> BatchPlan:
    """Return the plan; every name is looked up once.

    Raises `UsageError` or `MissingResourceError` that names the job and what is wrong with it.
    """
    choices = [choose_restorer(name) for name in enhancing_with(settings, wanted)]
    gflops: float | None = None
    requests: dict[tuple[str, tuple[str, ...]], TrainingRequest] = {}
    photos = {job.source: len(find_photos([job.source])) for job in jobs}
    planned = []
    for job in jobs:
        key = (job.style, job.overrides)
        if key not in requests:
            requests[key] = job_request(job, out, settings)
        request = requests[key]
        if gflops is None:
            gflops = measure_gflops(request.device, request.dtype)
        planned.append(planned_job(job, photos[job.source], request, gflops, wanted))
    entries = [choice.entry for choice in choices]
    lines = {line.name: line for line in weight_lines(entries)}
    for request in requests.values():
        lines |= {line.name: line for line in required_weights(request)}
    first = next(iter(requests.values()))
    notices = [text for text in (first.backbone.notice,) if text]
    notices += sorted(
        {
            f"{one.profile.name}: {one.profile.notice}"
            for one in requests.values()
            if one.profile.notice
        }
    )
    without = dict.fromkeys(job.person for job in jobs if not photos[job.source])
    if without:
        notices.append(
            f"No photo lies directly in the folder of {', '.join(without)}: refused when it is "
            "their turn. Subfolders are not looked into."
        )
    if wanted.enhance and PERSON_MASKER in registry().entries["masker"]:
        # Without it a profile's framing is all that is done, as mcap enhance does.
        needed = weight_lines([registry().get("masker", PERSON_MASKER)])
        absent = " ".join(line.name for line in needed if not line.here)
        if absent:
            notices.append(
                f"Backgrounds are not replaced: for that, first run mcap models pull {absent}"
            )
    return BatchPlan(planned, list(lines.values()), notices)


def job_request(job: Job, out: Path, settings: Settings) -> TrainingRequest:
    """Return the training that a job asks for; errors begin with where the job stands."""
    try:
        return make_request(
            settings,
            source=[str(job.source)],
            style=job.style,
            reference=(),
            out=JobFolders(out, job.person, job.style).subject,
            overrides=job.overrides,
            subject=None,
            masks=None,
            masker=None,
            low_memory=False,
        )
    except (UsageError, MissingResourceError) as error:
        where = f"{job.origin}: " if job.origin else ""
        raise type(error)(f"{where}{error}", details=error.details) from error


def planned_job(
    job: Job, photos: int, request: TrainingRequest, gflops: float, wanted: BatchSettings
) -> Planned:
    """Return a job with its time, which goes by the number of its photos, and its disk space."""
    facts = request.backbone
    recipe = request.recipe.for_photos(max(1, photos))
    how = Options(checkpoint_every=wanted.checkpoint_every)
    seconds = estimated_time(recipe, estimate_step_seconds(recipe, facts, gflops)).left(recipe, how)
    if seconds is not None:
        count = wanted.count or request.profile.generate.count
        # With guidance each step has two rows.
        seconds += count * STEPS * 2 * (facts.gflop_row or 0.0) / (gflops * EFFICIENCY)
    half = request.dtype.itemsize == 2
    _, disk = estimate_disk_mb(recipe, facts, half=half, checkpoints=how.kept(recipe))
    return Planned(job, seconds, disk + PICTURES_MB)


def enhancing_with(settings: Settings, wanted: BatchSettings) -> tuple[str, ...]:
    """Return the names of the restorers; () where nothing is enhanced."""
    if not wanted.enhance:
        return ()
    return restorer_names(wanted.restorer) if wanted.restorer else tuple(settings.enhance.restorers)


def as_environment(settings: Settings) -> Mapping[str, str]:
    """Return the settings as ``MCAP_*`` variables, those that have their default, too: a worker on
    another machine has an mcap.toml of its own, which is not to count."""
    found = {}
    for name, value in settings.model_dump(mode="json").items():
        if value is None or name in MACHINES_OWN or name == "seed":
            continue
        if name == "offline" and not value:  # a machine may have no network of its own
            continue
        text = value if isinstance(value, str) else json.dumps(value)
        found[f"MCAP_{name.upper()}"] = text
    return found
