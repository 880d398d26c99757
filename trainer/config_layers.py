"""A configuration from its layers: preset, file, --set, flags; later ones win. Unknown keys are
errors with a suggestion.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Hashable, Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from trainer.config import RENAMED, RunConfig
from trainer.errors import ConfigError
from trainer.section import NAME, KindByName
from trainer.stage import DEFAULT_PRESETS, recipe_of

# A layer replaces these as a whole: "epochs" over a preset's "steps" is a change, not a
# contradiction.
_WHOLE = frozenset({"duration"})
_PATHS = ("manifest", "out", "init")
# What a run that continues another one does not take from it: its data and its place.
_OF_ONE_RUN = ("manifest", "root", "fold", "inner_fold", "init", "out", "latents", "preset")
_Config = TypeVar("_Config", bound=BaseModel)


def presets() -> list[str]:
    """Return the names of the packed presets, sorted."""
    return sorted(
        entry.name.removesuffix(".yml")
        for entry in files("trainer.presets").iterdir()
        if entry.name.endswith(".yml")
    )


_MAX_MEANT = 3


def load_config(
    *,
    recipe: str | None = None,
    preset: str | None = None,
    file: str | Path | None = None,
    base: RunConfig | None = None,
    sets: Iterable[str] = (),
    **flags: Any,
) -> RunConfig:
    """Return the configuration of some layers: preset, then file, then --set, then flags.

    Paths become absolute; without `out` the run goes to runs/<preset or recipe>, with a
    fold to runs/<preset or recipe>-fold<fold>, with an inner one to -fold<fold>-inner<inner fold>.

    Args:
        recipe: Without a preset or a file it stands for its preset of full size; otherwise it must
            be
            theirs.
        preset: Name of a packed configuration.
        file: A YAML file.
        base: The run that this one continues: without preset, file or recipe everything but data
            and place is as there.
        sets: Entries key=value with dotted keys.
        **flags: Values by key; None is ignored.

    Raises:
        ConfigError: Its text lists every unknown key with the nearest known one, and every wrong
            value.
    """
    merged: dict[str, Any] = {}
    options = read_yaml(Path(file)) if file is not None else {}
    if base is not None and (preset, file, recipe) == (None, None, None):
        merged = base.model_dump(mode="json", by_alias=True, exclude=set(_OF_ONE_RUN))
    preset = (
        preset
        or options.get("preset")
        or (None if recipe is None or file is not None else default_preset(recipe))
    )
    if preset is not None:
        merged = merge(merged, {**_read_preset(str(preset)), "preset": str(preset)})
    merged = merge(merged, options)
    # All of --set make one layer: their order must not matter where one names another kind.
    merged = merge(merged, functools.reduce(merge, map(_parse_set, sets), {}))
    merged = merge(merged, {name: value for name, value in flags.items() if value is not None})
    if "recipe" not in merged:
        raise ConfigError(
            "no recipe is named",
            hint="give --preset, or write `recipe: NAME` in the configuration",
            expected=", ".join(presets()),
        )
    if recipe not in (None, merged["recipe"]):
        raise ConfigError(
            "the configuration is of another recipe",
            seen=merged["recipe"],
            expected=recipe,
            hint="leave out --recipe",
        )
    fold = "" if merged.get("fold") is None else f"-fold{merged['fold']}"
    inner = "" if merged.get("inner_fold") is None else f"-inner{merged['inner_fold']}"
    merged.setdefault("out", f"runs/{merged.get('preset') or merged['recipe']}{fold}{inner}")
    for name in _PATHS:
        if isinstance(merged.get(name), str | Path):
            merged[name] = absolute(str(merged[name]))
    return build_config(
        recipe_of(str(merged["recipe"])).Config,
        merged,
        where=str(file) if file is not None else None,
    )


def default_preset(recipe: str) -> str:
    """Return the preset of full size of a recipe.

    Raises:
        ConfigError: When there is no such recipe.
    """
    recipe_of(recipe)
    return DEFAULT_PRESETS[recipe]


def absolute(path: str) -> str:
    """Return a path made absolute; an address with a scheme stays as it is."""
    return path if "://" in path else str(Path(path).expanduser().absolute())


def build_config(
    kind: type[_Config], values: Mapping[str, Any], *, where: str | None = None
) -> _Config:
    """Return `values` as a configuration of `kind`.

    Raises:
        ConfigError: Its text lists every problem.
    """
    try:
        return kind.model_validate(with_current_keys(values))
    except ValidationError as error:
        problems = [_problem(kind, values, problem) for problem in error.errors(include_url=False)]
        raise ConfigError("the configuration is not valid:", details=problems, path=where) from None


def with_current_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values of a configuration with the keys that older ones call otherwise renamed."""
    current = dict(values)
    for (section, old), new in RENAMED.items():
        inner = current.get(section)
        if isinstance(inner, Mapping) and old in inner:
            current[section] = {new if key == old else key: inner[key] for key in inner}
    return current


