"""What the command lines of both packages have in common: lazy commands, and errors turned into
exit codes in one place.
"""

from __future__ import annotations

import atexit
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

import typer
from typer.main import get_command

from histoprep import console
from histoprep.command_style import Commands, Group, as_command, closest, suggestion
from histoprep.errors import (
    ELSEWHERE,
    ExitCode,
    Explained,
    HistoprepError,
    IntegrityError,
    Interrupted,
    OutputError,
    UsageError,
)
from histoprep.phrases import plural
from histoprep.version import __version__

if TYPE_CHECKING:
    from histoprep.verify import Verified

_NUM_SHOWN = 20
# Options that say where results go.
_PLACES = ("--out", "--workspace", "--output")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
# Typer carries click inside or beside it, depending on its version; this is the base of all errors
# about options.
_UsageError: Any = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)


def leave(code: int) -> NoReturn:
    """End this process as `sys.exit` does, but without taking every module apart, which takes a
    sixth of the time of a small audit.
    """
    if not (sys.getprofile() or sys.gettrace() or sys.flags.interactive):
        # What goes wrong here is said by `sys.exit`, which does it again.
        with suppress(Exception):
            threading._shutdown()  # type: ignore[attr-defined]
            atexit._run_exitfuncs()
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(code)
    sys.exit(code)


def _always() -> bool:
    return True


def _unknown(error: Exception) -> None:
    """Know no other errors than our own."""


@dataclass(frozen=True)
class CommandLine:
    """A program: its name, what it is for, and its commands by name: (module, attribute, short
    help), modules relative to `package`.

    `stop_signals` turns signals into our errors while a command runs; `translate` makes an error of
    ours from an exception that is no bug; `speaks` says whether this process prints errors.
    """

    name: str
    purpose: str
    package: str
    commands: Mapping[str, tuple[str, str, str]]
    stop_signals: Callable[[], AbstractContextManager[None]]
    translate: Callable[[Exception], HistoprepError | None] = _unknown
    speaks: Callable[[], bool] = _always

    def main(self, arguments: list[str] | None = None, *, called: str | None = None) -> None:
        """Run the command line and leave with its exit code; `called` is how the program was
        started, if not by its name.
        """
        sys.exit(self.run(sys.argv[1:] if arguments is None else arguments, called=called))

    def run(self, arguments: list[str], *, debug: bool = False, called: str | None = None) -> int:
        """Run one command and return its exit code; the only place that catches errors."""
        quiet = console.is_quiet()
        state = {"debug": debug}
        try:
            return self._run(arguments, state, called or self.name)
        finally:
            console.set_quiet(quiet)

    def _run(self, arguments: list[str], state: dict[str, bool], called: str) -> int:
        try:
            _refuse_addresses(arguments)
            with self.stop_signals():
                variable = f"_{self.name}_COMPLETE".upper()
                return int(
                    self._command().main(
                        arguments,
                        prog_name=called,
                        complete_var=variable,
                        standalone_mode=False,
                        obj=state,
                    )
                    or 0
                )
        except typer.Exit as done:
            return done.exit_code
        except _UsageError as error:
            if type(error).__name__ == "NoArgsIsHelpError":
                console.block(error.ctx.get_help())
                return ExitCode.USAGE
            return self._report(_explained(error, arguments), state["debug"])
        except Interrupted as stop:
            return self._report(stop, state["debug"])
        except (typer.Abort, KeyboardInterrupt):
            return self._report(
                Interrupted(
                    "stopped; finished work was kept",
                    hint="rerun the same command to resume",
                ),
                state["debug"],
            )
        except HistoprepError as error:
            return self._report(error, state["debug"], arguments)
        except BrokenPipeError:
            # The reader of our output (head, less) left; that is no error of ours.
            sys.stderr.close()
            return ExitCode.OK
        except OSError as error:
            refused = OutputError.from_os_error(
                error, error.filename or "an unnamed file", "the system refused to read or write"
            )
            return self._report(refused, state["debug"], arguments)
        except Exception as error:  # noqa: BLE001 (the last resort: a bug, and it says so)
            known = self.translate(error)
            if known is not None:
                return self._report(known, state["debug"])
            console.error(
                f"{type(error).__name__}: {error}\n  this is a bug in {self.name} {__version__};"
                " please report it with the traceback below"
            )
            traceback.print_exc()
            return ExitCode.INTERNAL

    def _report(self, error: Explained, debug: bool, arguments: Sequence[str] = ()) -> int:
        if error.hint and ELSEWHERE in error.hint:
            places = self._output_options(arguments)
            error.hint = error.hint.replace(
                ELSEWHERE, f"name another {' or '.join(places)}" if places else ELSEWHERE
            )
        if self.speaks():
            console.error(str(error))
        if debug:
            traceback.print_exception(error)
        return error.exit_code

    def _output_options(self, arguments: Sequence[str]) -> list[str]:
        """Return the options of the command in `arguments` that say where its results go."""
        command = self._command()
        for word in arguments:
            command = (isinstance(command, Group) and command.get_command(None, word)) or command  # type: ignore[arg-type]
        if isinstance(command, Group):
            command = command.commands.get(command.default or "", command)
        options = {name for option in command.params for name in option.opts}
        return [name for name in _PLACES if name in options]

    def _command(self) -> Any:
        app = Commands(self.name, self.purpose, group=_lazy_group(self), completion=True)
        app.callback()(lambda: None)
        command: Any = get_command(app)
        for param in command.params:
            param.rich_help_panel, param.callback = (
                "Completion",
                _with_name(self.name, param.callback),
            )
        return command


