"""What the command lines of both packages have in common: lazy commands, and errors turned into exit codes in one place."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from histoprep import __version__, console
from histoprep.errors import ELSEWHERE, ExitCode, Explained, HistoprepError, IntegrityError, Interrupted, OutputError, UsageError

if TYPE_CHECKING:
    from histoprep.verify import Verified

_NUM_SHOWN = 20
# Options that say where results go.
_PLACES = ("--out", "--workspace", "--output")
# Typer carries click inside or beside it, depending on its version; this is the base of all errors about options.
_UsageError: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def _always() -> bool:
    return True


def _unknown(error: Exception) -> None:
    """Know no other errors than our own."""


@dataclass(frozen=True)
class CommandLine:
    """A program: its name, what it is for, and its commands by name: (module, attribute, short help), modules relative to `package`.

    `stop_signals` turns signals into our errors while a command runs; `translate` makes an error of ours from an exception that is no bug;
    `speaks` says whether this process prints errors.
    """

    name: str
    purpose: str
    package: str
    commands: Mapping[str, tuple[str, str, str]]
    stop_signals: Callable[[], AbstractContextManager[None]]
    translate: Callable[[Exception], HistoprepError | None] = _unknown
    speaks: Callable[[], bool] = _always

    def main(self, arguments: list[str] | None = None) -> None:
        """Run the command line and leave with its exit code."""
        given = sys.argv[1:] if arguments is None else arguments
        # Whoever adds it to a command that just failed adds it at the end.
        sys.exit(self.run([one for one in given if one != "--debug"], debug="--debug" in given))

    def run(self, arguments: list[str], *, debug: bool = False) -> int:
        """Run one command and return its exit code; the only place that catches errors."""
        try:
            with self.stop_signals():
                return int(get_command(self._app()).main(arguments, prog_name=self.name, standalone_mode=False) or 0)
        except typer.Exit as done:
            return done.exit_code
        except _UsageError as error:
            context = getattr(error, "ctx", None)
            hint = f"{context.command_path} --help" if context else None
            return self._report(UsageError(error.format_message(), hint=hint), debug)
        except Interrupted as stop:
            return self._report(stop, debug)
        except (typer.Abort, KeyboardInterrupt):
            return self._report(Interrupted("stopped; finished work was kept", hint="run the same command again to go on from there"), debug)
        except HistoprepError as error:
            return self._report(error, debug, arguments)
        except BrokenPipeError:
            # The reader of our output (head, less) left; that is no error of ours.
            sys.stderr.close()
            return ExitCode.OK
        except OSError as error:
            refused = OutputError.from_os_error(error, error.filename or "an unnamed file", "the system refuses to read or write")
            return self._report(refused, debug, arguments)
        except Exception as error:  # noqa: BLE001 (the last resort: a bug, and it says so)
            known = self.translate(error)
            if known is not None:
                return self._report(known, debug)
            console.error(f"{type(error).__name__}: {error}\n  this is a bug in {self.name} {__version__}; please report it with the traceback below")
            traceback.print_exc()
            return ExitCode.INTERNAL

    def _report(self, error: Explained, debug: bool, arguments: Sequence[str] = ()) -> int:
        if error.hint and ELSEWHERE in error.hint:
            places = self._output_options(arguments)
            error.hint = error.hint.replace(ELSEWHERE, f"name another {' or '.join(places)}" if places else ELSEWHERE)
        if self.speaks():
            console.error(str(error))
        if debug:
            traceback.print_exception(error)
        return error.exit_code

    def _output_options(self, arguments: Sequence[str]) -> list[str]:
        """Return the options of the command in `arguments` that say where its results go."""
        command = get_command(self._app())
        for word in arguments:
            command = (isinstance(command, TyperGroup) and command.get_command(None, word)) or command  # type: ignore[arg-type]
        if isinstance(command, TyperGroup):
            command = command.commands.get(getattr(command, "default", ""), command)
        options = {name for option in command.params for name in option.opts}
        return [name for name in _PLACES if name in options]

    def _app(self) -> typer.Typer:
        app = typer.Typer(cls=_group(self), no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

        def print_version(wanted: bool) -> None:
            if wanted:
                console.out(f"{self.name} {__version__}")
                raise typer.Exit

        def set_up(quiet: bool = False, debug: bool = False, version: bool = False) -> None:
            console.set_quiet(quiet)

        options = {
            "quiet": typer.Option("--quiet", "-q", help="Print results, warnings and errors only."),
            "debug": typer.Option("--debug", help="Show the traceback of an error."),
            "version": typer.Option("--version", callback=print_version, is_eager=True, help="Print the version."),
        }
        # Not in the signature: annotations are text in this file, and `print_version` is known in here only.
        set_up.__annotations__ = {name: Annotated[bool, option] for name, option in options.items()}
        app.callback(help=self.purpose)(set_up)
        return app


def print_verified(found: Verified) -> ExitCode:
    """Print what was verified and return the exit code."""
    for note in found.notes:
        console.note(note)
    for one in found.damages[:_NUM_SHOWN]:
        console.error(str(IntegrityError("damaged", path=one.path, seen=one.seen, expected=one.expected)))
    if len(found.damages) > _NUM_SHOWN:
        console.error(f"and {len(found.damages) - _NUM_SHOWN:,} more")
    state = f"{len(found.damages):,} damaged" if found.damages else "OK"
    console.out(f"{found.path}: {found.kind}, {found.num_files:,} {'file' if found.num_files == 1 else 'files'} read: {state}")
    return ExitCode.INTEGRITY if found.damages else ExitCode.OK


def default_group(name: str) -> type[TyperGroup]:
    """Return a group that takes `COMMAND ...` for `COMMAND name ...`; an argument called like a subcommand is written `./name`."""

    class DefaultGroup(TyperGroup):
        """Subcommands of which one need not be named."""

        default = name

        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            """Put the default in front unless a subcommand or --help is there."""
            named = bool(args) and (args[0] in self.commands or args[0] == "--help")
            parsed: list[str] = super().parse_args(ctx, args if named else [name, *args])
            return parsed

    return DefaultGroup


def _group(line: CommandLine) -> type[TyperGroup]:
    """Return the group of a program's commands: it knows them by name and imports only the one that is called, since start-up time matters."""

    class LazyGroup(TyperGroup):
        """The commands of one program."""

        def list_commands(self, ctx: Any) -> list[str]:
            """Return the commands in the order of the work."""
            return list(line.commands)

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            """Return the command of that name, or None."""
            if cmd_name not in line.commands:
                return None
            module, attribute, summary = line.commands[cmd_name]
            target = getattr(import_module(f"{line.package}.{module}"), attribute)
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
                formatter.write_dl([(name, entry[2]) for name, entry in line.commands.items()])

    return LazyGroup
