"""The modules that an exported network needs, as files beside it that import each other.

An export must work without this package. So the very modules that compute here go along, with
their imports among each other made relative; nothing is written a second time.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

_PACKAGES = ("trainer", "histoprep")
_IMPORT = re.compile(r"^(\s*)from ((?:trainer|histoprep)(?:\.\w+)+) import ", re.MULTILINE)


def bundle(module: str, *, name: str, exchanged: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return files by name: `module` as NAME.py, and every module of ours that it needs.

    Files import each other directly, and NAME.py imports all of them, since those who load code
    from a model's folder look for imports in the first file only.

    Args:
        module: Dotted name of the first module.
        name: Name of its file, without suffix.
        exchanged: Modules that `module` imports -> modules to import instead.
    """
    names: dict[str, str] = {}
    sources: dict[str, str] = {}
    _gather(module, dict(exchanged or {}), sources)
    names = {found: name if found == module else found.replace(".", "_") for found in sources}
    files = {f"{names[found]}.py": _relative(source, names) for found, source in sources.items()}
    others = sorted(other for other in names.values() if other != name)
    lines = "".join(
        f"from .{other} import __name__ as _{other}  # noqa: F401\n" for other in others
    )
    first = files[f"{name}.py"]
    marker = "from __future__ import annotations\n"
    files[f"{name}.py"] = first.replace(marker, f"{marker}\n{lines}", 1)
    return files


def _gather(module: str, exchanged: Mapping[str, str], sources: dict[str, str]) -> None:
    if module in sources:
        return
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None, module
    source = Path(spec.origin).read_text(encoding="utf-8")
    for old, new in exchanged.items():
        source = source.replace(f"from {old} import", f"from {new} import")
    sources[module] = source
    for needed in _imports(source):
        # What only a type checker reads does not run.
        _gather(needed, {}, sources)


def _imports(source: str) -> list[str]:
    """Return the modules of ours that run when a module is imported or its functions are called."""
    tree = ast.parse(source)
    skipped = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    return [
        node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        and node not in skipped
        and node.module
        and node.module.partition(".")[0] in _PACKAGES
    ]


def _relative(source: str, names: Mapping[str, str]) -> str:
    return _IMPORT.sub(
        lambda found: f"{found[1]}from .{names.get(found[2], found[2].replace('.', '_'))} import ",
        source,
    )
