"""The formats that can be exported, one module each."""

from __future__ import annotations

from histoprep.exporting.formats.coco import Coco
from histoprep.exporting.formats.fiftyone import FiftyOne
from histoprep.exporting.formats.nnunet import NnUNet
from histoprep.exporting.formats.yolo_seg import YoloSeg
from histoprep.exporting.model import Format

FORMATS: dict[str, Format] = {form.name: form for form in (Coco(), YoloSeg(), NnUNet(), FiftyOne())}
"""The formats by name, as the command has it."""
