"""What all commands of both programs share: help pages of one style, options understood anywhere on
the line, completion, suggestions.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from enum import Enum
from functools import cache
from importlib import import_module
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from histoprep import console
from histoprep.version import __version__

EXAMPLES = "Examples:"
GLOBAL_OPTIONS = "Options of every command"
_F = TypeVar("_F", bound=Callable[..., Any])
_LEAST_LIKENESS = 0.7
_WORDS = {
    "str": "TEXT",
    "int": "NUMBER",
    "float": "NUMBER",
    "Path": "PATH",
    "text": "TEXT",
    "integer": "NUMBER",
    "path": "PATH",
}
# Typer carries click inside or beside it, depending on its version; this is the module of the base
# of all groups.
_CORE = next(
    kind.__module__
    for kind in TyperGroup.__mro__
    if kind.__module__.endswith(".core") and not kind.__module__.startswith("typer.core")
)


def closest(word: str, known: Iterable[str]) -> list[str]:
    """Return those of `known` that are most like `word`, dashes at the front aside; none if all are
    too different to be meant.
    """
    plain = word.lstrip("-")
    if not plain:
        return []
    scores = {name: SequenceMatcher(None, plain, name.lstrip("-")).ratio() for name in known}
    best = max(scores.values(), default=0.0)
    return [name for name, score in scores.items() if score == best and score >= _LEAST_LIKENESS]


def suggestion(names: Sequence[str]) -> str:
    """Return a question such as `. Did you mean audit?`, or nothing without names."""
    return f". Did you mean {' or '.join(names)}?" if names else ""


def split_examples(text: str) -> tuple[list[str], list[str]]:
    """Return the paragraphs of a help text and the commands of the block `Examples:` at its end."""
    prose, _, block = text.partition(f"{EXAMPLES}\n")
    paragraphs = [" ".join(paragraph.split()) for paragraph in prose.split("\n\n")]
    return [paragraph for paragraph in paragraphs if paragraph], [
        line.strip() for line in block.splitlines() if line.strip()
    ]


class _House:
    """A command or group of this project."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, those of every command among them."""
        own: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        params = [*own[:-1], *global_options(), own[-1]]
        for param in params:
            _read_plainly(param)
        return params

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the usage: options, then arguments in capitals."""
        pieces = [
            _in_usage(param)
            for param in self.get_params(ctx)
            if param.param_type_name == "argument"
        ]
        return [
            "[OPTIONS]",
            *pieces,
            *(["COMMAND [ARGS]..."] if isinstance(self, TyperGroup) else []),
        ]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write usage, text, arguments, options by topic, commands and examples."""
        self.format_usage(ctx, formatter)  # type: ignore[attr-defined]
        paragraphs, examples = split_examples(self.help or "")  # type: ignore[attr-defined]
        for paragraph in paragraphs:
            formatter.write_paragraph()
            with formatter.indentation():
                formatter.write_text(paragraph)
        for title, params in _by_topic(self.get_params(ctx)).items():
            with formatter.section(title):
                formatter.write_dl([_described(param, ctx) for param in params])
        if isinstance(self, Group):
            with formatter.section("Commands"):
                formatter.write_dl(self.summaries(ctx))
        if examples:
            with formatter.section(EXAMPLES.removesuffix(":")):
                formatter.write("".join(f"  {line}\n" for line in examples))


class Command(_House, TyperCommand):
    """A command; its docstring ends with a block `Examples:`."""


