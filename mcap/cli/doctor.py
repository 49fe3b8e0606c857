"""``mcap doctor``: is everything here that mcap needs, and if not, what to do."""

from __future__ import annotations

import platform
import shutil
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mcap.cli.context import global_options
from mcap.cli.output import human_bytes
from mcap.cli.plugins import plugin_failures

if TYPE_CHECKING:
    from rich.console import Console

    from mcap.cli.settings import Settings

MIN_MEMORY = 4e9
"""Below this the demo backbone's training begins to swap."""
MIN_DISK = 2e9


State = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """One line of the report: what was looked at, how it is, and what to do about it."""

    name: str
    state: State
    text: str
    remedy: str = ""


OFFLINE_PROOF = typer.Option(
    "--offline-proof",
    help="Run a tiny mask, train and generate with every internet socket refused, and say what "
    "asked for one.",
)


def doctor(ctx: typer.Context, offline_proof: Annotated[bool, OFFLINE_PROOF] = False) -> None:
    """Check Python, torch, memory, disk, weights, plugins and extras; say what to do.

    Exit code 0 where mcap can run as it is set up, 1 where something must be done first.

    Examples:

      mcap doctor

      mcap doctor --offline-proof
    """
    from mcap.cli.output import emit, print_rows

    if offline_proof:
        show_proof(ctx)
        return
    findings = examine(ctx)
    ready = all(finding.state != "problem" for finding in findings)

    def print_findings(console: Console) -> None:
        from rich.text import Text

        styles = {"ok": "green", "note": "yellow", "problem": "bold red"}
        rows = []
        for item in findings:
            text = item.text + (f"\n-> {item.remedy}" if item.remedy else "")
            rows.append((Text(item.state, style=styles[item.state]), item.name, Text(text)))
        print_rows(console, ("", "", ""), rows, name=1)
        console.print("\nmcap is ready." if ready else "\nmcap is not ready: see the problems.")

    emit(ctx, {"ready": ready, "findings": findings}, print_findings)
    if not ready:
        raise typer.Exit(1)


def show_proof(ctx: typer.Context) -> None:
    """Run the proof and print what came of it; exit code 1 where it does not hold."""
    from mcap.cli.offline_proof import prove
    from mcap.cli.output import emit, note

    note(ctx, "Running mcap mask, train and generate with sockets refused; a minute or two ...")
    found = prove()

    def draw(console: Console) -> None:
        console.print(f"Ran to the end: {', '.join(found.commands) or 'nothing'}.", markup=False)
        console.print(f"Sockets were refused by {found.refused_by}.", markup=False)
        for text in found.attempts:
            console.print(f"asked for an address: {text}", markup=False)
        if found.failure:
            console.print(found.failure, markup=False)
        console.print(
            "Nothing asked for an address." if found.holds else "The proof does not hold."
        )

    emit(ctx, {"holds": found.holds, **vars(found)}, draw)
    if not found.holds:
        raise typer.Exit(1)


def examine(ctx: typer.Context) -> list[Finding]:
    """Return the findings, from the interpreter to the optional extras."""
    from mcap.cli.settings import Settings, load_settings, settings_files
    from mcap.errors import McapError

    text = f"Python {platform.python_version()} at {sys.executable} on {platform.platform()}"
    findings = [Finding("python", "ok", text), *torch_findings()]
    try:
        settings = load_settings(ctx.obj)
        files = ", ".join(map(str, settings_files(global_options(ctx).config)))
        findings.append(Finding("settings", "ok", files or "no mcap.toml; the defaults hold"))
    except McapError as error:
        settings = Settings.model_construct()
        findings.append(Finding("settings", "problem", str(error), "correct the named key"))
    return [
        *findings,
        *machine_findings(),
        *plugin_findings(settings),
        *weight_findings(settings),
        extras_finding(),
    ]


