"""The ``mcap`` program: one file a command, the frame here.

This module and the command files import typer and the standard library only, so that
``mcap --help`` and shell completion stay fast; a command imports its stage when it runs.
"""

from __future__ import annotations

import importlib
import io
import os
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from mcap.cli.context import Globals
from mcap.errors import McapError, RenamedKeyWarning

HELP = """\
MagiCapture portraits on your own machine: a few selfies and a style in, portraits out.

Use it for your own face, or with the person's permission.

Examples:

  mcap train --source examples/selfies --style passport --out me.mcap

  mcap generate me.mcap --count 8 --out portraits
"""

FREQUENT_VARIABLES = {"MCAP_CACHE_DIR", "MCAP_CONFIG_DIR", "MCAP_OFFLINE", "MCAP_PLUGINS"}

FLAGS = ("--offline", "--quiet", "--verbose", "--json")


class GlobalOptionsAnywhere(TyperGroup):
    """Takes the global options after the command's name too: ``mcap mask photos --json``.

    And commands under the names that they had in earlier versions.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, global_options_first(args))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if not ctx.resilient_parsing:  # the shell completes present names alone
            args = current_command(self, ctx, args)
        return super().resolve_command(ctx, args)


def global_options_first(args: Sequence[str]) -> list[str]:
    """``args`` with the global options moved to the front; what follows ``--`` stays in place."""
    first: list[str] = []
    rest: list[str] = []
    waiting = list(args)
    while waiting:
        argument = waiting.pop(0)
        if argument == "--":
            rest += ["--", *waiting]
            break
        if argument in FLAGS or argument.startswith("--config="):
            first.append(argument)
        elif argument == "--config" and waiting:
            first += [argument, waiting.pop(0)]
        else:
            rest.append(argument)
    return first + rest


def current_command(group: Any, ctx: Any, args: Sequence[str]) -> list[str]:
    """``args``, a command's name and its arguments, as the command is called now.

    ``mcap generate SUBJECT --edit PICTURE`` became ``mcap edit PICTURE``, and says so.
    """
    from mcap.cli import edit
    from mcap.errors import UsageError

    name, *rest = args
    if name != "generate":
        return list(args)
    flags = {
        word.partition("=")[0] for word in (rest[: rest.index("--")] if "--" in rest else rest)
    }
    if "--edit" in flags:
        warnings.warn(
            "'mcap generate --edit' is called 'mcap edit' now: mcap edit PICTURE --replace OLD=NEW",
            RenamedKeyWarning,
            stacklevel=2,
        )
        commands = (group.get_command(ctx, name) for name in ("generate", "edit"))
        return ["edit", *edit.from_generate(rest, *commands)]
    for flag in sorted(flags.intersection(edit.ONLY)):
        raise UsageError(f"{flag}: belongs to mcap edit PICTURE.")
    return list(args)


app = typer.Typer(
    name="mcap",
    help=HELP,
    cls=GlobalOptionsAnywhere,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def print_version(wanted: bool) -> None:
    """Print the version and leave, where ``--version`` was given."""
    if wanted:
        from mcap import __version__

        typer.echo(f"mcap {__version__}")
        raise typer.Exit()


@app.callback()
def global_callback(
    ctx: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(
            help="Read the settings from this file. Default: mcap.toml in the working folder, over "
            "the one in your configuration folder.",
            metavar="FILE",
        ),
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Never touch the network; say what is missing.")
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option("--quiet", help="Print no progress and no notes, only warnings and errors."),
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose", help="With an error, show where in the program it arose, for a bug report."
        ),
    ] = False,
    json: Annotated[
        bool,
        typer.Option("--json", help="Print the result as JSON on standard output, for scripts."),
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=print_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    if quiet and verbose:
        raise typer.BadParameter("--quiet and --verbose exclude each other")
    ctx.obj = Globals(config=config, offline=offline, quiet=quiet, verbose=verbose, json=json)
    warn_of_variables(ctx)
    prepare_downloads(ctx)


def warn_of_variables(ctx: typer.Context) -> None:
    """Warn of each variable in the environment that looks like a setting and is none."""
    given = {name.upper() for name in os.environ if name.upper().startswith("MCAP_")}
    if given <= FREQUENT_VARIABLES:
        return  # and the settings, which take a while to import, need not be known
    from mcap.cli.output import warn
    from mcap.cli.settings import unknown_variables

    for text in unknown_variables():
        warn(ctx, text)


def prepare_downloads(ctx: typer.Context) -> None:
    """Let downloads, whoever asks for them, obey --offline and show progress and licences."""
    from mcap.cli.output import warn
    from mcap.cli.progress import progress
    from mcap.weights.cache import set_cache_dir, set_offline
    from mcap.weights.progress import set_notice, set_progress

    set_offline(True if ctx.obj.offline else None)
    set_progress(lambda title, total: progress(ctx, title, total, unit="bytes"))
    set_notice(lambda text: warn(ctx, text))

    def undo() -> None:  # for programs and tests that call several commands in one process
        set_offline(None)
        set_cache_dir(None)
        set_progress(None)
        set_notice(None)

    ctx.call_on_close(undo)


# import_module and no import statement: a command's function has its module's name, which it would
# hide as an attribute of this package.
for _name in ("mask", "train", "generate", "edit", "enhance", "report", "evaluate", "studio"):
    app.command(_name)(getattr(importlib.import_module(f"mcap.cli.{_name}"), _name))
for _name in ("batch", "profiles", "models"):
    app.add_typer(importlib.import_module(f"mcap.cli.{_name}").app, name=_name)
for _name in ("plugins", "doctor", "inspect", "export", "forget"):
    app.command(_name)(getattr(importlib.import_module(f"mcap.cli.{_name}"), _name))


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the program and leave with its exit code (see ``mcap.errors``)."""
    args = list(sys.argv[1:] if arguments is None else arguments)
    # Read by OpenMP as torch is imported: its threads spin while they wait for each other, and
    # beside one busy program a step then takes a hundred times as long. So short a spin costs
    # nothing on free cores (docs/speed.md).
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    # A name that the terminal's encoding does not hold is printed escaped, and is no error.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(run(args))


