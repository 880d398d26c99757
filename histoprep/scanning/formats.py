"""Formats of images, masks and annotations that are seen in data sets and not read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from histoprep.image_formats import Holds, format_of
from histoprep.scanning.listing import Issue, IssueKind

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


# What describes a data set and annotates nothing.
_NOTES = ("dataset.json", "meta.json", "dataset_info.json", "package.json")
# In a folder of masks these are annotations; elsewhere they are notes.
_BESIDE_MASKS = ("txt", "csv")


def extension_of(name: str) -> str:
    """Return the extension by which a file is counted, in lower case: `nii.gz` and `mat`."""
    double = ".".join(name.lower().split(".")[-2:])
    return double if double in _FORMATS else name.lower().rpartition(".")[2]


def format_unread(name: str, *, of_masks: bool = False) -> str | None:
    """Return what a file holds whose format may hold data and is not read, in words: "an array
    (.npy)"; None for others.

    Args:
        name: Name of the file.
        of_masks: Whether it lies where masks should.
    """
    found = format_of(name)
    # A file of masks alone is not read where it is no mask of an image.
    is_read = found is not None and found.holds is not Holds.MASKS
    if is_read or name.lower() in _NOTES:
        return None
    extension = extension_of(name)
    what = _FORMATS.get(extension)
    if what is None and of_masks and extension in _BESIDE_MASKS:
        what = _ANNOTATION
    return what and f"{what} (.{extension})"


def count_unread(issues: Iterable[Issue]) -> dict[str, int]:
    """Return how many files of each such extension a scan met, most first."""
    extensions = (
        extension_of(issue.path.rpartition("/")[2])
        for issue in issues
        if issue.kind == IssueKind.UNREAD_FORMAT
    )
    return dict(Counter(extensions).most_common())


def describe_unread(counts: Mapping[str, int]) -> str:
    """Return "8 .npy, 1 .json"."""
    return ", ".join(f"{number:,} .{extension}" for extension, number in counts.items())
