"""Tiles of a manifest or of shards -> the folders of other programs: COCO, YOLO, nnU-Net, FiftyOne.

`plan.py` says what is exported under which numbers, `task.py` writes a partition of the tiles,
`job.py` all of them and the summary files. A format is one module in `formats/`.
"""

from histoprep.exporting.job import run_export
from histoprep.exporting.plan import ExportOptions, ExportPlan, plan_export
from histoprep.exporting.result import ExportResult

__all__ = ["ExportOptions", "ExportPlan", "ExportResult", "plan_export", "run_export"]
