"""Which number a class has in an exported folder, and which class is the background."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from histoprep.errors import UsageError
from histoprep.importing.legend import is_background
from histoprep.labels import IGNORED_ID, LabelMap, TargetClass
from histoprep.labels.lookup import says_unknown
from histoprep.phrases import first_of

BACKGROUND = 0
NO_BACKGROUND = "none"
_NUM_BYTES = 256


@dataclass(frozen=True, slots=True)
class Numbers:
    """The number of each class in an exported folder.

    Attributes:
        classes: Number and class of all classes but the background, by number.
        background: The class whose number is 0; None where every class is annotated and 0 stands
            for no class.
        ignored: Number of pixels without a class, above those of all classes.
    """

    classes: tuple[tuple[int, TargetClass], ...]
    background: TargetClass | None
    ignored: int

    def apply(self, classes: np.ndarray) -> np.ndarray:
        """Return the numbers, uint8 or uint16, of class ids, uint8 [height, width]."""
        kind = np.uint8 if self.ignored < _NUM_BYTES else np.uint16
        table = np.full(_NUM_BYTES, self.ignored, kind)
        for number, cls in self.classes:
            table[cls.id] = number
        if self.background is not None:
            table[self.background.id] = BACKGROUND
        numbers: np.ndarray = table[classes]
        return numbers


def background_of(label_map: LabelMap, requested: str | None = None) -> TargetClass | None:
    """Return the class that other programs take for the background.

    Args:
        label_map: The classes.
        requested: Name or number of a class, or `none`; without it, the first class whose name
            says that nothing is there or known, such as background or unknown.

    Raises:
        UsageError: There is no such class.
    """
    classes = label_map.classes
    if requested is None:
        return next((cls for cls in classes if is_background(cls.name)), None) or next(
            (cls for cls in classes if cls.id == 0 and says_unknown(cls.name)), None
        )
    if requested == NO_BACKGROUND:
        return None
    for cls in classes:
        if requested in (cls.name, str(cls.id)):
            return cls
    raise UsageError(
        "--background is no class of the label map",
        seen=requested,
        expected=f"{first_of([f'{cls.id} {cls.name}' for cls in classes])}; or {NO_BACKGROUND}",
    )


def number_classes(
    label_map: LabelMap, background: TargetClass | None, *, consecutive: bool
) -> Numbers:
    """Return the numbers of classes: their ids where the background is class 0 and gaps are
    allowed, else 1 to n in their order.

    Args:
        label_map: The classes.
        background: The one that gets 0, if any.
        consecutive: Whether numbers may have no gaps.
    """
    others = [cls for cls in label_map.classes if cls != background]
    keeps_ids = not consecutive and background is not None and background.id == BACKGROUND
    numbered = tuple(
        (cls.id if keeps_ids else place, cls) for place, cls in enumerate(others, start=1)
    )
    after = max((number for number, _ in numbered), default=BACKGROUND) + 1
    return Numbers(numbered, background, after if consecutive else max(after, IGNORED_ID))