def _refuse_addresses(arguments: Sequence[str]) -> None:
    """Raise UsageError where results are to go to an address: a path would be made of it."""
    for at, word in enumerate(arguments):
        option, is_joined, value = word.partition("=")
        if option in _PLACES and not is_joined:
            value = "".join(arguments[at + 1 : at + 2])
        if option in _PLACES and _ADDRESS.match(value):
            raise UsageError(
                f"{option} names an address, and results are written to folders of this machine",
                seen=value,
                hint="write to a folder, and copy that with the tools of the store",
            )


def _with_name(name: str, callback: Any) -> Any:
    """Return `callback`, which completes the program of this name, also when it was started as
    `python -m`.
    """

    def call(ctx: Any, param: Any, value: Any) -> Any:
        if value:
            ctx.find_root().info_name = name
        return callback(ctx, param, value)

    return call


def _explained(error: Any, arguments: list[str]) -> UsageError:
    """Return the error of ours for one about options, with a suggestion where there is a sensible
    one.
    """
    context = getattr(error, "ctx", None)
    if context is None:
        return UsageError(error.format_message())
    name, hint = getattr(error, "option_name", None), f"{context.command_path} --help"
    if type(error).__name__ != "NoSuchOption" or name is None:
        return UsageError(error.format_message(), hint=hint)
    later = _command_with(context, name, arguments)
    if later is not None:
        return UsageError(
            f"{name} is an option of {later}, and stands after its name",
            hint=f"{context.command_path} {later} --help",
        )
    options = _long_options(context.command, context)
    # `-quiet` is read as `-q -u -i ...`, so that the letter after the first known one is complained
    # about.
    typed = next(
        (word for word in arguments if not name.startswith("--") and f"-{word}" in options), name
    )
    return UsageError(f"no such option: {typed}{suggestion(closest(typed, options))}", hint=hint)


def _command_with(context: Any, option: str, arguments: list[str]) -> str | None:
    """Return the command named in `arguments` that has `option`, where the option was looked for
    before the name of a command.
    """
    if not isinstance(context.command, Group):
        return None
    named = next(
        (word for word in arguments if word in context.command.list_commands(context)), None
    )
    if named is None:
        return None
    command = context.command.get_command(context, named)
    if isinstance(command, Group) and command.default:
        command = command.commands[command.default]
    return named if option in _long_options(command, context) else None


def _long_options(command: Any, context: Any) -> list[str]:
    shown = [param for param in command.get_params(context) if not getattr(param, "hidden", False)]
    return [
        name
        for param in shown
        for name in (*param.opts, *param.secondary_opts)
        if name.startswith("--")
    ]


def print_verified(found: Verified) -> ExitCode:
    """Print what was verified and return the exit code."""
    for note in found.notes:
        console.note(note)
    for damage in found.damages[:_NUM_SHOWN]:
        console.error(
            str(
                IntegrityError(
                    "this file is not as it was written",
                    path=damage.path,
                    seen=damage.seen,
                    expected=damage.expected,
                )
            )
        )
    if len(found.damages) > _NUM_SHOWN:
        console.error(f"and {len(found.damages) - _NUM_SHOWN:,} more")
    state = "not finished" if found.num_unfinished else "OK"
    if found.damages:
        state = f"{len(found.damages):,} damaged"
    console.out(f"{found.path}: {found.kind}, {plural(found.num_files, 'file')} read: {state}")
    if found.damages:
        return ExitCode.INTEGRITY
    return ExitCode.INCOMPLETE if found.num_unfinished else ExitCode.OK


def _lazy_group(line: CommandLine) -> type[Group]:
    """Return the group of a program's commands: it knows them by name and imports only the one that
    is called, since start-up time matters.
    """

    class LazyGroup(Group):
        """The commands of one program."""

        def list_commands(self, ctx: Any) -> list[str]:
            """Return the commands in the order of the work."""
            return list(line.commands)

        def summaries(self, ctx: Any) -> list[tuple[str, str]]:
            """Return names and short helps without importing any command."""
            return [(name, entry[2]) for name, entry in line.commands.items()]

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            """Return the command of that name, or None."""
            if cmd_name not in line.commands:
                return None
            module, attribute, summary = line.commands[cmd_name]
            command = as_command(
                cmd_name, getattr(import_module(f"{line.package}.{module}"), attribute)
            )
            command.short_help = summary
            return command

    return LazyGroup
