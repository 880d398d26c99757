"""HP9: the shards beside the manifest in the workspace; `histoprep shard verify` reads every byte
of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from histoprep.checks import Evidence, table_rule
from histoprep.errors import IntegrityError
from histoprep.findings import Finding
from histoprep.names import to_text


@table_rule("HP904", "HP905")
def shards(evidence: Evidence) -> Iterator[Finding]:
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
    for problem in verify_shards(folder, compared, contents=False):
        # The folder's own path comes from the system, all others from tables.
        yield replace(problem, where="shards", paths=tuple(to_text(path) for path in problem.paths))
