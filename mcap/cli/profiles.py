"""``mcap profiles``: the styles there are, and making one's own."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from mcap.cli import complete

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from mcap.cli.profile_check import Finding
    from mcap.cli.settings import Settings
    from mcap.faces.eyes import MeshFinder
    from mcap.framing.document_check import Point
    from mcap.style.profile import FoundProfile, StyleProfile

app = typer.Typer(
    help="Style profiles: list, show, new, check.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

Profile = Annotated[
    str,
    typer.Argument(
        help="A profile's name, or the path of its TOML file.",
        metavar="PROFILE",
        autocompletion=complete.profiles,
    ),
]


@app.command("list")
def list_(ctx: typer.Context) -> None:
    """Every profile on the search path, in search order: yours, plugins', built-in.

    Of several with one name the first is used; the others are shown as hidden.

    Example:

      mcap profiles list
    """
    from mcap.cli.output import emit, print_rows
    from mcap.registry import registry
    from mcap.style.profile import list_profiles, profile_folders, user_profile_folder

    dirs = registry().profile_dirs
    found = list_profiles(dirs)
    result = {
        "folders": [{"origin": item.origin, "path": item.path} for item in profile_folders(dirs)],
        "profiles": [listed(item) for item in found],
    }

    def draw(console: Console) -> None:
        rows = [
            (
                item.name,
                item.profile.title if item.profile else "",
                item.origin,
                len(item.profile.reference_paths()) if item.profile else "-",
                state(item),
            )
            for item in found
        ]
        print_rows(console, ("name", "title", "from", "references", "state"), rows)
        if not found:
            console.print("There are no profiles; `mcap profiles new NAME` writes one.")
        console.print(f"\nYours go to {user_profile_folder()}", markup=False)

    emit(ctx, result, draw)


def listed(item: FoundProfile) -> dict[str, Any]:
    """Return a profile of the list for ``--json``."""
    return {
        "name": item.name,
        "title": item.profile.title if item.profile else None,
        "description": item.profile.description if item.profile else None,
        "origin": item.origin,
        "path": item.path,
        "references": len(item.profile.reference_paths()) if item.profile else None,
        "error": item.error,
        "shadowed_by": item.shadowed_by,
    }


def state(item: FoundProfile) -> str:
    """Return "ok", or why the profile is not used."""
    if item.shadowed_by is not None:
        return f"hidden by {item.shadowed_by}"
    return f"broken: {item.error}" if item.error else "ok"


@app.command()
def show(ctx: typer.Context, profile: Profile) -> None:
    """Show a profile, with the defaults of the keys that it leaves out.

    Example:

      mcap profiles show passport
    """
    from mcap.cli.output import emit

    found = find(profile)
    references = found.reference_paths()
    values = found.model_dump(mode="json", by_alias=True)
    result = {"path": found.path, "reference_paths": references, "profile": values}

    def draw(console: Console) -> None:
        console.print(str(found.path), markup=False, style="bold")
        print_values(console, values)
        console.print(f"reference photos: {len(references)}", markup=False)

    emit(ctx, result, draw)


def print_values(console: Console, values: dict[str, Any], prefix: str = "") -> None:
    """Print the keys of a profile that say something, tables by dotted names."""
    for key, value in values.items():
        if isinstance(value, dict):
            print_values(console, value, f"{prefix}{key}.")
        elif value not in (None, "", []):
            shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            console.print(f"  {prefix}{key}: {shown}", markup=False)


@app.command()
def new(
    ctx: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            help="What the style is called: lower-case letters, digits and hyphens, such as "
            "my-style.",
            metavar="NAME",
        ),
    ],
    folder: Annotated[
        Path | None,
        typer.Option(
            "--dir", help="Where it goes. Default: with your own profiles.", metavar="DIR"
        ),
    ] = None,
) -> None:
    """Write a commented profile to start from, and the folder for its reference photos.

    Example:

      mcap profiles new my-style --dir styles
    """
    from mcap.cli.output import emit
    from mcap.cli.profile_check import new_profile
    from mcap.errors import UsageError
    from mcap.runtime import files
    from mcap.style.fields import NAME
    from mcap.style.folders import user_profile_folder

    if not NAME.fullmatch(name):
        raise UsageError(
            f"'{name}' is no name for a profile; use lower-case letters, digits and hyphens, "
            "such as my-style."
        )
    folder = folder or user_profile_folder()
    path = folder / f"{name}.toml"
    files.require_writable(folder, "--dir")
    if path.exists():
        raise UsageError(f"{path} is there already; choose another name or take it away first.")
    references = folder / "refs" / name
    files.make_folder(references)
    files.write_bytes(path, new_profile(name).encode())

    def draw(console: Console) -> None:
        console.print(f"Wrote {path}", markup=False)
        console.print(f"Put six or more photos of the style into {references}", markup=False)
        console.print(f"Then: mcap profiles check {path}", markup=False)

    emit(ctx, {"path": path, "references": references}, draw)


@app.command()
def check(
    ctx: typer.Context,
    profiles: Annotated[
        list[str],
        typer.Argument(
            help="Profiles' names, or the paths of their TOML files; with --document, pictures.",
            metavar="PROFILE|PICTURE",
            autocompletion=complete.profiles,
        ),
    ],
    document: Annotated[
        str | None,
        typer.Option(
            help="Check finished pictures against this ID document's rule instead; mcap profiles "
            "documents lists them.",
            metavar="DOCUMENT",
            autocompletion=complete.documents,
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="The backbone for which the prompts must not be too long. Default: the settings'.",
            metavar="BACKBONE",
            autocompletion=complete.backbones,
        ),
    ] = None,
) -> None:
    """Check profiles: every key, the reference photos (they open, 512 pixels or more), the prompts.

    With --document, check finished pictures against a document's rule, point by point: file, bytes,
    pixels, head, eyes, background, and what the file says of how it was made. Expression, light and
    likeness are not judged.

    Exit code 2 where the profile itself is wrong, 3 where only pictures are.

    Examples:

      mcap profiles check styles/my-style.toml

      mcap profiles check --document us-visa visa/portrait.jpg
    """
    if document is not None:
        check_pictures(ctx, document, profiles, backbone)
        return
    from mcap.cli.output import emit
    from mcap.cli.profile_check import Finding
    from mcap.cli.settings import load_settings
    from mcap.errors import UsageError

    settings = load_settings(ctx.obj, backbone=backbone)
    results: list[tuple[str, list[Finding]]] = []
    for name in profiles:
        try:
            results.append((name, findings_of(find(name), settings)))
        except UsageError as error:
            results.append((name, [Finding("error", "profile", str(error))]))

    def draw(console: Console) -> None:
        for name, findings in results:
            bad = sum(item.level == "error" for item in findings)
            console.print(f"{name}: {f'{bad} errors' if bad else 'ok'}", markup=False)
            for item in findings:
                console.print(f"  {item.level}: {item.message}", markup=False)

    result = [
        {"profile": name, "ok": all(item.level != "error" for item in findings),
         "findings": findings}
        for name, findings in results
    ]  # fmt: skip
    emit(ctx, {"profiles": result}, draw)
    wrong = {item.kind for _, findings in results for item in findings if item.level == "error"}
    if wrong:
        raise typer.Exit(3 if wrong == {"references"} else 2)


def check_pictures(
    ctx: typer.Context, name: str, pictures: list[str], backbone: str | None
) -> None:
    """Check pictures against the rule of a document, and print every point.

    Raises `UsageError` for a document that is not there, `typer.Exit` with 3 where a point is not
    kept.
    """
    from mcap.cli.enhance import finished_pictures, load_person_masker
    from mcap.cli.output import emit, note
    from mcap.cli.settings import load_settings
    from mcap.errors import InputRejectedError, UsageError
    from mcap.framing.document_check import CheckTools, check_document
    from mcap.registry import registry
    from mcap.style.id_documents import find_document

    if backbone is not None:
        raise UsageError("--backbone: says how long prompts may be, and --document has none.")
    rule = find_document(name)
    settings = load_settings(ctx.obj)
    paths = finished_pictures(pictures)
    masker = registry().create("masker", settings.masker)
    tools = CheckTools(
        detector=registry().create("detector", settings.detector),
        masker=load_person_masker(ctx, "is not looked at"),
        mesh=cast("MeshFinder", masker) if masker.info.finds_mesh else None,
    )
    checked: list[tuple[Path, list[Point] | str]] = []
    for path in paths:
        try:
            checked.append((path, check_document(path, rule, tools, settings.photos)))
        except InputRejectedError as error:
            checked.append((path, str(error).removeprefix(f"{path}: ")))
    result = [
        {"file": path, "kept": not wrong(points)}
        | ({"refused": points} if isinstance(points, str) else {"points": points})
        for path, points in checked
    ]
    note(ctx, f"{name}: {rule.notice}")
    emit(ctx, {"document": name, "pictures": result}, partial(print_points, checked=checked))
    if any(wrong(points) for _, points in checked):
        raise typer.Exit(InputRejectedError.exit_code)


def wrong(points: list[Point] | str) -> bool:
    """Return whether a picture was refused or misses a point."""
    return isinstance(points, str) or any(point.kept is False for point in points)


def print_points(console: Console, checked: Sequence[tuple[Path, list[Point] | str]]) -> None:
    """Print a table of points a picture."""
    from mcap.cli.output import print_rows

    words = {True: "kept", False: "NOT kept", None: "not told"}
    for path, points in checked:
        if isinstance(points, str):
            console.print(f"{path}: refused: {points}", markup=False)
            continue
        missed = sum(point.kept is False for point in points)
        told = f"{missed} of {len(points)} points not kept" if missed else "ok"
        console.print(f"{path}: {told}", markup=False)
        rows = [(point.name, words[point.kept], point.found, point.asked) for point in points]
        print_rows(console, ("point", "", "found", "asked"), rows)


@app.command()
def documents(
    ctx: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(
            help="Show one document's whole rule, with its sources.",
            metavar="DOCUMENT",
            autocompletion=complete.documents,
        ),
    ] = None,
) -> None:
    """ID documents whose photos mcap frames and finishes: size, head, background, bytes.

    The rules are copied facts with their sources, and may be out of date. Many authorities refuse
    pictures that were generated or altered: ask first.

    Examples:

      mcap profiles documents

      mcap profiles documents us-passport
    """
    from mcap.cli.output import emit, print_rows
    from mcap.style.id_documents import NOTICE, described, find_document, rules

    table = rules()
    shown = table.documents if name is None else {name: find_document(name)}
    result = {
        "notice": NOTICE,
        "documents": [{"name": key, **described(rule)} for key, rule in shown.items()],
        "sources": {
            key: source
            for key, source in table.sources.items()
            if any(key in rule.sources for rule in shown.values())
        },
    }

    def draw(console: Console) -> None:
        if name is None:
            rows = [
                (key, rule.title, rule.size_words, rule.head_words, rule.background[0],
                 rule.bytes_words, "refused" if rule.altered else "not verified")
                for key, rule in shown.items()
            ]  # fmt: skip
            titles = ("name", "document", "size", "head", "background", "file", "altered pictures")
            print_rows(console, titles, rows)
        else:
            print_values(console, described(shown[name]))
            for key, taken in shown[name].sources.items():
                source = table.sources[key]
                dated = f", dated {source.dated}" if source.dated else ""
                console.print(f"  source: {source.title}, read {source.read}{dated}", markup=False)
                console.print(f"    {source.url}", markup=False, soft_wrap=True)
                console.print(f"    {taken}", markup=False)
        console.print(f"\n{NOTICE}", markup=False)

    emit(ctx, result, draw)


def findings_of(profile: StyleProfile, settings: Settings) -> list[Finding]:
    """Check a profile that could be read, its photos and its prompts."""
    from mcap.cli.profile_check import (
        Finding,
        check_prompts,
        check_references,
        check_train,
        prompt_readers,
    )
    from mcap.errors import MissingResourceError

    findings = [*check_train(profile), *check_references(profile, settings.photos)]
    try:
        readers = prompt_readers(settings.backbone)
    except MissingResourceError as error:
        message = f"whether the prompts fit was not looked at: {error}"
        return [*findings, Finding("warning", "prompts", message)]
    return [*findings, *check_prompts(profile, readers)]


def find(name: str) -> StyleProfile:
    """Return the profile of a name or path, also of plugins; `UsageError` where there is none."""
    from mcap.registry import registry
    from mcap.style.profile import find_profile

    return find_profile(name, registry().profile_dirs)
