"""``mcap batch``: many people, each in one style or several, on every GPU here or on a cluster."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from mcap.cli import complete, options
from mcap.cli.train import BACKBONE, RECIPE
from mcap.errors import did_you_mean

if TYPE_CHECKING:
    from rich.console import Console

    from mcap.batch.jobs import Job
    from mcap.batch.ledger import JobRow, Planned
    from mcap.batch.settings import BatchSettings
    from mcap.contracts import Engine, WorkerPlan


class PeopleFirst(TyperGroup):
    """``mcap batch CLIENTS`` is ``mcap batch run CLIENTS``; a folder called status is ./status."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            meant = "" if os.path.lexists(args[0]) else did_you_mean(args[0], self.commands)
            if meant:
                ctx.fail(f"'{args[0]}' is no command, and no such folder is here.{meant}")
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    help="Portraits of many people: jobs on every GPU here or on a Ray cluster.\n\n"
    "mcap batch CLIENTS --style passport --out STUDIO is short for mcap batch run.",
    cls=PeopleFirst,
    no_args_is_help=True,
    rich_markup_mode="rich",
)

PEOPLE = typer.Argument(
    help="A folder with a subfolder of photos a person, or jobs.toml, or jobs.csv (columns person, "
    "source, style, seed, overrides).",
    metavar="CLIENTS|JOBS",
)
STUDIO = typer.Argument(help="The folder that --out named.", metavar="STUDIO")
OUT = typer.Option(help="Folder of the batch: ledger, pages, a folder a person.", metavar="STUDIO")
STYLE = typer.Option(
    help="Style profile, by name or path; several separated by commas, or more than once.",
    metavar="PROFILE",
    autocompletion=complete.profiles,
)
GENERATE = typer.Option(
    help="How many pictures of each style. Default: the profile's number.", metavar="N", min=1
)
BEST = typer.Option(help="Keep the K most similar to the person of each style.", metavar="K", min=1)
ENHANCE = typer.Option("--enhance", help="Enlarge the pictures, and frame them as the style asks.")
RESTORER = typer.Option(
    help="With --enhance: restorers in their order, as mcap enhance takes them.",
    metavar="A,B",
    autocompletion=complete.restorers,
)
ENGINE = typer.Option(
    help="Who does the jobs: local, processes on this machine; ray, a Ray cluster, which pip "
    "installs as the extra ray.",
    metavar="NAME",
    autocompletion=complete.engines,
)
GPUS = typer.Option(
    help="GPUs to use, by number as in 0,1; all; none. Default: all.", metavar="all|none|0,1"
)
PER_GPU = typer.Option(help="Workers that share a GPU: each needs its memory.", metavar="N", min=1)
WORKERS = typer.Option(
    help="How many jobs at once. Default: one a GPU; without a GPU one for every four processors.",
    metavar="N",
    min=1,
)
THREADS = typer.Option(
    help="Threads of the CPU for each worker. Default: the processors, divided among the workers, "
    "when the batch begins; a batch that goes on keeps its number.",
    metavar="N",
    min=1,
)
RAY_ADDRESS = typer.Option(
    help="With --engine ray: the cluster, as HOST:6379 or ray://HOST:10001; auto: the one that "
    "runs on this machine. Default: RAY_ADDRESS, else one is started here.",
    metavar="ADDRESS",
)
FILES = typer.Option(
    help="With --engine ray: shared, every machine sees the photos and STUDIO at the same paths; "
    "copied, photos and results travel through Ray; auto: found out for each worker."
)
RAY_LABEL = typer.Option(
    help="With --engine ray: only machines with this label of Ray's, as in "
    "ray.io/accelerator-type=A100. More than once for several.",
    metavar="KEY=VALUE",
)
SEED = typer.Option(help="Seed of jobs that name none.", metavar="N", min=0)
LOW_MEMORY = typer.Option(
    "--low-memory",
    help="Train with less memory from the start; without it, where memory ran out once.",
)
FORCE = typer.Option(
    "--force", help="Where a person's photos have changed since training, train again."
)
CHECKPOINT_EVERY = typer.Option(
    help="Save every N steps what a lost job goes on from.", metavar="N", min=1
)
MIN_FREE = typer.Option(
    help="Begin no job where the disk would have less than this many MB free.", metavar="MB", min=0
)
DRY_RUN = typer.Option(
    "--dry-run", help="Say what would be done, how long it takes, what it needs."
)
FAILED_ONLY = typer.Option("--failed-only", help="Leave out jobs that were never begun.")
WATCH = typer.Option("--watch", help="Show it anew every two seconds until Ctrl-C.")
IMAGE = typer.Option(help="With k8s: the container image that has mcap.", metavar="IMAGE")
CLAIM = typer.Option(
    help="With k8s: the volume claim that is mounted at the folder in which STUDIO lies.",
    metavar="NAME",
)
FORMAT = typer.Option("--format", help="What the cluster's own queue is.")


