"""HistoPrep: from a folder of histology tiles and masks to a data set one can trust.

    import histoprep

    report = histoprep.audit("folder", label_map="label_map_5")
    for finding in report.findings:
        print(finding.severity, finding.code, finding.count, finding.paths[:3])

The names below are the public interface; each is imported when it is first used, so that `import
histoprep` is cheap:

- `scan`, `audit`, `repair`, `remap`, `stats`, `build_manifest`, `write_shards`, `open_tiles`: the
  commands as functions; their results show themselves in notebooks and have `to_pandas()`;
- `AuditOptions`, `ManifestOptions`, `Selection`, `Severity`, `Finding`, `Report`: what these take
  and give;
- `ScanOptions`, `TableOptions`, `Workspace`, `ensure_tiles`: what is read, and where results are
  kept;
- `LabelMap`, `load_label_map`, `find_label_map`: what masks' values stand for;
- `compute_stats`, `open_manifest`: class shares, and the manifest of a workspace;
- `HistoprepError`: the base of every error that is raised on purpose.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from histoprep.version import __version__

if TYPE_CHECKING:
    from histoprep.auditing import AuditOptions, audit
    from histoprep.choices import Severity
    from histoprep.counting import compute_stats
    from histoprep.errors import HistoprepError
    from histoprep.findings import Finding, Selection
    from histoprep.functions import build_manifest, remap, repair, scan, stats
    from histoprep.labels import LabelMap, find_label_map, load_label_map
    from histoprep.manifest.build import ManifestOptions
    from histoprep.report import Report
    from histoprep.scanning import ScanOptions
    from histoprep.schemas.manifest import open_manifest
    from histoprep.schemas.workspace import Workspace
    from histoprep.shards import open_tiles
    from histoprep.shards.write import write_shards
    from histoprep.tiles.options import TableOptions
    from histoprep.tiles.table import ensure_tiles

__all__ = [
    "AuditOptions",
    "Finding",
    "HistoprepError",
    "LabelMap",
    "ManifestOptions",
    "Report",
    "ScanOptions",
    "Selection",
    "Severity",
    "TableOptions",
    "Workspace",
    "__version__",
    "audit",
    "build_manifest",
    "compute_stats",
    "ensure_tiles",
    "find_label_map",
    "load_label_map",
    "open_manifest",
    "open_tiles",
    "remap",
    "repair",
    "scan",
    "stats",
    "write_shards",
]

_HOMES = {
    "AuditOptions": "auditing",
    "Finding": "findings",
    "HistoprepError": "errors",
    "LabelMap": "labels",
    "ManifestOptions": "manifest.build",
    "Report": "report",
    "ScanOptions": "scanning",
    "Selection": "findings",
    "Severity": "choices",
    "TableOptions": "tiles.options",
    "Workspace": "schemas.workspace",
    "audit": "auditing",
    "build_manifest": "functions",
    "compute_stats": "counting",
    "ensure_tiles": "tiles.table",
    "find_label_map": "labels",
    "load_label_map": "labels",
    "open_manifest": "schemas.manifest",
    "open_tiles": "shards",
    "remap": "functions",
    "repair": "functions",
    "scan": "functions",
    "stats": "functions",
    "write_shards": "shards.write",
}


def __getattr__(name: str) -> Any:
    """Return a public name, imported now."""
    if name in _HOMES:
        return getattr(import_module(f"histoprep.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'histoprep' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__