def torch_findings() -> list[Finding]:
    """Return torch's version and the device that it can use."""
    try:
        import torch
    except (ImportError, OSError) as error:
        remedy = "install mcap again; on Linux without a GPU the CPU build of torch will do"
        return [Finding("torch", "problem", f"cannot be imported: {error}", remedy)]
    findings = [
        Finding("torch", "ok", f"torch {torch.__version__}, {torch.get_num_threads()} CPU threads")
    ]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            memory = torch.cuda.get_device_properties(index).total_memory
            name = torch.cuda.get_device_name(index)
            findings.append(Finding("device", "ok", f"cuda:{index} {name}, {human_bytes(memory)}"))
    elif torch.backends.mps.is_available():
        findings.append(Finding("device", "ok", "Apple MPS"))
    else:
        findings.append(
            Finding(
                "device",
                "note",
                "no GPU that torch can use: the CPU does it",
                "the demo backbone trains on it in minutes; Stable Diffusion 1.5 wants a GPU",
            )
        )
    return findings


def machine_findings() -> list[Finding]:
    """Return the free memory, and the free disk space for the cache of weights."""
    import psutil

    from mcap.errors import UsageError
    from mcap.weights.cache import cache_dir, require_writable_cache

    memory = psutil.virtual_memory()
    text = f"{human_bytes(memory.available)} of {human_bytes(memory.total)} free"
    low = memory.available < MIN_MEMORY
    remedy = f"close other programs: training wants {human_bytes(MIN_MEMORY)}" if low else ""
    findings = [Finding("memory", "note" if low else "ok", text, remedy)]

    try:
        folder = cache_dir()
    except UsageError as error:
        return [*findings, Finding("cache", "problem", str(error))]
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    free = shutil.disk_usage(there).free
    low = free < MIN_DISK
    remedy = "free some, or set MCAP_CACHE_DIR to another disk" if low else ""
    text = f"{human_bytes(free)} free for the cache {folder}"
    findings.append(Finding("disk", "note" if low else "ok", text, remedy))
    try:
        require_writable_cache()
    except UsageError as error:  # what is there can be used all the same
        findings.append(Finding("cache", "note", str(error), "what is missing cannot be fetched"))
    return findings


def plugin_findings(settings: Settings) -> list[Finding]:
    """Return the loaded plugins, what could not be loaded, and chosen names that nobody has."""
    from mcap.registry import registry

    found = registry()
    names = ", ".join(found.plugins) or "none"
    findings = [Finding("plugins", "ok" if found.plugins else "problem", names)]
    findings += [
        Finding(
            "plugins",
            "note",
            f"{failure.plugin} could not be loaded: {failure.error}",
            "update or uninstall it, or leave it out with MCAP_PLUGINS",
        )
        for failure in plugin_failures()
    ]
    for kind in ("detector", "identity", "masker"):
        name = getattr(settings, kind)
        if name not in found.entries[kind]:
            known = ", ".join(found.names(kind)) or "none"
            findings.append(
                Finding(kind, "problem", f"'{name}' is not installed", f"choose among: {known}")
            )
    return findings


def weight_findings(settings: Settings) -> list[Finding]:
    """Return the state of each weight that the settings need."""
    from mcap.cli.required_weights import needed_weights
    from mcap.errors import UsageError
    from mcap.weights.cache import cache_dir, offline
    from mcap.weights.catalogue import InstalledSource
    from mcap.weights.locate import weight
    from mcap.weights.verify import verify_weight

    try:
        cache_dir()
    except UsageError:
        return []  # which was told as a problem of the machine
    findings = []
    for name, kind in needed_weights(settings).items():
        check = verify_weight(name)
        if check.ok:
            findings.append(Finding("weights", "ok", f"{name} ({kind})"))
            continue
        state: State = "problem" if offline() else "note"
        remedy = f"it is fetched when it is needed; now: mcap models pull {name}"
        if offline():
            remedy = f"mcap models pull {name}, where there is a network"
        source = weight(name).sources[0]
        if isinstance(source, InstalledSource):
            state, remedy = "problem", source.remedy
        findings.append(Finding("weights", state, f"{name} ({kind}): {check.problem}", remedy))
    return findings


def extras_finding() -> Finding:
    """Return which of the optional extras are installed."""
    from importlib.util import find_spec

    from mcap.registry import EXTRAS

    there = [name for name, module in EXTRAS.items() if find_spec(module) is not None]
    absent = [name for name in EXTRAS if name not in there]
    text = f"installed: {', '.join(there) or 'none'}; not installed: {', '.join(absent) or 'none'}"
    remedy = f"only if you want them: pip install 'mcap[{','.join(absent)}]'" if absent else ""
    return Finding("extras", "ok", text, remedy)
