"""Packages: which Python, which versions, and whether what is imported is ours."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from importlib.util import find_spec
from pathlib import Path

import histoprep
from histoprep.doctor.check import Check, CheckStatus
from histoprep.errors import HistoprepError
from histoprep.extras import install_command
from histoprep.labels import find_label_map, load_label_map

OURS = "histoprep-diffusion"
FOREIGN = ("histoprep", "trainer")
"""Projects on the package index named like our packages; they install into the same folders."""

_OLDEST_PYTHON = (3, 11)
_REINSTALL = "in the folder of the source: pip install --force-reinstall --no-deps ."
_EXTRAS = {
    "train": (CheckStatus.WARN, "needed to train and to generate"),
    "fast": (CheckStatus.WARN, "a quicker PNG decoder"),
    "cluster": (CheckStatus.OK, "only for --engine dask"),
    "cloud": (CheckStatus.OK, "only for object stores"),
    "browse": (CheckStatus.OK, "only for histoprep browse"),
    "import": (CheckStatus.OK, "only for histoprep import"),
}
_REQUIREMENT = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^]]*\])?\s*(?:>=\s*([0-9.]+))?")
_EXTRA = re.compile(r"extra\s*==\s*['\"]([^'\"]+)['\"]")


def check_python() -> Iterator[Check]:
    """Yield whether this Python is new enough."""
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < _OLDEST_PYTHON:
        yield Check(
            "python",
            CheckStatus.FAIL,
            f"{found} in {sys.executable}",
            "make a virtual environment with Python 3.11 or newer",
        )
    else:
        yield Check("python", CheckStatus.OK, f"{found} in {sys.executable}")


def check_packages() -> Iterator[Check]:
    """Yield ourselves, the packages we need, and each extra: those that are missing or older than
    we were tested with.
    """
    try:
        ours = distribution(OURS)
    except PackageNotFoundError:
        yield Check(
            "histoprep",
            CheckStatus.FAIL,
            f"{OURS} is not installed; imported from {_home('histoprep')}",
            _REINSTALL,
        )
        return
    yield Check("histoprep", CheckStatus.OK, f"{ours.version} in {_home('histoprep')}")
    needs = _requirements(ours)
    yield _group(
        "packages",
        needs.get("", []),
        CheckStatus.FAIL,
        "",
        install_command(),
    )
    for extra, (missing, purpose) in _EXTRAS.items():
        yield _group(
            f"extra {extra}", needs.get(extra, []), missing, purpose, install_command(extra)
        )


def _group(
    name: str, needs: list[tuple[str, str]], if_missing: CheckStatus, purpose: str, fix: str
) -> Check:
    versions = {package: _version(package) for package, _ in needs}
    missing = [package for package, found in versions.items() if found is None]
    old = [
        f"{package} {versions[package]} < {least}"
        for package, least in needs
        if least and _is_older(versions[package], least)
    ]
    if missing:
        return Check(
            name,
            if_missing,
            f"not installed: {', '.join(missing)}{f' ({purpose})' if purpose else ''}",
            fix,
        )
    if old:
        return Check(name, CheckStatus.WARN, f"older than we ask for: {', '.join(old)}", fix)
    return Check(
        name, CheckStatus.OK, ", ".join(f"{package} {found}" for package, found in versions.items())
    )


def check_foreign() -> Iterator[Check]:
    """Yield whether another project's `histoprep` or `trainer` lies in the way of ours."""
    found = [package for package in distributions() if _name_of(package) in FOREIGN]
    ours = _home("histoprep")
    homes = {name: _home(name) for name in FOREIGN}
    shadowed = [
        name
        for name, home in homes.items()
        if home is None or ours is None or home.parent != ours.parent
    ]
    named = {_name_of(package): package.version for package in found}
    if named:
        status = CheckStatus.FAIL if shadowed else CheckStatus.WARN
        detail = (
            "other projects with our names are installed:"
            f" {', '.join(f'{name} {version}' for name, version in named.items())}"
        )
        yield Check(
            "foreign packages",
            status,
            detail,
            f"pip uninstall {' '.join(named)}; then {_REINSTALL}",
        )
    elif shadowed:
        seen = ", ".join(f"{name} from {_home(name) or 'nowhere'}" for name in shadowed)
        yield Check(
            "foreign packages",
            CheckStatus.FAIL,
            f"not ours: {seen}",
            "leave that folder, or take it off PYTHONPATH",
        )
    else:
        yield Check("foreign packages", CheckStatus.OK, "none with our names")


def check_label_maps() -> Iterator[Check]:
    """Yield whether the packed label maps can be read."""
    try:
        found = load_label_map(find_label_map("label_map_5"))
    except HistoprepError as error:
        yield Check(
            "label maps",
            CheckStatus.FAIL,
            f"the packed ones cannot be read: {error.what}",
            _REINSTALL,
        )
    else:
        yield Check(
            "label maps",
            CheckStatus.OK,
            f"{found.name}, {len(found.sources)} labels to {found.num_classes} classes",
        )


def _requirements(ours: Distribution) -> dict[str, list[tuple[str, str]]]:
    """Return (package, least version) by extra, "" for those always needed; our own extras are left
    out.
    """
    needs: dict[str, list[tuple[str, str]]] = {}
    for line in ours.requires or ():
        found, extra = _REQUIREMENT.match(line), _EXTRA.search(line)
        if found and _plain(found[1]) != OURS:
            needs.setdefault(extra[1] if extra else "", []).append((found[1], found[2] or ""))
    return needs


def _version(package: str) -> str | None:
    try:
        return distribution(package).version
    except PackageNotFoundError:
        return None


def _is_older(found: str | None, least: str) -> bool:
    return found is not None and _numbers(found) < _numbers(least)


def _numbers(version: str) -> tuple[int, ...]:
    release = re.match(r"[0-9.]+", version)
    return tuple(int(part) for part in release[0].strip(".").split(".")) if release else ()


def _name_of(package: Distribution) -> str:
    # A broken installation may have no name.
    return _plain(str(package.metadata["Name"] or ""))


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _home(name: str) -> Path | None:
    """Return the folder that `import name` would come from; nothing but ourselves is imported."""
    if name == "histoprep":
        return Path(histoprep.__file__).parent
    spec = find_spec(name)
    return Path(spec.origin).parent if spec and spec.origin else None
