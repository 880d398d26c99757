"""HP9: the shards beside the manifest in the workspace; `histoprep shard verify` reads every byte
of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from histoprep import rule_ids
from histoprep.checks import Evidence
from histoprep.checks.registry import table_rule
from histoprep.choices import Severity
from histoprep.errors import IntegrityError
from histoprep.findings import Finding, FixSafety, Problem, Rule, Scope
from histoprep.names import to_text

SHARD_CORRUPT = Rule(
    *rule_ids.SHARD_CORRUPT,
    Severity.ERROR,
    Scope.TILE,
    definition="A shard or a member is missing, or its bytes differ from those that were written.",
    cause="A copy of the shard was interrupted, or the shard was changed or damaged.",
    suggestion=(
        "Copy the shard again, or write shards into another folder: histoprep shard MANIFEST --out"
        " ROOT-shards"
    ),
    fix_safety=FixSafety.SAFE,
)
SHARD_MANIFEST_MISMATCH = Rule(
    *rule_ids.SHARD_MANIFEST_MISMATCH,
    Severity.ERROR,
    Scope.TILE,
    definition=(
        "The shards do not contain the tiles of the manifest: keys, files, splits, pools or the"
        " label map differ."
    ),
    cause="The manifest was created again after the shards were written.",
    suggestion=(
        "Write shards of this manifest into another folder: histoprep shard MANIFEST --out"
        " ROOT-shards"
    ),
    fix_safety=FixSafety.SAFE,
)


_OF_SHARDS = (SHARD_CORRUPT, SHARD_MANIFEST_MISMATCH)


def shard_findings(problems: Iterable[Problem]) -> list[Finding]:
    """Return the findings of what `verify_shards` found."""
    return [problem.finding(_OF_SHARDS) for problem in problems]


@table_rule(*_OF_SHARDS)
def faulty_shards(evidence: Evidence) -> Iterator[Finding]:
    """Yield which shards are gone or of another size, and what they hold that the manifest does
    not, or the reverse.
    """
    if evidence.manifest is None:
        return
    folder = evidence.manifest.parent / "shards"
    if not (folder / "index.parquet").exists():
        return
    from histoprep.schemas.manifest import open_manifest
    from histoprep.shards.verify import verify_shards

    try:
        open_manifest(evidence.manifest)
        compared = evidence.manifest
    except IntegrityError:  # HP901 says so.
        compared = None
    for found in shard_findings(verify_shards(folder, compared, contents=False)):
        # The folder's own path comes from the system, all others from tables.
        yield replace(found, where="shards", paths=tuple(to_text(path) for path in found.paths))