@app.command("run")
def run(
    ctx: typer.Context,
    people: Annotated[Path, PEOPLE],
    out: Annotated[Path, OUT],
    style: Annotated[list[str] | None, STYLE] = None,
    backbone: Annotated[str | None, BACKBONE] = None,
    recipe: Annotated[str | None, RECIPE] = None,
    generate: Annotated[int | None, GENERATE] = None,
    best: Annotated[int | None, BEST] = None,
    enhance: Annotated[bool, ENHANCE] = False,
    restorer: Annotated[str | None, RESTORER] = None,
    engine: Annotated[str, ENGINE] = "local",
    gpus: Annotated[str | None, GPUS] = None,
    per_gpu: Annotated[int, PER_GPU] = 1,
    workers: Annotated[int | None, WORKERS] = None,
    threads: Annotated[int | None, THREADS] = None,
    ray_address: Annotated[str | None, RAY_ADDRESS] = None,
    ray_label: Annotated[list[str] | None, RAY_LABEL] = None,
    files: Annotated[Literal["auto", "shared", "copied"], FILES] = "auto",
    seed: Annotated[int, SEED] = 0,
    device: Annotated[str | None, options.DEVICE] = None,
    precision: Annotated[str | None, options.PRECISION] = None,
    low_memory: Annotated[bool, LOW_MEMORY] = False,
    force: Annotated[bool, FORCE] = False,
    checkpoint_every: Annotated[int, CHECKPOINT_EVERY] = 100,
    min_free: Annotated[float, MIN_FREE] = 1000.0,
    dry_run: Annotated[bool, DRY_RUN] = False,
) -> None:
    """Mask, train, generate and, with --enhance, finish: every person in every style.

    A job is a person in a style. Interrupted or killed, the same command
    goes on; what is done is left alone. A job that fails stops no other:
    STUDIO/index.html shows everybody, and why. Exit code 1 where a job failed.

    Examples:

      mcap batch CLIENTS --style passport,business --enhance --out STUDIO

      mcap batch run jobs.csv --workers 4 --out STUDIO

      mcap batch CLIENTS --style passport --engine ray --out /shared/STUDIO
    """
    from mcap.batch.settings import BatchSettings
    from mcap.cli.batch_plan import as_environment, plan_batch
    from mcap.cli.output import emit, note
    from mcap.cli.settings import load_settings
    from mcap.runtime.files import require_writable

    if restorer is not None and not enhance:
        from mcap.errors import UsageError

        raise UsageError("--restorer: goes with --enhance.")
    settings = load_settings(
        ctx.obj, backbone=backbone, recipe=recipe, device=device, precision=precision
    )
    jobs = jobs_apart(people, style, seed, out)
    made = make_engine(engine, ray_address)
    device, gpus = places(settings.device, gpus)
    settings = settings.model_copy(update={"device": device})
    workforce = worker_plan(
        out, workers=workers, gpus=gpus,
        per_gpu=per_gpu, threads=threads, address=ray_address, labels=ray_label, files=files,
    )  # fmt: skip
    wanted = BatchSettings(
        environment=as_environment(settings), count=generate, best=best, enhance=enhance,
        restorer=restorer, low_memory=low_memory, force=force, checkpoint_every=checkpoint_every,
        min_free_mb=min_free,
    )  # fmt: skip
    if not dry_run:
        require_writable(out)
    plan = plan_batch(jobs, out.absolute(), settings, wanted)
    for text in plan.notices:
        note(ctx, text)
    if dry_run:
        emit(ctx, plan_json(plan), partial(print_plan, plan=plan))
        return
    plan.require_weights()
    go(ctx, plan.jobs, out, made, wanted, workforce)


