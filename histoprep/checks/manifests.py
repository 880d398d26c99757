"""HP9: the manifest in the workspace against itself and against the files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import replace

from histoprep import rule_ids
from histoprep.checks import Evidence
from histoprep.checks.leaks import (
    DUPLICATE_ACROSS_SPLITS,
    GROUP_IN_BOTH_SPLITS,
    POOL_OVERLAP,
    TILE_IN_BOTH_SPLITS,
)
from histoprep.checks.registry import table_rule
from histoprep.choices import Severity
from histoprep.errors import IntegrityError
from histoprep.findings import Finding, FixSafety, Problem, Rule, Scope
from histoprep.names import to_text

MANIFEST_SCHEMA = Rule(
    *rule_ids.MANIFEST_SCHEMA,
    Severity.ERROR,
    Scope.DATASET,
    definition=(
        "The manifest lacks a column, or has a wrong type, a null in a key or an unknown schema"
        " version."
    ),
    cause="It was written by another program or version.",
    suggestion="Create it again: histoprep manifest ROOT",
    fix_safety=FixSafety.SAFE,
)
MANIFEST_STALE = Rule(
    *rule_ids.MANIFEST_STALE,
    Severity.ERROR,
    Scope.TILE,
    definition="Size or digest of a file differs from the manifest.",
    cause="The file changed after the manifest was created.",
    suggestion="Restore the file, or create the manifest again: histoprep manifest ROOT",
)
DANGLING_PATH = Rule(
    *rule_ids.DANGLING_PATH,
    Severity.ERROR,
    Scope.TILE,
    definition="A path in the manifest does not exist.",
    cause="Files were moved or deleted after the manifest was created.",
    suggestion="Restore the files, or create the manifest again: histoprep manifest ROOT",
)
LATENT_MISMATCH = Rule(
    *rule_ids.LATENT_MISMATCH,
    Severity.ERROR,
    Scope.TILE,
    definition=(
        "A latent set does not belong to the manifest or the codec: files, masks, training split"
        " or label map differ."
    ),
    cause="Tiles, label map or split changed after trainer encode.",
    suggestion=(
        "Run the command again that encoded them; if only the split changed, it measures the"
        " scaling again and keeps the latents. Its options: trainer encode --help"
    ),
    fix_safety=FixSafety.SAFE,
)


_OF_THE_MANIFEST = (
    MANIFEST_SCHEMA,
    MANIFEST_STALE,
    DANGLING_PATH,
    TILE_IN_BOTH_SPLITS,
    GROUP_IN_BOTH_SPLITS,
    DUPLICATE_ACROSS_SPLITS,
    POOL_OVERLAP,
)


def manifest_findings(problems: Iterable[Problem]) -> list[Finding]:
    """Return the findings of what `validate_manifest` found."""
    return [problem.finding(_OF_THE_MANIFEST) for problem in problems]


@table_rule(*_OF_THE_MANIFEST)
def faulty_manifest(evidence: Evidence) -> Iterator[Finding]:
    """Yield what is wrong with the manifest, if there is one; see `histoprep manifest check`."""
    if evidence.manifest is not None:
        from histoprep.manifest.check import validate_manifest

        own = str(evidence.manifest)
        for found in manifest_findings(validate_manifest(evidence.manifest, evidence.root)):
            # The manifest's own path comes from the system, all others from tables.
            yield replace(
                found,
                where="the manifest",
                paths=tuple(to_text(path) if path == own else path for path in found.paths),
            )


@table_rule(LATENT_MISMATCH)
def latent_sets(evidence: Evidence) -> Iterator[Finding]:
    """Yield which latent sets beside the manifest were made from other tiles."""
    if evidence.manifest is not None:
        from histoprep.manifest.latent_sets import check_latent_sets
        from histoprep.schemas.manifest import open_manifest

        with contextlib.suppress(IntegrityError):  # HP901 says so.
            manifest = open_manifest(evidence.manifest)
            for problem in check_latent_sets(manifest, evidence.manifest.parent):
                yield problem.finding([LATENT_MISMATCH])
