"""Extensions by content: a JPEG called .png becomes one called .jpg (HP203)."""

from __future__ import annotations

from histoprep import image_formats
from histoprep.fixing.operations.base import Context, FileFacts, Select, TreeFile


class Extension:
    """Gives files the extension of their format."""

    name = "extension"
    does = "renamed to the extension of their format"
    codes = ("HP203",)
    is_default = True
    value = ""

    def prepare(self, context: Context, value: str) -> Select:
        """Return the function that chooses files whose first bytes contradict their name."""
        return _select

    def apply(self, content: TreeFile, ticket: object) -> TreeFile:
        """Return the file with the usual suffix of its format."""
        kind = image_formats.sniff(content.data)
        if kind is None or content.suffix[1:].lower() in kind.suffixes:
            return content
        return content.with_data(content.data, f".{kind.suffixes[0]}")


def _select(file: FileFacts) -> bool | None:
    if file.format is None or file.repaired is not None:
        return None
    suffix = file.path.rpartition(".")[2].lower()
    return None if suffix in image_formats.format_called(file.format).suffixes else True
