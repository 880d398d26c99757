"""Annotation files of other programs, stacks of arrays and mask files of several kinds -> a plain
tree of images and masks.

`formats/` has a module for each format, which reads a source into a `Collection` (`model.py`): the
labels, and the images with their annotations. `canvas.py` and `outlines.py` draw annotations,
`legend.py` makes the label map, `images.py` finds the images, `plan.py` decides, and `job.py` and
`output.py` write the tree.
"""

from histoprep.importing.job import run_import
from histoprep.importing.model import Collection
from histoprep.importing.plan import ImportOptions, ImportPlan, plan_import
from histoprep.importing.result import ImportResult

__all__ = [
    "Collection", "ImportOptions", "ImportPlan", "ImportResult", "plan_import", "run_import",
]  # fmt: skip