def dump_config(config: BaseModel) -> str:
    """Return a configuration as YAML, every key written out, in the order of the schema."""
    return yaml.safe_dump(
        config.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True
    )


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `under` with the keys of `over` in it, section by section.

    A section of another kind (another `name`) replaces the one below it: the options of one
    denoiser mean nothing to another.
    """
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        both = (
            isinstance(value, Mapping)
            and isinstance(below, Mapping)
            and key not in _WHOLE
            and not _differ_in_kind(below, value)
        )
        merged[key] = merge(merged[key], value) if both else value
    return merged


def _differ_in_kind(below: Mapping[str, Any], above: Mapping[str, Any]) -> bool:
    return NAME in below and NAME in above and below[NAME] != above[NAME]


# Beside its own: a date such as 2026-13-45, a tag on what is no such value, lists in lists without
# end.
_YAML_ERRORS = (yaml.YAMLError, ValueError, AttributeError, RecursionError)


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML without what surprises: duplicate keys, aliases (which can explode) and merges are
    refused.
    """

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose a node; refuse an alias."""
        if self.check_event(yaml.AliasEvent):
            peek: Any = self.peek_event  # untyped in types-PyYAML
            raise yaml.constructor.ConstructorError(
                None, None, "aliases are not allowed", peek().start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Construct a mapping; refuse merges and a key that occurs twice."""
        keys = [key.value for key, _ in node.value]
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise yaml.constructor.ConstructorError(
                None, None, "merges (<<) are not allowed", node.start_mark
            )
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(
                None, None, f"key occurs twice: {', '.join(twice)}", node.start_mark
            )
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        ConfigError: With the place of the mistake.
    """
    if path.exists() and not path.is_file():
        raise ConfigError("the configuration is not a regular file", path=path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the configuration: {error}", path=path) from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, where: str) -> dict[str, Any]:
    """Return the mapping in a YAML text of a place called `where`.

    Raises:
        ConfigError: With the place of the mistake.
    """
    try:
        values = yaml.load(text, Loader=_StrictLoader)
    except _YAML_ERRORS as error:
        raise ConfigError(
            f"the configuration is not YAML that is accepted here: {error}", path=where
        ) from error
    if not isinstance(values, dict | None):
        raise ConfigError(
            "the configuration is not a mapping", path=where, seen=type(values).__name__
        )
    return with_current_keys(values or {})


def _read_preset(name: str) -> dict[str, Any]:
    if name not in presets():
        near = difflib.get_close_matches(name, presets(), 1)
        raise ConfigError(
            "there is no such preset",
            seen=name,
            expected=", ".join(presets()),
            hint=f"--preset {near[0]}" if near else None,
        )
    return parse_yaml(
        (files("trainer.presets") / f"{name}.yml").read_text(encoding="utf-8"), f"preset {name}"
    )


def _parse_set(entry: str) -> dict[str, Any]:
    key, equals, text = entry.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        raise ConfigError("--set takes key=value", seen=entry, expected="such as optimiser.lr=2e-4")
    try:
        value: Any = yaml.load(text, Loader=_StrictLoader)
    except _YAML_ERRORS as error:
        raise ConfigError(f"--set {key}: the value is not YAML: {error}", seen=text) from error
    for name in reversed(names):
        value = {name: value}
    return with_current_keys(value)


def _problem(kind: type[BaseModel], values: Mapping[str, Any], error: Mapping[str, Any]) -> str:
    """Return one line on one problem of a configuration."""
    place = error["loc"]
    name = ".".join(str(part) for part in place) or "configuration"
    if error["type"] != "extra_forbidden":
        value = "" if error["type"] in ("missing", "value_error") else f", seen {error['input']!r}"
        return f"{name}: {error['msg'].removeprefix('Value error, ')}{value}"
    known = _keys_at(kind, values, place[:-1])
    near = _meant(str(place[-1]), known, _keys_below(kind, values))
    advice = f"perhaps {' or '.join(near)}" if near else f"known here: {', '.join(known)}"
    return f"{name}: unknown key; {advice}"


def _meant(word: str, here: Sequence[str], everywhere: Sequence[str]) -> list[str]:
    """Return the keys that a word may stand for.

    This is one of `here` that is nearly it; or else the dotted keys of all sections that end in it,
    or nearly end in it; or else one of `here` that is a little like it.
    """
    by_last: dict[str, list[str]] = {}
    for key in everywhere:
        by_last.setdefault(key.rpartition(".")[2], []).append(key)
    if near := difflib.get_close_matches(word, here, 1, 0.75):
        return near
    if word in by_last:
        return by_last[word][:_MAX_MEANT]
    if near := difflib.get_close_matches(word, by_last, 1, 0.65):
        return by_last[near[0]][:_MAX_MEANT]
    return difflib.get_close_matches(word, here, 1, 0.5)


def _keys_below(kind: type[BaseModel], values: Any, start: str = "") -> list[str]:
    """Return the dotted keys of a configuration of `kind` and of its sections."""
    keys = []
    for name, field in kind.model_fields.items():
        key = field.alias or name
        keys.append(start + key)
        inside = values.get(key) if isinstance(values, Mapping) else None
        if (section := _section_in(field, inside)) is not None:
            keys += _keys_below(section, inside, f"{start}{key}.")
    return keys


def _keys_at(kind: type[BaseModel], values: Any, place: Sequence[Any]) -> list[str]:
    """Return the keys that a configuration of `kind` knows in the section at `place`; `values` say
    of which kinds its sections are.
    """
    for part in place:
        values = values.get(part) if isinstance(values, Mapping) else None
        field = next(
            (
                model_field
                for name, model_field in kind.model_fields.items()
                if part in (name, model_field.alias)
            ),
            None,
        )
        if field is not None:
            kind = _section_in(field, values) or kind
    return [field.alias or name for name, field in kind.model_fields.items()]


def _section_in(field: FieldInfo, values: Any) -> type[BaseModel] | None:
    """Return the class of the section in a field, None for a field without one."""
    for mark in field.metadata:
        if isinstance(mark, KindByName) and isinstance(values, Mapping):
            return mark.kind_of(values)
    inner = (kind for kind in _types_in(field.annotation) if issubclass(kind, BaseModel))
    return next(inner, None)


def _types_in(annotation: Any) -> list[type]:
    if isinstance(annotation, type):
        return [annotation]
    return [kind for part in get_args(annotation) for kind in _types_in(part)]
