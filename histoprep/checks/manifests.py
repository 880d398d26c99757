"""HP9: the manifest in the workspace against itself and against the files."""

from __future__ import annotations

from collections.abc import Iterator

from histoprep.checks import Evidence, table_rule
from histoprep.findings import Finding


@table_rule("HP901", "HP902", "HP903", "HP701", "HP702", "HP703", "HP704")
def manifest(evidence: Evidence) -> Iterator[Finding]:
    """Yield what is wrong with the manifest, if there is one; see `histoprep manifest check`."""
    if evidence.manifest is not None:
        from histoprep.manifest_check import validate_manifest

        yield from validate_manifest(evidence.manifest, evidence.root)
