"""Where the results of a data set live: beside it, never inside it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from histoprep.errors import UsageError
from histoprep.image_formats import is_image
from histoprep.remote import address_of, mirror

SUFFIX = ".histoprep"
MANIFEST_NAME = "manifest.parquet"
THUMBNAILS = "thumbnails"
"""Folder of thumbnails of the browser: a cache, which may be deleted at any time."""
REPAIRED_TABLE, REPAIRED_NOTE = "repaired.parquet", "repaired.json"


def check_outside(
    target: Path,
    data: Path | Iterable[Path],
    what: str,
    option: str = "--out",
    *,
    text: bool = False,
) -> None:
    """Refuse an output inside a folder of the data set, also through links.

    Every output of both programs goes through here: the next scan would take it for a tile, or
    report it as a file that does not belong.

    Args:
        target: Where the output is to go.
        data: Folders of the data set.
        what: What is to be written, for the message.
        option: The option that says where.
        text: Whether it is a report or table that may lie there, such as dataset.csv, unless its
            name is that of an image.

    Raises:
        UsageError: It lies inside.
    """
    if text and not is_image(target.name):
        return
    place = target.resolve()
    for folder in (data,) if isinstance(data, Path) else data:
        if place.is_relative_to(folder.resolve()):
            hint = f"name another {option}"
            raise UsageError(
                f"{what} must not mix with the data set",
                path=target.absolute(),
                seen=f"data in {folder}",
                hint=hint,
            )


@dataclass(frozen=True, slots=True)
class Workspace:
    """The data set `root` and the folder with everything made from it.

    Both are absolute. The commands find each other's results through these names.
    """

    root: Path
    folder: Path

    @classmethod
    def of(cls, root: Path, folder: Path | None = None) -> Workspace:
        """Return the workspace of a data set.

        Args:
            root: Folder of the data set, or the address of one in an object store, which is listed.
            folder: Folder of the results; None for `<root>.histoprep` beside it, or in the current
                folder for an address.

        Raises:
            UsageError: The root is no folder, or the workspace lies inside it.
        """
        address = address_of(root)
        if address is not None:
            name = address.rpartition("/")[2] + SUFFIX
            place = folder.absolute() if folder else Path.cwd() / name
            return cls(mirror(address, place), place)
        if not root.is_dir():
            raise UsageError(
                "the data set root is not a folder",
                path=root,
                hint="name the folder that holds the tiles",
            )
        absolute = root.resolve()
        chosen = folder.absolute() if folder else absolute.with_name(absolute.name + SUFFIX)
        check_outside(chosen, absolute, "results", "--workspace")
        return cls(absolute, chosen)

    @property
    def tiles(self) -> Path:
        """Return the path of the tiles table."""
        return self.folder / "tiles.parquet"

    @property
    def scan_options(self) -> Path:
        """Return the path of the options with which the data set is scanned."""
        return self.folder / "scan-options.json"

    @property
    def repaired(self) -> Path:
        """Return the path of the table of repaired masks."""
        return self.folder / REPAIRED_TABLE

    @property
    def repaired_note(self) -> Path:
        """Return the path of the note that makes the table of repaired masks count."""
        return self.folder / REPAIRED_NOTE

    @property
    def listing_issues(self) -> Path:
        """Return the path of what the scan met besides pairs."""
        return self.folder / "listing-issues.parquet"

    @property
    def duplicates(self) -> Path:
        """Return the path of the compared pairs of like images."""
        return self.folder / "duplicates.parquet"

    @property
    def misfits(self) -> Path:
        """Return the path of the masks that do not belong where they are."""
        return self.folder / "misfits.parquet"

    @property
    def neighbours(self) -> Path:
        """Return the path of the pairs of tiles that touch or overlap."""
        return self.folder / "neighbours.parquet"

    @property
    def findings(self) -> Path:
        """Return the path of the findings table."""
        return self.folder / "findings.parquet"

    @property
    def review(self) -> Path:
        """Return the path of the findings of `trainer review`."""
        return self.folder / "review.parquet"

    @property
    def suggested_pairs(self) -> Path:
        """Return the path of the table of pairs that an audit suggests."""
        return self.folder / "suggested-pairs.csv"

    @property
    def summary(self) -> Path:
        """Return the path of the audit's summary."""
        return self.folder / "summary.json"

    @property
    def report(self) -> Path:
        """Return the path of the HTML report."""
        return self.folder / "report.html"

    @property
    def stats_table(self) -> Path:
        """Return the path of the class counts as Parquet."""
        return self.folder / "stats.parquet"

    @property
    def stats_json(self) -> Path:
        """Return the path of the class counts as JSON."""
        return self.folder / "stats.json"

    @property
    def stats_plot(self) -> Path:
        """Return the path of the class share plot."""
        return self.folder / "pixel_class_percentages.png"

    @property
    def manifest(self) -> Path:
        """Return the path of the manifest."""
        return self.folder / MANIFEST_NAME

    @property
    def parts(self) -> Path:
        """Return the folder of finished partitions."""
        return self.folder / "parts"

    def masks(self, map_name: str) -> Path:
        """Return the folder of the masks remapped by the label map of that name."""
        return self.folder / f"masks-{map_name}"
