"""``mcap doctor``: is everything here that mcap needs, and if not, what to do."""

from __future__ import annotations

import platform
import shutil
import sys
from dataclasses import dataclass
from typing import Literal

import typer

MIN_MEMORY = 4e9
"""Below this the demo backbone's training begins to swap."""
MIN_DISK = 2e9


@dataclass(frozen=True)
class Finding:
    name: str
    state: Literal["ok", "note", "problem"]
    text: str
    remedy: str = ""


def doctor(ctx: typer.Context) -> None:
    """Check Python, torch, memory, disk, weights, plugins and extras; say what to do.

    Exit code 0 where mcap can run as it is set up, 1 where something must be done first.

    Example:

      mcap doctor
    """
    from mcap.cli.output import emit

    findings = examine(ctx)
    ready = all(finding.state != "problem" for finding in findings)

    def draw(console) -> None:
        from rich.table import Table
        from rich.text import Text

        styles = {"ok": "green", "note": "yellow", "problem": "bold red"}
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        for item in findings:
            text = item.text + (f"\n-> {item.remedy}" if item.remedy else "")
            table.add_row(Text(item.state, style=styles[item.state]), Text(item.name), Text(text))
        console.print(table)
        console.print("\nmcap is ready." if ready else "\nmcap is not ready: see the problems.")

    emit(ctx, {"ready": ready, "findings": findings}, draw)
    if not ready:
        raise typer.Exit(1)


def examine(ctx: typer.Context) -> list[Finding]:
    from mcap.cli.settings import Settings, load_settings, settings_files
    from mcap.errors import McapError

    findings = [_python(), *_torch()]
    try:
        settings = load_settings(ctx.obj)
        files = ", ".join(str(path) for path in settings_files(getattr(ctx.obj, "config", None)))
        findings.append(Finding("settings", "ok", files or "no mcap.toml; the defaults hold"))
    except McapError as error:
        settings = Settings.model_construct()
        findings.append(Finding("settings", "problem", str(error), "correct the named key"))
    return [*findings, *_machine(), *_plugins(settings), *_weights(settings), *_extras()]


def _python() -> Finding:
    text = f"Python {platform.python_version()} at {sys.executable} on {platform.platform()}"
    return Finding("python", "ok", text)


def _torch() -> list[Finding]:
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
            findings.append(Finding("device", "ok", f"cuda:{index} {name}, {_gb(memory)}"))
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


def _machine() -> list[Finding]:
    import psutil

    from mcap.weights import fetch as weights

    memory = psutil.virtual_memory()
    text = f"{_gb(memory.available)} of {_gb(memory.total)} free"
    low = memory.available < MIN_MEMORY
    remedy = f"close other programs: training wants {_gb(MIN_MEMORY)}" if low else ""
    findings = [Finding("memory", "note" if low else "ok", text, remedy)]

    folder = weights.cache_dir()
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    free = shutil.disk_usage(there).free
    low = free < MIN_DISK
    remedy = "free some, or set MCAP_CACHE_DIR to another disk" if low else ""
    text = f"{_gb(free)} free for the cache {folder}"
    findings.append(Finding("disk", "note" if low else "ok", text, remedy))
    return findings


def _plugins(settings) -> list[Finding]:
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
        for failure in found.failures
    ]
    for kind in ("detector", "identity", "masker"):
        name = getattr(settings, kind)
        if name not in found.entries[kind]:
            known = ", ".join(found.names(kind)) or "none"
            findings.append(
                Finding(kind, "problem", f"'{name}' is not installed", f"choose among: {known}")
            )
    return findings


def _weights(settings) -> list[Finding]:
    from mcap.cli.required_weights import needed_weights
    from mcap.weights import fetch as weights

    findings = []
    for name, kind in needed_weights(settings).items():
        check = weights.verify(name)
        if check.ok:
            findings.append(Finding("weights", "ok", f"{name} ({kind})"))
            continue
        state = "problem" if weights.offline() else "note"
        remedy = f"it is fetched when it is needed; now: mcap models pull {name}"
        if weights.offline():
            remedy = f"mcap models pull {name}, where there is a network"
        source = weights.weight(name).sources[0]
        if isinstance(source, weights.InstalledSource):
            state, remedy = "problem", source.remedy
        findings.append(Finding("weights", state, f"{name} ({kind}): {check.problem}", remedy))
    return findings


def _extras() -> list[Finding]:
    from importlib.util import find_spec

    from mcap.registry import EXTRAS

    there = [name for name, module in EXTRAS.items() if find_spec(module) is not None]
    absent = [name for name in EXTRAS if name not in there]
    text = f"installed: {', '.join(there) or 'none'}; not installed: {', '.join(absent) or 'none'}"
    remedy = f"only if you want them: pip install 'mcap[{','.join(absent)}]'" if absent else ""
    return [Finding("extras", "ok", text, remedy)]


def _gb(count: float) -> str:
    return f"{count / 1e9:.1f} GB"
