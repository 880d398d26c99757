"""Metadata that may identify a patient, a person or a device, taken out; no pixel changes
(HP207).
"""

from __future__ import annotations

from histoprep.fixing.operations.base import Context, FileFacts, NotDoneError, Select, TreeFile


class Metadata:
    """Takes metadata out of files: EXIF, GPS, XMP, IPTC, comments, text chunks, TIFF tags.

    Nothing is decoded. The colour profile stays, and so does the orientation, which says how the
    image is to be shown.
    """

    name = "metadata"
    does = "without metadata; pixels, colour profile and orientation are the same"
    codes = ("HP207",)
    is_default = True
    value = ""

    def prepare(self, context: Context, value: str) -> Select:
        """Return the function that chooses files with metadata that may identify somebody."""
        return _select

    def apply(self, content: TreeFile, ticket: object) -> TreeFile:
        """Return the file without its metadata."""
        from histoprep import imageio

        header = imageio.read_header(content.data, content.reading)
        if not header.metadata:
            return content
        data = imageio.strip_metadata(content.data, header.format)
        if header.orientation not in (None, 1):
            data = imageio.with_orientation(data, header.format, header.orientation or 1)
        left = imageio.read_header(data, content.reading).metadata
        if left:
            raise NotDoneError(f"{', '.join(left)} cannot be taken out of a {header.format} file")
        return content.with_data(data)


def _select(file: FileFacts) -> bool | None:
    return True if file.metadata and file.repaired is None else None
