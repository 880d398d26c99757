"""The command line: parse, call, print, exit code. `main` is the console script."""

from __future__ import annotations

import os
import sys
import traceback
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from histoprep import __version__, console
from histoprep.errors import ExitCode, HistoprepError, Interrupted, OutputError
from histoprep.execution.signals import stop_signals

# Command -> (module, attribute, short help); modules are imported when their command is called.
COMMANDS = {
    "audit": ("audit", "audit", "Find what is wrong with a data set: causes, fixes, a report."),
    "repair": ("repair", "repair", "Mend masks that went through JPEG or interpolation."),
    "remap": ("remap", "remap", "Apply a label map to all masks, into a new tree."),
    "stats": ("stats", "stats", "Count classes: pixel shares, presence, weights, plot."),
    "manifest": ("manifest", "app", "Split without leaks and write the manifest; check, diff, show."),
    "shard": ("shard", "app", "Pack tiles into tar shards with an index; verify, info, preview."),
    "map": ("map", "app", "Check, compare, join and show label maps."),
    "rules": ("rules", "rules", "List every rule of the audit."),
    "explain": ("rules", "explain", "Say what a finding means, why it happens and what to do."),
    "collect": ("collect", "collect", "Merge the parts of an array job (--part i/n)."),
    "demo": ("demo", "demo", "Go the whole way, from tiles with planted defects to generated ones."),
    "doctor": ("doctor", "doctor", "Look whether this machine is fit for the work."),
}


# Typer carries click inside or beside it, depending on its version; this is the base of all errors about options.
_UsageError: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


class _LazyGroup(TyperGroup):
    """Knows its commands by name and imports only the one that is called: start-up time matters."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the commands in the order of the work."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command of that name, or None."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute, summary = COMMANDS[cmd_name]
        target = getattr(import_module(f"{__name__}.{module}"), attribute)
        if not isinstance(target, typer.Typer):
            single = typer.Typer(add_completion=False)
            single.command(name=cmd_name)(target)
            target = single
        command = get_command(target)
        command.name = cmd_name
        command.short_help = summary
        return command

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands without importing any of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry[2]) for name, entry in COMMANDS.items()])


app = typer.Typer(cls=_LazyGroup, no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        console.out(f"histoprep {__version__}")
        raise typer.Exit


@app.callback()
def _global(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print results, warnings and errors only.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """From a folder of histology tiles and masks to a data set one can trust."""
    console.set_quiet(quiet)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave with its exit code; the only place that catches errors."""
    # Arrow's own allocator keeps what it freed: 278 MB instead of 200 for an audit of 12,000 tiles. Workers inherit this.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    given = sys.argv[1:] if arguments is None else arguments
    # Whoever adds it to a command that just failed adds it at the end.
    sys.exit(run([one for one in given if one != "--debug"], debug="--debug" in given))


def run(arguments: list[str], *, debug: bool = False) -> int:
    """Run one command and return its exit code."""
    try:
        with stop_signals():
            return int(get_command(app).main(arguments, prog_name="histoprep", standalone_mode=False) or 0)
    except typer.Exit as done:
        return done.exit_code
    except _UsageError as error:
        error.show()
        return ExitCode.USAGE
    except (typer.Abort, KeyboardInterrupt):
        return _report(Interrupted("stopped; finished work was kept", hint="run the same command again to go on from there"), debug)
    except HistoprepError as error:
        return _report(error, debug)
    except BrokenPipeError:
        # The reader of our output (head, less) left; that is no error of ours.
        sys.stderr.close()
        return ExitCode.OK
    except OSError as error:
        return _report(OutputError.from_os_error(error, error.filename or "an unnamed file"), debug)
    except Exception as error:  # noqa: BLE001 (the last resort: a bug, and it says so)
        console.error(f"{type(error).__name__}: {error}\n  this is a bug in histoprep {__version__}; please report it with the traceback below")
        traceback.print_exc()
        return ExitCode.INTERNAL


def _report(error: HistoprepError, debug: bool) -> int:
    console.error(str(error))
    if debug:
        traceback.print_exception(error)
    return error.exit_code