@app.command("retry")
def retry(
    ctx: typer.Context,
    studio: Annotated[Path, STUDIO],
    failed_only: Annotated[bool, FAILED_ONLY] = False,
    engine: Annotated[str, ENGINE] = "local",
    gpus: Annotated[str | None, GPUS] = None,
    per_gpu: Annotated[int, PER_GPU] = 1,
    workers: Annotated[int | None, WORKERS] = None,
    ray_address: Annotated[str | None, RAY_ADDRESS] = None,
    ray_label: Annotated[list[str] | None, RAY_LABEL] = None,
    files: Annotated[Literal["auto", "shared", "copied"], FILES] = "auto",
    low_memory: Annotated[bool, LOW_MEMORY] = False,
    force: Annotated[bool, FORCE] = False,
) -> None:
    """Try the jobs again that were given up, and go on with those that wait.

    With the settings of the batch, which the ledger holds; the attempts until
    now are forgiven.

    Example:

      mcap batch retry STUDIO --failed-only
    """
    from mcap.batch.ledger import Ledger
    from mcap.batch.settings import BatchSettings

    with closing(Ledger(studio)) as ledger:
        stored = BatchSettings.model_validate(ledger.get("settings", {}))
    wanted = stored.model_copy(
        update={"force": force, "low_memory": low_memory or stored.low_memory}
    )
    _, gpus = places(stored.environment.get("MCAP_DEVICE", "auto"), gpus)
    workforce = worker_plan(
        studio, workers=workers, gpus=gpus, per_gpu=per_gpu, threads=None,
        address=ray_address, labels=ray_label, files=files,
    )  # fmt: skip
    made = make_engine(engine, ray_address)
    go(ctx, None, studio, made, wanted, workforce, failed_only=failed_only)


@app.command("status")
def status(
    ctx: typer.Context,
    studio: Annotated[Path, STUDIO],
    watch: Annotated[bool, WATCH] = False,
) -> None:
    """Show how every job stands; a batch that runs is not disturbed.

    Examples:

      mcap batch status STUDIO

      mcap batch status STUDIO --watch
    """
    import time

    from mcap.batch.emit import collect_outcomes
    from mcap.batch.ledger import Ledger
    from mcap.cli.output import console, emit

    def look() -> list[JobRow]:
        with closing(Ledger(studio)) as ledger:
            collect_outcomes(ledger, studio)
            return ledger.rows()

    rows = look()
    if watch and not ctx.obj.json:
        try:
            while any(row.state in ("waiting", "running") for row in rows):
                shown = console()
                shown.clear()
                print_status(shown, rows=rows)
                time.sleep(2.0)
                rows = look()
        except KeyboardInterrupt:
            return
    emit(ctx, status_json(rows), partial(print_status, rows=rows))


