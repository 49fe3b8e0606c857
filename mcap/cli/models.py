"""``mcap models``: the weights, where they lie, and under which licence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mcap.cli import complete

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    help="The weights, the files that networks are read from: list, pull, verify, path.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

Names = Annotated[
    list[str] | None,
    typer.Argument(
        help="Names of weights; mcap models list shows them.",
        metavar="NAME",
        autocompletion=complete.weights,
        show_default=False,
    ),
]


@app.command("list")
def list_(ctx: typer.Context) -> None:
    """Every weight: what it is for, its size, licence, and whether it is on this machine.

    Example:

      mcap models list
    """
    from mcap.cli.output import emit, human_bytes, print_rows
    from mcap.weights.cache import cache_dir
    from mcap.weights.catalogue import WEIGHTS
    from mcap.weights.locate import local_path

    entries: list[dict[str, Any]] = []
    for entry in WEIGHTS.values():
        path = local_path(entry.name)
        entries.append(
            {
                "name": entry.name,
                "file": entry.file,
                "bytes": entry.bytes,
                "sha256": entry.sha256 or None,
                "licence": entry.licence,
                "commercial": entry.commercial,
                "used_for": entry.used_for,
                "sources": [str(source) for source in entry.sources],
                "path": path,
                "here": path is not None,
            }
        )

    def print_weights(console: Console) -> None:
        rows = [
            (
                item["name"],
                human_bytes(item["bytes"]),
                "yes" if item["here"] else "no",
                item["licence"],
                "yes" if item["commercial"] else "no",
                item["used_for"],
            )
            for item in entries
        ]
        print_rows(console, ("name", "size", "here", "licence", "commercial use", "for"), rows)
        console.print(f"\nCache: {cache_dir()}", markup=False)

    emit(ctx, {"cache": cache_dir(), "weights": entries}, print_weights)


@app.command()
def pull(
    ctx: typer.Context,
    names: Names = None,
    everything: Annotated[
        bool,
        typer.Option(
            "--all",
            help="Every weight but Stable Diffusion and what other libraries keep for themselves.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be fetched, and fetch nothing.")
    ] = False,
) -> None:
    """Fetch weights that are not here yet; without names, those of the default settings.

    What is to be fetched is told first: how large it is, its licence, where it comes from and
    where it goes.

    Examples:

      mcap models pull

      mcap models pull insightface --dry-run
    """
    from mcap.cli.output import emit, note
    from mcap.cli.required_weights import needed_weights
    from mcap.cli.settings import load_settings
    from mcap.weights.catalogue import WEIGHTS
    from mcap.weights.fetch import fetch

    settings = load_settings(ctx.obj)
    if everything:
        chosen = [entry.name for entry in WEIGHTS.values() if entry.downloaded]
    else:
        chosen = list(names or needed_weights(settings))
    # A wrong name is told before anything is downloaded.
    plans = [fetch_plan(name) for name in chosen]

    def print_plans(console: Console) -> None:
        for plan in plans:
            for line in fetch_lines(plan):
                console.print(line, markup=False)

    if dry_run:
        emit(ctx, {"dry_run": True, "weights": plans}, print_plans)
        return
    done = []
    for plan in plans:
        for line in () if plan["here"] else fetch_lines(plan):
            note(ctx, line)
        done.append({"name": plan["name"], "path": fetch(plan["name"])})

    def print_paths(console: Console) -> None:
        for item in done:
            console.print(f"{item['name']}: {item['path']}", markup=False)

    emit(ctx, {"weights": done}, print_paths)


def fetch_plan(name: str) -> dict[str, Any]:
    """Return what fetching a weight would do, as data. No network is touched."""
    from mcap.weights.locate import local_path, origin, target, weight

    entry = weight(name)
    return {
        "name": entry.name,
        "here": local_path(name) is not None,
        "bytes": entry.bytes,
        "licence": entry.licence,
        "commercial": entry.commercial,
        "used_for": entry.used_for,
        "sources": [origin(source) for source in entry.sources],
        "path": target(name),
    }


def fetch_lines(plan: dict[str, Any]) -> list[str]:
    """Return what is told of a weight before it is fetched, a line each."""
    from mcap.cli.output import human_bytes

    if plan["here"]:
        return [f"{plan['name']}: is here already, {plan['path']}"]
    use = "" if plan["commercial"] else ", no commercial use"
    return [
        f"{plan['name']}: to fetch, about {human_bytes(plan['bytes'])}, for: {plan['used_for']}",
        f"  licence: {plan['licence']}{use}",
        *(f"  from: {source}" for source in plan["sources"]),
        f"  to: {plan['path'] or 'the package that brings it; nothing is fetched'}",
    ]


@app.command()
def verify(ctx: typer.Context, names: Names = None) -> None:
    """Compare the weights on this machine with their sha256; without names, all that are here.

    Exit code 1 if one is wrong, 4 if one that was named is not here.

    Examples:

      mcap models verify

      mcap models verify yunet sface
    """
    from mcap.cli.output import emit
    from mcap.cli.settings import load_settings
    from mcap.weights.catalogue import WEIGHTS
    from mcap.weights.locate import local_path
    from mcap.weights.verify import verify_weight

    load_settings(ctx.obj)
    given = list(names or [])
    chosen = given or [name for name in WEIGHTS if local_path(name) is not None]
    checks = [verify_weight(name) for name in chosen]

    def print_checks(console: Console) -> None:
        if not checks:
            console.print("No weight is on this machine yet; 'mcap models pull' fetches them.")
        for check in checks:
            state = "ok" if check.ok else check.problem
            console.print(f"{check.name}: {state}", markup=False)

    emit(ctx, {"weights": checks}, print_checks)
    if any(check.path is not None and not check.ok for check in checks):
        raise typer.Exit(1)
    if any(check.path is None for check in checks):
        raise typer.Exit(4)


@app.command()
def path(
    ctx: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(
            help="A weight; without it, the folder where weights are kept.",
            metavar="NAME",
            autocompletion=complete.weights,
        ),
    ] = None,
) -> None:
    """Print where a weight lies on this machine, or the folder where weights are kept.

    Example:

      mcap models path sface
    """
    from mcap.cli.output import emit
    from mcap.cli.settings import load_settings
    from mcap.errors import MissingResourceError
    from mcap.weights.cache import cache_dir
    from mcap.weights.locate import local_path

    load_settings(ctx.obj)
    found = cache_dir() if name is None else local_path(name)
    if found is None:
        raise MissingResourceError(
            f"Weight '{name}' is not on this machine; 'mcap models pull {name}' fetches it."
        )
    emit(ctx, {"name": name, "path": found}, lambda console: console.print(str(found)))
