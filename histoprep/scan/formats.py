"""Formats of images, masks and annotations that are seen in data sets and not read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from histoprep.image_formats import Holds, format_of
from histoprep.scan.listing import Issue, IssueKind

_ARRAYS = "an array"
_SLIDE = "a whole slide"
_VOLUME = "a volume"
_ANNOTATION = "an annotation file"
_ARCHIVE = "an archive"
_IMAGE = "an image of a format that is not read"
# What is in a file of this extension. Those of formats that are read, also by a package of somebody
# else, do not count.
_FORMATS = {
    **dict.fromkeys(("npy", "npz", "mat", "h5", "hdf5", "zarr", "pkl", "pt", "tfrecord"), _ARRAYS),
    **dict.fromkeys(
        ("svs", "ndpi", "ndpis", "mrxs", "scn", "vsi", "bif", "czi", "isyntax", "lif"), _SLIDE
    ),
    **dict.fromkeys(("nii", "nii.gz", "mha", "mhd", "nrrd", "dcm"), _VOLUME),
    **dict.fromkeys(("json", "geojson", "xml", "ndjson", "jsonl"), _ANNOTATION),
    **dict.fromkeys(("zip", "tar", "tar.gz", "tgz", "7z", "rar"), _ARCHIVE),
    **dict.fromkeys(
        ("bmp", "gif", "jp2", "j2k", "jpx", "jxl", "avif", "heic", "ppm", "pgm", "exr", "dng"),
        _IMAGE,
    ),
}


def extension_unread(name: str) -> str | None:
    """Return the extension of a format that may hold data and is not read, None for any other; a
    file of masks alone is not read where it is no mask of an image.
    """
    lowered = name.lower()
    found = format_of(name)
    if found is not None and found.holds is not Holds.MASKS:
        return None
    double = ".".join(lowered.split(".")[-2:])
    single = lowered.rpartition(".")[2]
    return next((extension for extension in (double, single) if extension in _FORMATS), None)


def format_unread(name: str) -> str | None:
    """Return what a file of such a format holds, in words: "an array (.npy)"; None for others."""
    extension = extension_unread(name)
    return f"{_FORMATS[extension]} (.{extension})" if extension else None


def count_unread(issues: Iterable[Issue]) -> dict[str, int]:
    """Return how many files of each such extension a scan met, most first."""
    extensions = (
        extension_unread(issue.path.rpartition("/")[2])
        for issue in issues
        if issue.kind == IssueKind.UNREAD_FORMAT
    )
    return dict(Counter(extension for extension in extensions if extension).most_common())


def describe_unread(counts: Mapping[str, int]) -> str:
    """Return "8 .npy, 1 .json"."""
    return ", ".join(f"{number:,} .{extension}" for extension, number in counts.items())