@app.command("emit")
def emit_(
    ctx: typer.Context,
    people: Annotated[Path, PEOPLE],
    out: Annotated[Path, OUT],
    format: Annotated[Literal["slurm", "k8s"], FORMAT],
    style: Annotated[list[str] | None, STYLE] = None,
    backbone: Annotated[str | None, BACKBONE] = None,
    generate: Annotated[int | None, GENERATE] = None,
    best: Annotated[int | None, BEST] = None,
    enhance: Annotated[bool, ENHANCE] = False,
    workers: Annotated[
        int | None, typer.Option(help="At most so many at once.", metavar="N", min=1)
    ] = None,
    gpus: Annotated[int, typer.Option(help="GPUs of each task.", metavar="N", min=0)] = 1,
    threads: Annotated[int, typer.Option(help="Processors of each task.", metavar="N", min=1)] = 4,
    image: Annotated[str, IMAGE] = "mcap:latest",
    claim: Annotated[str, CLAIM] = "studio",
    seed: Annotated[int, SEED] = 0,
) -> None:
    """Print a job array for a cluster that has a queue of its own: a task a person.

    The jobs are written into STUDIO's ledger, from which each task takes its
    person's. Once the array is done, mcap batch status STUDIO shows them; the
    run command takes up what failed.

    Example:

      mcap batch emit CLIENTS --style passport --out /shared/STUDIO --format slurm > array.sh
    """
    from mcap.batch.emit import Array, kubernetes_job, prepare_array, slurm_script
    from mcap.batch.settings import BatchSettings
    from mcap.cli.batch_plan import as_environment, plan_batch
    from mcap.cli.lock_folder import lock_folder
    from mcap.cli.output import emit, note
    from mcap.cli.settings import load_settings
    from mcap.runtime.files import require_writable

    settings = load_settings(ctx.obj, backbone=backbone)
    jobs = jobs_apart(people, style, seed, out)
    wanted = BatchSettings(
        environment=as_environment(settings), count=generate, best=best, enhance=enhance
    )
    require_writable(out)
    lock_folder(ctx, out)
    plan = plan_batch(jobs, out.absolute(), settings, wanted)
    names = prepare_array(out.absolute(), plan.jobs, wanted, threads)
    array = Array(out.absolute(), names, workers, gpus, threads, image, claim)
    text = slurm_script(array) if format == "slurm" else kubernetes_job(array)
    absent = [line.name for line in plan.weights if not line.here]
    if absent:
        note(ctx, f"Fetch first, where the tasks run: mcap models pull {' '.join(absent)}")
    emit(
        ctx,
        {"format": format, "tasks": len(names), "people": names, "script": text},
        lambda console: print(text, end=""),
    )


@app.command("task")
def task(
    ctx: typer.Context,
    studio: Annotated[Path, STUDIO],
    number: Annotated[int, typer.Argument(help="Of the person, from 0.", metavar="NUMBER", min=0)],
) -> None:
    """Do the jobs of one person, in one process: a task of the job array of mcap batch emit.

    Example:

      mcap batch task /shared/STUDIO 0
    """
    from mcap.batch.emit import run_task
    from mcap.cli.batch_job import make_runner
    from mcap.cli.output import emit

    with terminated_as_interrupted():
        found = run_task(studio.absolute(), number, make_runner)
    emit(ctx, {"jobs": found}, lambda console: print_task(console, found))
    raise typer.Exit(max((job["exit_code"] for job in found), default=0))


def jobs_apart(people: Path, styles: Sequence[str] | None, seed: int, out: Path) -> list[Job]:
    """Return the jobs; ``styles`` may hold commas.

    `UsageError` where ``out`` is the people's folder: what is written there would be people next
    time.
    """
    from mcap.batch.jobs import read_jobs
    from mcap.errors import UsageError

    if people.is_dir() and out.resolve() == people.resolve():
        raise UsageError(
            f"--out {out}: is the folder of the photos; name another one, which may lie in it."
        )
    names = [name for text in styles or () for name in text.split(",") if name]
    return read_jobs(people, names, seed)


def make_engine(name: str, address: str | None) -> Engine:
    """Return the engine; `UsageError` for an address where it takes none."""
    from mcap.errors import UsageError
    from mcap.registry import registry

    made = registry().create("engine", name)
    if address is not None and not made.info.has_address:
        raise UsageError(f"--ray-address {address}: goes with --engine ray, not {name}.")
    return made


