"""HP9: the manifest in the workspace against itself and against the files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

from histoprep.checks import Evidence, table_rule
from histoprep.errors import IntegrityError
from histoprep.findings import Finding
from histoprep.names import to_text


@table_rule("HP901", "HP902", "HP903", "HP701", "HP702", "HP703", "HP704")
def manifest(evidence: Evidence) -> Iterator[Finding]:
    """Yield what is wrong with the manifest, if there is one; see `histoprep manifest check`."""
    if evidence.manifest is not None:
        from histoprep.manifest.check import validate_manifest

        own = str(evidence.manifest)
        for problem in validate_manifest(evidence.manifest, evidence.root):
            # The manifest's own path comes from the system, all others from tables.
            yield replace(
                problem,
                where="the manifest",
                paths=tuple(to_text(path) if path == own else path for path in problem.paths),
            )


@table_rule("HP907")
def latent_sets(evidence: Evidence) -> Iterator[Finding]:
    """Yield which latent sets beside the manifest were made from other tiles."""
    if evidence.manifest is not None:
        from histoprep.manifest.latent_sets import check_latent_sets
        from histoprep.schemas.manifest import open_manifest

        with contextlib.suppress(IntegrityError):  # HP901 says so.
            yield from check_latent_sets(open_manifest(evidence.manifest), evidence.manifest.parent)
