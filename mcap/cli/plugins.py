"""``mcap plugins``: what is installed, what it offers, what could not be loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mcap.cli import complete

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from mcap.registry import Failure


def plugins(
    ctx: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(
            help="A plugin, or the name of something that plugins offer: only that is shown, with "
            "all that is known of it.",
            metavar="NAME",
            autocompletion=complete.plugins,
            show_default=False,
        ),
    ] = None,
) -> None:
    """List the plugins, what they offer under which licence, and those that failed to load.

    Examples:

      mcap plugins

      mcap plugins realesrgan
    """
    from mcap.cli.output import emit
    from mcap.errors import MissingResourceError, did_you_mean
    from mcap.registry import registry

    found = registry()
    entries = [
        entry for entry in offered() if name is None or name in (entry["plugin"], entry["name"])
    ]
    failures = [
        {"plugin": failure.plugin, "error": failure.error}
        for failure in plugin_failures()
        if name is None or failure.plugin == name
    ]
    shown = sorted(found.plugins)
    if name is not None:
        plugins_of = {str(entry["plugin"]) for entry in entries}
        shown = sorted(plugins_of | ({name} & set(found.plugins)))
        if not shown and not failures:
            known = ", ".join(sorted(found.plugins)) or "none"
            raise MissingResourceError(
                f"No plugin called '{name}' is installed; there are: {known}."
                f"{did_you_mean(name, found.plugins)}"
            )
    result = {
        "plugins": [{"name": item, "from": found.origins[item]} for item in shown],
        "entries": entries,
        "failures": failures,
    }
    emit(ctx, result, lambda console: print_plugins(console, result, detailed=name is not None))


def offered() -> list[dict[str, Any]]:
    """Return all that plugins have registered, as plain data: the entries and the recipes."""
    from mcap.registry import registry

    found = registry()
    entries = []
    for entry in (entry for kind in found.entries.values() for entry in kind.values()):
        said = {"reads": entry.reads, **(vars(entry.info) if entry.info is not None else {})}
        entries.append(
            {
                "kind": entry.kind,
                "name": entry.name,
                "plugin": entry.plugin,
                "summary": entry.summary,
                "licence": entry.licence or None,
                "commercial": entry.commercial,
                "needs": [{"name": need, "here": is_here(need)} for need in entry.needs],
                "facts": {
                    key: value
                    for key, value in said.items()
                    if isinstance(value, str | int | float | tuple) and value != ()
                },
            }
        )
    for recipe in found.recipes.values():
        entries.append(
            {
                "kind": "recipe",
                "name": recipe.name,
                "plugin": recipe.plugin,
                "summary": recipe.summary,
                "licence": None,
                "commercial": True,
                "needs": [],
                "facts": dict(recipe.keys),
            }
        )
    return entries


def plugin_failures() -> list[Failure]:
    """Return what could not be loaded or registered, recipes that cannot be trained with too."""
    from mcap.registry import registry

    found = registry()
    if not found.recipes:
        return found.failures
    from mcap.training.recipe import refused_recipes

    return [*found.failures, *refused_recipes()]


def is_here(need: str) -> bool | None:
    """True or False for a weight or extra that mcap knows; None for names of the plugin's own."""
    from importlib.util import find_spec

    from mcap.registry import EXTRAS, extra_of
    from mcap.weights.catalogue import WEIGHTS
    from mcap.weights.locate import local_path

    if need in WEIGHTS:
        return local_path(need) is not None
    extra = extra_of(need)
    return None if extra is None else find_spec(EXTRAS[extra]) is not None


def print_plugins(console: Console, result: Mapping[str, Any], *, detailed: bool) -> None:
    """Print each plugin with its entries, then the failures in red."""
    from rich.markup import escape

    from mcap.cli.output import print_rows

    for item in result["plugins"]:
        console.print(f"[bold]{escape(item['name'])}[/bold]  ({escape(item['from'])})")
        rows: list[tuple[str, ...]] = []
        for entry in result["entries"]:
            if entry["plugin"] != item["name"]:
                continue
            missing = [need["name"] for need in entry["needs"] if need["here"] is False]
            licence = entry["licence"] or (
                "" if entry["kind"] == "recipe" else "licence not stated"
            )
            if not entry["commercial"]:
                licence += ", no commercial use"
            state = f"not here yet: {', '.join(missing)}" if missing else ""
            summary = entry["summary"]
            if detailed:
                needs = ", ".join(need["name"] for need in entry["needs"]) or "nothing"
                facts = [f"{key}: {value}" for key, value in entry["facts"].items()]
                summary = "\n".join([summary, f"needs: {needs}", *facts])
            rows.append((f"  {entry['name']}", entry["kind"], summary, licence, state))
        print_rows(console, ("",) * 5, rows)
    for failure in result["failures"]:
        console.print(
            f"could not be loaded: {failure['plugin']}: {failure['error']}",
            markup=False,
            style="red",
        )
