"""The words that options of the command line, of Python functions and of files can take; each list
is here once.

What such a word does stands where it is used. Here nothing else is imported, so that help pages and
completion need nothing more.
"""

from __future__ import annotations

from enum import StrEnum


class Layout(StrEnum):
    """How images and masks lie beside each other."""

    AUTO = "auto"
    SIBLING = "sibling"
    FOLDERS = "folders"
    CLASS_FOLDERS = "class-folders"


class PaletteReading(StrEnum):
    """What the label of a mask with a colour table is: the index, the grey value of its entry, or
    the colour of its entry as 0xRRGGBB.
    """

    INDEX = "index"
    GREY = "grey"
    COLOUR = "colour"


class RgbReading(StrEnum):
    """What the label of an RGB mask with equal channels is: their value, or the colour as
    0xRRGGBB.
    """

    GREY = "grey"
    COLOUR = "colour"


class MinIsWhiteReading(StrEnum):
    """What the label of a TIFF whose value 0 is white is."""

    STORED = "stored"
    INVERTED = "inverted"


class DepthReading(StrEnum):
    """What the label of a grey mask with fewer bits than others is: the stored value, or that value
    scaled to 8 or 16 bits.
    """

    STORED = "stored"
    TO_8 = "8"
    TO_16 = "16"


class LinkKind(StrEnum):
    """How a file that does not change comes into a new tree."""

    HARD = "hard"
    SYMBOLIC = "symbolic"
    COPY = "copy"


class Severity(StrEnum):
    """How bad a finding is; `rank` orders them."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"

    @property
    def rank(self) -> int:
        """Return 0 for info, 1 for warning, 2 for error."""
        return list(Severity).index(self)


class FailOn(StrEnum):
    """The least severity that makes an audit fail."""

    ERROR = Severity.ERROR.value
    WARNING = Severity.WARNING.value
    INFO = Severity.INFO.value
    NEVER = "never"

    @property
    def severity(self) -> Severity | None:
        """Return it as a severity; None for never."""
        return None if self is FailOn.NEVER else Severity(self.value)


class MapFailOn(StrEnum):
    """The least severity of a problem that makes the check of a label map fail."""

    ERROR = Severity.ERROR.value
    WARNING = Severity.WARNING.value


class ReportFormat(StrEnum):
    """In what form an audit is reported."""

    TEXT = "text"
    JSON = "json"
    SARIF = "sarif"
    JUNIT = "junit"
    GITHUB = "github"
    MARKDOWN = "markdown"
    HTML = "html"


class MapFormat(StrEnum):
    """In what form a label map is printed."""

    TEXT = "text"
    JSON = "json"


class StatsFormat(StrEnum):
    """In what form statistics are printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


class Dimension(StrEnum):
    """What class shares are broken down by."""

    SPLIT = "split"
    POOL = "pool"
    GROUP = "group"


class SplitMethod(StrEnum):
    """How tiles are assigned to splits."""

    AUTO = "auto"
    HASH = "hash"
    FILE = "file"


class OnUnmapped(StrEnum):
    """What becomes of values that the label map does not list."""

    ERROR = "error"
    UNKNOWN = "unknown"


class EngineName(StrEnum):
    """Where the work is done."""

    LOCAL = "local"
    DASK = "dask"


class DrawingOrder(StrEnum):
    """In which order an import puts annotations over each other; the last one lies on top."""

    FILE = "file"
    REVERSED = "reversed"
    AREA = "area"
    LABEL = "label"


class CombineBy(StrEnum):
    """What each of several mask files of an image is for."""

    CLASS = "class"
    INSTANCE = "instance"


class TypesAre(StrEnum):
    """What the entries of types.npy are."""

    LABEL = "label"
    GROUP = "group"


class BackgroundChannel(StrEnum):
    """Which channel of a stack of masks is the background."""

    LAST = "last"
    NONE = "none"


class MaskSide(StrEnum):
    """On which side of a file the mask is."""

    LEFT = "left"
    RIGHT = "right"


class PixelRule(StrEnum):
    """Which point of a pixel has to lie in an outline."""

    CENTRE = "centre"
    CORNER = "corner"