def run(args: list[str]) -> int:
    """Run the program; every exception becomes a message and an exit code."""
    flags = set(args[: args.index("--")] if "--" in args else args)
    wants_json, verbose = "--json" in flags, "--verbose" in flags
    with warnings.catch_warnings():
        warnings.simplefilter("always", RenamedKeyWarning)
        warnings.showwarning = show_warning
        try:
            code = run_app(args, wants_json, verbose)
            sys.stdout.flush()  # here and not as Python ends, where nothing can be said any more
            return code
        except BrokenPipeError:
            # The reader of our stdout went away (``mcap ... | head``): nothing is left to be said,
            # and the interpreter must not try to flush what nobody reads.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1


def show_warning(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
    """Show a renamed key as one line of the program's own; any other warning as Python does."""
    if issubclass(category, RenamedKeyWarning):
        from mcap.cli.output import error_console

        error_console().print(f"note: {message}", markup=False)
    else:
        _python_shows(message, category, *place, **more)


_python_shows = warnings.showwarning


def run_app(args: list[str], wants_json: bool, verbose: bool) -> int:
    """Run the program and return its exit code, after a message for every exception."""
    try:
        code = app(args=args, prog_name="mcap", standalone_mode=False)
    except McapError as error:
        return report_error(str(error), error.exit_code, wants_json, verbose, error.details)
    except KeyboardInterrupt:
        return report_error("Interrupted.", 130, wants_json, verbose)
    except typer.Abort:
        return report_error("Aborted.", 1, wants_json, verbose)
    except BrokenPipeError:
        raise  # nobody is there to be told
    except Exception as error:
        if hasattr(error, "format_message"):  # typer's usage errors
            return report_usage_error(error, wants_json)
        if is_out_of_memory(error):
            message = (
                "Out of memory. Close what else uses the device, or use less of it: "
                "--low-memory, --precision, or --device cpu."
            )
            return report_error(message, 5, wants_json, verbose)
        if (failure := machine_failure(error)) is not None:
            return report_error(failure, 1, wants_json, verbose)
        message = (
            f"Unexpected {type(error).__name__}: {error}. This is a defect of mcap or of a plugin; "
            "--verbose shows the traceback, which a bug report needs."
        )
        return report_error(message, 1, wants_json, verbose)
    # typer turns Ctrl-C into exit code 130 by itself and says nothing.
    if code == 130:
        return report_error("Interrupted.", 130, wants_json, verbose)
    return code if isinstance(code, int) else 0


def report_usage_error(error: Any, wants_json: bool) -> int:
    """Print typer's own error, with the command's usage, and return its exit code."""
    # pydantic, with which typer 0.29 reads values, begins its messages with what it is.
    message = error.format_message().replace(": Value error, ", ": ")
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":  # the help is the message
        typer.echo(message)
        return error.exit_code
    if not wants_json and context is not None:
        typer.echo(context.get_usage(), err=True)
        message += f" See '{context.command_path} --help'."
    return report_error(message, error.exit_code, wants_json, False)


def report_error(
    message: str,
    code: int,
    wants_json: bool,
    verbose: bool,
    details: dict[str, Any] | None = None,
) -> int:
    """Print an error, as JSON too with ``--json``, and return the exit code."""
    from mcap.cli.output import error_console, print_json

    if verbose and sys.exc_info()[0] is not None:
        import traceback

        traceback.print_exc()
    if wants_json:
        print_json({"error": message, "exit_code": code, **(details or {})})
    error_console().print(f"mcap: {message}", markup=False, style="bold red")
    return code


def machine_failure(error: BaseException) -> str | None:
    """Return what to say of a disk that is full, read-only or gone; None for any other exception.

    Libraries wrap the machine's error, those in Rust in a text that ends with its number.
    """
    from mcap.runtime.files import REASONS, why

    number = re.search(r"\(os error (\d+)\)", str(error))
    while not isinstance(error, OSError) and error.__cause__ is not None:
        error = error.__cause__
    if not isinstance(error, OSError) and number:
        error = OSError(int(number[1]), os.strerror(int(number[1])))
    if not isinstance(error, OSError) or error.errno not in REASONS:
        return None
    reason = why(error)
    where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
    text = f"{where}{reason}. What was written before is whole: give the same command again "
    text = text if where else text[:1].upper() + text[1:]
    return f"{text}afterwards (mcap train: with --resume)."


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an allocator raised it; does not import torch."""
    if isinstance(error, MemoryError):
        return True
    torch = sys.modules.get("torch")  # if torch is not loaded it cannot have raised
    kind = getattr(torch, "OutOfMemoryError", None)
    if kind is not None and isinstance(error, kind):
        return True
    # The CPU's and Metal's allocators raise a bare RuntimeError.
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in str(error) or "MPS backend out of memory" in str(error)
    )
