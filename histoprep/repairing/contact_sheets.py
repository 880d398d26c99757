"""Which masks go on the contact sheets of a repair, and the sheets as files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from histoprep import checksums, durable, mask_tree, tables
from histoprep.errors import BrokenFileError, LabelMapError
from histoprep.labels import default_map, load_label_map
from histoprep.mask_tree.task import beside
from histoprep.names import to_text
from histoprep.remote import file_bytes
from histoprep.repairing import RepairPlan
from histoprep.repairing.repairer import DamagedMask
from histoprep.repairing.sheet import ROWS_A_SHEET, SheetRow, draw_sheet
from histoprep.schemas.ledgers import LEDGER, SHEETS, open_ledger
from histoprep.schemas.ledgers import REPAIR as KIND

PREVIEW = "repair-preview.png"
MOST_CHANGED = "most-changed.png"


def write_sheets(plan: RepairPlan, *, every_mask: bool = False) -> list[Path]:
    """Write the contact sheet of the masks that changed most, or of every repaired mask, beside the
    repaired masks; return their paths.
    """
    with mask_tree.locked(plan):
        # What a killed run left.
        durable.remove_temporaries(plan.out / SHEETS)
        return _write_sheets(plan, every_mask=every_mask)


def _write_sheets(plan: RepairPlan, *, every_mask: bool) -> list[Path]:
    opened = open_ledger(plan.out / LEDGER, KIND.ledger, KIND)
    changed = [
        row
        for batch in tables.read_batches(opened, ["mask_path", "changed_pixels"])
        for row in batch.to_pylist()
    ]
    repaired = {
        row["mask_path"]: row["changed_pixels"]
        for row in changed
        if row["changed_pixels"] is not None
    }
    masks = [mask for mask in plan.masks if mask.path in repaired]
    most = sorted(masks, key=lambda mask: -repaired[mask.path])[:ROWS_A_SHEET]
    colours = class_colours(plan.workspace.root)
    paths = []
    for number, chosen in enumerate([most, *(_pages(masks) if every_mask else ())]):
        name = f"page-{number:04d}.png" if number else MOST_CHANGED
        title = f"Repaired masks, page {number}" if number else "Repaired masks that changed most"
        paths += _write(plan.out, f"{SHEETS}/{name}", plan, chosen, title, colours)
    return paths


def write_preview(plan: RepairPlan) -> list[Path]:
    """Write a contact sheet of some damaged masks to the workspace, repairing them on the way;
    return its path, or nothing.
    """
    masks = [mask for mask in plan.masks if mask.failure is None]
    step = max(1, -(-len(masks) // ROWS_A_SHEET))
    chosen = masks[::step]
    return _write(
        plan.workspace.folder,
        PREVIEW,
        plan,
        chosen,
        "What repair would do",
        class_colours(plan.workspace.root),
    )


def class_colours(root: Path) -> Mapping[int, str]:
    """Return the colour of each source label by the data set's label map; nothing where there is
    not exactly one.
    """
    path = default_map(root)
    if path is None:
        return {}
    try:
        label_map = load_label_map(path)
    except LabelMapError:
        return {}
    colours = {cls.id: cls.colour for cls in label_map.classes}
    # Two labels of one class would look alike.
    first: dict[int, int] = {}
    for label, class_id in sorted(label_map.mapping.items()):
        first.setdefault(class_id, label)
    return {label: colours[class_id] for class_id, label in first.items()}


def _pages(masks: list[DamagedMask]) -> Iterator[list[DamagedMask]]:
    for start in range(0, len(masks), ROWS_A_SHEET):
        yield masks[start : start + ROWS_A_SHEET]


def _write(
    home: Path,
    name: str,
    plan: RepairPlan,
    masks: Iterable[DamagedMask],
    title: str,
    colours: Mapping[int, str],
) -> list[Path]:
    rows = list(_rows(plan, masks))
    if not rows:
        return []
    with durable.locked(home):
        checksums.publish_file(
            home, name, draw_sheet(rows, f"{title} | {to_text(plan.workspace.root.name)}", colours)
        )
    return [home / name]


def _rows(plan: RepairPlan, masks: Iterable[DamagedMask]) -> Iterator[SheetRow]:
    for mask in masks:
        try:
            data = file_bytes(beside(plan.workspace.root, mask.path))
            before, after, confidence = plan.maker.repair(data, mask)
        except (BrokenFileError, OSError):
            # The ledger says why.
            continue
        changed = np.count_nonzero(before != after)
        gone = np.setdiff1d(before, after)
        cause = f"JPEG quality {mask.quality}" if mask.quality else "interpolated"
        cause += ", unclear" if mask.is_unclear else ""
        labels_lost = ", ".join(map(str, gone[:8].tolist())) + (
            " and more" if len(gone) > 8 else ""
        )
        labels = f"labels {labels_lost} taken away" if len(gone) else "no label taken away"
        note = (
            f"{cause} | {changed:,} of {before.size:,} pixels changed ({changed / before.size:.1%})"
            f" | {labels} | confidence {confidence:.2f}"
        )
        yield SheetRow(mask.path, note, before, after)