def worker_plan(
    out: Path, *, gpus: str | None, threads: int | None, labels: Sequence[str] | None, **given: Any
) -> WorkerPlan:
    """Return the plan of the workers; `UsageError` for GPUs that are no numbers, or labels that are
    no pairs."""
    from mcap.batch.run import RUNNER
    from mcap.contracts import WorkerPlan
    from mcap.errors import UsageError

    named: tuple[str, ...] | None = None
    if gpus == "none":
        named = ()
    elif gpus not in (None, "all"):
        named = tuple(part.strip() for part in str(gpus).split(","))
        if not all(part.isdigit() for part in named) or len(set(named)) < len(named):
            raise UsageError(f"--gpus {gpus}: give all, none, or numbers such as 0,1, each once.")
    pairs = [text.partition("=") for text in labels or ()]
    for key, equals, value in pairs:
        if not (key and equals and value):
            raise UsageError(f"--ray-label {key}{equals}{value}: give KEY=VALUE.")
    given["labels"] = {key: value for key, _, value in pairs}
    return WorkerPlan(RUNNER, out.absolute(), gpus=named, threads=threads, **given)


def places(device: str, gpus: str | None) -> tuple[str, str | None]:
    """Return ``--device`` and ``--gpus`` as workers take them, each of which sees its GPU alone.

    `UsageError` where both name GPUs.
    """
    from mcap.errors import UsageError

    if device == "cpu":
        return device, "none"
    kind, _, number = device.partition(":")
    if number and gpus is not None:
        raise UsageError(f"--device {device}: and --gpus {gpus} both name GPUs; leave one out.")
    return kind, number or gpus


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM, by which queues and service managers end a program, does what Ctrl-C does."""
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def go(
    ctx: typer.Context,
    jobs: Sequence[Planned] | None,
    out: Path,
    engine: Engine,
    wanted: BatchSettings,
    workforce: WorkerPlan,
    *,
    failed_only: bool = False,
) -> None:
    """Run a batch to its end on the terminal; leave with its exit code."""
    from mcap.batch.folder import PAGE
    from mcap.batch.ledger import Ledger
    from mcap.batch.run import run_batch
    from mcap.cli.batch_progress import BatchProgress, show_batch
    from mcap.cli.interruption import stop_on_interrupt
    from mcap.cli.output import emit
    from mcap.cli.repeat_command import repeat_command
    from mcap.errors import Interrupted, McapError

    progress = BatchProgress(out.absolute())
    with terminated_as_interrupted(), stop_on_interrupt() as asked_to_stop:
        events = run_batch(
            jobs, out, engine, settings=wanted, plan=workforce, failed_only=failed_only,
            should_stop=asked_to_stop,
        )  # fmt: skip
        with closing(events):
            ended = show_batch(ctx, events, progress)
    with closing(Ledger(out)) as ledger:
        rows = ledger.rows()
    attempts = progress.of_this_run(rows)
    result = {
        "out": out,
        "report": out / PAGE,
        "done": ended.done,
        "failed": ended.failed,
        "waiting": ended.waiting,
        "workers": len(progress.workers),
        "starting_seconds": progress.starts,
        "loading_seconds": sum(one.loading_seconds or 0.0 for one in attempts),
        "saved_seconds": sum(one.saved_seconds or 0.0 for one in attempts),
        "peak_mb": max((one.peak_mb or 0.0 for one in attempts), default=0.0),
        **status_json(rows),
    }
    if ended.stopped:
        raise Interrupted(
            f"Interrupted: {ended.done} jobs are done, {ended.waiting} wait; all is saved. Go on "
            f"with: {repeat_command(ctx)}",
            details=result,
        )
    if ended.problem:
        error = McapError(ended.problem, details=result)
        error.exit_code = ended.exit_code
        raise error
    emit(ctx, result, partial(print_result, result=result, worked=bool(attempts)))
    if ended.exit_code:
        raise typer.Exit(ended.exit_code)


def print_result(console: Console, result: dict[str, Any], worked: bool) -> None:
    """Print what was done, what loading cost, and where the page lies.

    ``worked``: this run has begun a job.
    """
    console.print(f"{result['done']} done, {result['failed']} failed.")
    starts = result["starting_seconds"]
    if starts and worked:
        console.print(
            f"Starting a worker took {sum(starts) / len(starts):.1f} s, loading its networks "
            f"{result['loading_seconds'] / len(starts):.1f} s; keeping them loaded saved "
            f"{result['saved_seconds']:.1f} s of loading, and a start for each command."
        )
    if result["peak_mb"]:
        console.print(f"Peak memory of a worker: {result['peak_mb']:.0f} MB.")
    console.print(f"Report: {result['report']}", markup=False, soft_wrap=True)


def plan_json(plan: Any) -> dict[str, Any]:
    """Return the plan of ``--dry-run`` for ``--json``."""
    return {
        "dry_run": True,
        "jobs": [
            {"person": one.job.person, "style": one.job.style, "source": one.job.source,
             "seed": one.job.seed, "overrides": one.job.overrides, "seconds": one.estimate,
             "disk_mb": one.disk_mb}
            for one in plan.jobs
        ],
        "seconds": plan.seconds,
        "weights": [vars(line) for line in plan.weights],
    }  # fmt: skip


def print_plan(console: Console, plan: Any) -> None:
    """Print the jobs, their time and the weights that are not here."""
    from mcap.cli.output import human_bytes, print_rows
    from mcap.cli.train_output import about

    rows = [
        (one.job.person, one.job.style, about(one.estimate) if one.estimate else "not known")
        for one in plan.jobs
    ]
    print_rows(console, ("person", "style", "time"), rows)
    people = len({one.job.person for one in plan.jobs})
    whole = about(plan.seconds) if plan.seconds else "a time not known"
    jobs = f"{len(plan.jobs)} job{'' if len(plan.jobs) == 1 else 's'}"
    of = "1 person" if people == 1 else f"{people} people"
    console.print(f"{jobs} of {of}, {whole} one after the other.")
    for line in plan.weights:
        if not line.here:
            console.print(f"To fetch: {line.name}, {human_bytes(line.bytes)}, {line.licence}")


def status_json(rows: Sequence[JobRow]) -> dict[str, Any]:
    """Return how the jobs stand, for ``--json``."""
    from mcap.batch.retry import remedy

    found = []
    for row in rows:
        causes = [attempt.cause for attempt in row.counted]
        failed = row.state == "failed"
        found.append(
            {
                "person": row.job.person,
                "style": row.job.style,
                "state": row.state,
                "cause": row.cause or None,
                "stage": row.stage or None,
                "message": row.message or None,
                "remedy": (remedy(causes[-1], causes) or None) if failed and causes else None,
                "seconds": row.seconds,
                "estimate": row.estimate,
                "details": row.details,
                "attempts": [
                    {"worker": one.worker, "exit_code": one.exit_code, "cause": one.cause or None,
                     "seconds": one.seconds, "peak_mb": one.peak_mb, "low_memory": one.low_memory}
                    for one in row.attempts
                ],
            }
        )  # fmt: skip
    return {"jobs": found}


def print_status(console: Console, rows: Sequence[JobRow]) -> None:
    """Print a line a job, and how many stand how."""
    from mcap.cli.output import print_rows
    from mcap.cli.progress import format_seconds

    cells = [
        (
            row.job.person,
            row.job.style,
            row.state,
            format_seconds(row.seconds) if row.attempts else "",
            len(row.attempts),
            f"{row.stage}: {row.message}" if row.state == "failed" else
            (row.attempts[-1].worker if row.state == "running" and row.attempts else
             " ".join(row.details.get("remarks", []))),
        )
        for row in rows
    ]  # fmt: skip
    print_rows(console, ("person", "style", "state", "time", "tries", ""), cells, right=(3, 4))
    states = [row.state for row in rows]
    counts = [f"{states.count(state)} {state}" for state in ("done", "failed", "running", "waiting")
              if state in states]  # fmt: skip
    console.print(f"{len(rows)} jobs: {', '.join(counts) or 'none'}.")


def print_task(console: Console, found: Sequence[dict[str, Any]]) -> None:
    """Print how each job of a task ended."""
    for job in found:
        console.print(f"{job['person']}, {job['style']}: {job['message'] or 'done'}", markup=False)
