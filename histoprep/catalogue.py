"""Every rule of the audit, collected from the files of the families and from other packages.

`histoprep rules` and `histoprep explain` print them, and reports and the table in the documentation
are made from them.
"""

from __future__ import annotations

import inspect

from histoprep import plugins
from histoprep.checks import (
    classes,
    duplicates,
    encodings,
    files,
    fit,
    images,
    label_maps,
    leaks,
    listing,
    lossy,
    manifests,
    masks,
    neighbours,
    registry,
    shards,
)
from histoprep.digests import digest_text
from histoprep.findings import Rule

GROUP = "histoprep.rules"
"""Entry points of other packages; loading one registers its rules."""
FAMILIES = (
    listing,
    files,
    images,
    masks,
    encodings,
    lossy,
    fit,
    label_maps,
    duplicates,
    leaks,
    neighbours,
    classes,
    manifests,
    shards,
)
"""The modules with rules; importing one registers them."""


def all_rules() -> dict[str, Rule]:
    """Return every rule by its code, in order of code.

    Raises:
        UsageError: The rules of another package cannot be loaded.
    """
    plugins.load(GROUP)
    return registry.registered_rules()


def outside_rules() -> list[tuple[Rule, str]]:
    """Return the rules of other packages, each with the digest of the source of what finds it: an
    audit by other rules is another audit.
    """
    own = f"{__name__.partition('.')[0]}."
    return [
        (rule, digest_text(_source(check)))
        for check, rules in (*registry.row_checks().items(), *registry.table_checks().items())
        if not check.__module__.startswith(own)
        for rule in rules
    ]


def _source(check: object) -> str:
    module = inspect.getmodule(check)
    try:
        return inspect.getsource(module) if module else ""
    except OSError:  # Typed into a notebook.
        return ""


def row_checks() -> list[registry.RowCheck]:
    """Return every function that looks at one chunk of tiles at a time."""
    plugins.load(GROUP)
    return list(registry.row_checks())


def table_checks() -> list[registry.TableCheck]:
    """Return every function that looks at the whole data set."""
    plugins.load(GROUP)
    return list(registry.table_checks())