class Group(_House, TyperGroup):
    """A group of commands; of its own `default`, if there is one, the name may be left out:
    `COMMAND ...` is `COMMAND default ...`.

    An argument called like a subcommand is then written `./name`.
    """

    default: str | None = None

    def summaries(self, ctx: Any) -> list[tuple[str, str]]:
        """Return names and first sentences of the commands."""
        return [
            (name, split_examples(command.help or "")[0][0])
            for name, command in self.commands.items()
        ]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the default in front unless a subcommand, --help or nothing that can be completed is
        there.
        """
        if self.default is None or (ctx.resilient_parsing and not args):
            return super().parse_args(ctx, args)
        flags = {name for option in global_options() for name in option.opts}
        front = list(takewhile(flags.__contains__, args))
        rest = args[len(front) :]
        first = rest[0] if rest else ""
        if first in self.commands or first == "--help":
            return super().parse_args(ctx, args)
        meant = closest(first, self.commands)
        if (
            meant
            and not first.startswith("-")
            and not ctx.resilient_parsing
            and not Path(first).exists()
        ):
            ctx.fail(f"no such command and no such path: {first}{suggestion(meant)}")
        return super().parse_args(ctx, [*front, self.default, *rest])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return name, command and further arguments; an unknown name leads to a suggestion."""
        known = self.list_commands(ctx)
        listing = ", ".join(known)
        if args[0] not in known and not ctx.resilient_parsing:
            instead = suggestion(closest(args[0], known)) or f". The commands are {listing}."
            ctx.fail(f"no such command: {args[0]}{instead}")
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Return the commands, and what the default command could go on with."""
        item: Any = import_module(f"{_CORE.rpartition('.')[0]}.shell_completion").CompletionItem
        names = [
            item(name, help=text)
            for name, text in self.summaries(ctx)
            if name.startswith(incomplete)
        ]
        if self.default is None:
            # Past the listing of commands of the base, which would import them all.
            return [*names, *TyperCommand.shell_complete(self, ctx, incomplete)]
        return [*names, *self.commands[self.default].shell_complete(ctx, incomplete)]


class Commands(typer.Typer):
    """A Typer app whose commands and group have the style of this module."""

    def __init__(
        self,
        name: str,
        text: str,
        *,
        default: str | None = None,
        group: type[Group] = Group,
        completion: bool = False,
    ) -> None:
        kind = type("Group", (group,), {"default": default})
        bare = default is None
        super().__init__(
            name=name,
            cls=kind,
            help=text,
            no_args_is_help=bare,
            add_completion=completion,
            rich_markup_mode=None,
        )

    def command(self, name: str | None = None, **more: Any) -> Callable[[_F], _F]:
        """Return the decorator of a command."""
        decorator: Callable[[_F], _F] = super().command(name, **{"cls": Command, **more})
        return decorator


def as_command(name: str, target: Any) -> Any:
    """Return the command of a function, or of an app with subcommands."""
    if not isinstance(target, typer.Typer):
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        app.command(name=name, cls=Command)(target)
        target = app
    command = get_command(target)
    command.name = name
    return command


def _set_quiet(value: bool) -> None:
    if value:
        console.set_quiet(True)


def _set_debug(ctx: typer.Context, value: bool) -> None:
    if value and isinstance(ctx.obj, dict):
        ctx.obj["debug"] = True


def _print_version(ctx: typer.Context, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        console.out(f"{str(ctx.find_root().info_name).rpartition(' ')[2]} {__version__}")
        raise typer.Exit


def _everywhere(text: str, callback: Any, *names: str) -> Any:
    return typer.Option(
        *names,
        help=text,
        callback=callback,
        is_eager=True,
        expose_value=False,
        rich_help_panel=GLOBAL_OPTIONS,
    )


def _declared(
    quiet: Annotated[
        bool, _everywhere("Print results, warnings and errors only.", _set_quiet, "--quiet", "-q")
    ] = False,
    debug: Annotated[
        bool, _everywhere("Show the traceback of an error.", _set_debug, "--debug")
    ] = False,
    version: Annotated[
        bool, _everywhere("Print the version and exit.", _print_version, "--version")
    ] = False,
) -> None: ...


@cache
def global_options() -> tuple[Any, ...]:
    """Return the options of every command, which stand before or after its name."""
    app = typer.Typer(add_completion=False)
    app.command()(_declared)
    return tuple(get_command(app).params)


def _read_plainly(param: Any) -> None:
    """Have a parameter that nobody set, or set to what is plainly right, be read as it stands.

    Typer reads each with pydantic, which takes longer to import than all of typer; it still reads
    the others, and refuses what has to be refused.
    """
    reader = getattr(param, "get_runtime_param", None)
    if reader is not None and not isinstance(reader, _PlainReader):
        param.get_runtime_param = _PlainReader(reader)


class _PlainReader:
    """What stands for typer's reader of one parameter, which is made when it is needed."""

    def __init__(self, reader: Callable[[], Any]) -> None:
        self._reader = reader

    def __call__(self) -> _PlainReader:
        return self

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return the value of a parameter as typer does."""
        if value is None:
            return () if param.multiple or param.nargs == -1 else None
        plain = _plain(value, param.type_descriptor)
        return self._reader().coerce(value, param=param, ctx=ctx) if plain is None else plain


def _plain(value: Any, described: Any) -> Any:
    """Return a value of the type that is described; None where it takes more to say."""
    kind, limits = described.annotation, described.parameter_info
    if limits.parser is not None:
        return None
    if not isinstance(kind, type) or not isinstance(value, str | int | float | Enum | Path):
        return None
    if kind is Path:
        is_free = not (limits.exists or limits.resolve_path or limits.writable or limits.allow_dash)
        path = Path(value) if isinstance(value, str | Path) else None
        if path is None or not (is_free and limits.file_okay and limits.dir_okay):
            return None
        return path if os.access(path, os.R_OK) or not os.path.lexists(path) else None
    if issubclass(kind, Enum):
        return value if isinstance(value, kind) else None
    if kind is int and isinstance(value, str) and re.fullmatch("[0-9]{1,15}", value):
        value = int(value)
    if type(value) is not kind or kind not in (str, int, float):
        return None
    least, most = limits.min, limits.max
    is_within = (least is None or value >= least) and (most is None or value <= most)
    return value if is_within else None


def _by_topic(params: Sequence[Any]) -> Mapping[str, list[Any]]:
    """Return the parameters that are shown, by the title they stand under."""
    topics: dict[str, list[Any]] = {"Arguments": [], "Options": []}
    for param in params:
        if param.param_type_name == "argument":
            topics["Arguments"].append(param)
        elif not getattr(param, "hidden", False):
            topics.setdefault(_topic(param), []).append(param)
    common = topics.pop(GLOBAL_OPTIONS)
    return {title: found for title, found in topics.items() if found} | {GLOBAL_OPTIONS: common}


def _topic(param: Any) -> str:
    return (
        GLOBAL_OPTIONS
        if "--help" in param.opts
        else getattr(param, "rich_help_panel", None) or "Options"
    )


def _described(param: Any, ctx: Any) -> tuple[str, str]:
    """Return a parameter and what it is for, as a row of a help page."""
    if param.param_type_name == "argument":
        left = _in_usage(param).strip("[]")
    else:
        names = ", ".join(sorted([*param.opts, *param.secondary_opts], key=len))
        word = value_word(param)
        left = f"{names} {word}" if word else names
    text = "Show this page and exit." if "--help" in param.opts else param.help or ""
    notes = [
        note
        for note in (_limits(param), _default(param, ctx), "required" if param.required else "")
        if note
    ]
    return left, f"{text} [{'; '.join(notes)}]".strip() if notes else text


def _in_usage(argument: Any) -> str:
    name = (argument.metavar or argument.name).upper()
    shown = name if argument.required else f"[{name}]"
    return f"{shown}..." if argument.nargs == -1 else shown


def value_word(param: Any) -> str:
    """Return what a value is called on a help page: PATH, NUMBER, TEXT or the choices; nothing for
    a flag.
    """
    if param.metavar:
        return str(param.metavar)
    if getattr(param, "is_flag", False):
        return ""
    choices, name = _type_of(param)
    if choices is not None:
        return "|".join(
            str(choice.value if isinstance(choice, Enum) else choice) for choice in choices
        )
    return _WORDS[name]


def _type_of(param: Any) -> tuple[Sequence[Any] | None, str]:
    """Return the choices of a parameter, if it has some, and the name of its type."""
    described = getattr(param, "type_descriptor", None)
    if described is None:
        # Typer before 0.29 keeps a type of click.
        return getattr(param.type, "choices", None), param.type.name.partition(" ")[0]
    annotation = described.annotation.__args__[0] if described.is_list else described.annotation
    return described.choices, annotation.__name__


def _limits(param: Any) -> str:
    bounded = param if hasattr(param, "min") else getattr(param, "type", param)
    least, most = getattr(bounded, "min", None), getattr(bounded, "max", None)
    if least is not None and most is not None:
        return f"{least} to {most}"
    return (
        f"at least {least}" if least is not None else f"at most {most}" if most is not None else ""
    )


def _default(param: Any, ctx: Any) -> str:
    if isinstance(param.show_default, str):
        return f"default: {param.show_default}"
    value = param.get_default(ctx, call=False)
    if not param.show_default or value is None or isinstance(value, bool):
        return ""
    return f"default: {value.value if isinstance(value, Enum) else value}"
