"""`repair`: a tree of repaired masks with a ledger; what is refused; resuming; and what remap makes
of it all.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import lossy_masks as made
import numpy as np
import pytest
from audit_cases import DataSet, image_bytes
from PIL import Image

from histoprep import tables
from histoprep.digests import digest
from histoprep.errors import IntegrityError, UsageError
from histoprep.execution import Engine
from histoprep.job_folder import SUCCESS
from histoprep.labels import LabelMap, SourceLabel, TargetClass
from histoprep.remapping import RemapOptions, plan_remap, run_remap
from histoprep.repairing import MIN_CONFIDENCE, RepairOptions, RepairResult, plan_repair, run_repair
from histoprep.repairing.contact_sheets import write_preview, write_sheets
from histoprep.repairing.sheet import SheetRow, busiest_window, draw_sheet
from histoprep.schemas.ledgers import LEDGER
from histoprep.schemas.ledgers import REPAIR as KIND
from histoprep.schemas.workspace import Workspace
from histoprep.tiles.lossy_sources import lossy_sources
from histoprep.tiles.table import ensure_tiles

NUM_MASKS = 31
FOLDERS = ("clean", "files", "jpeg60", "jpeg90", "mapped", "resized", "webp")


def fill(data: DataSet, folder: str) -> None:
    """Write masks without images: nothing here looks at images."""
    for index in range(NUM_MASKS if folder not in ("files", "webp") else 3):
        truth = made.regions(index)
        name = f"{folder}/{index:02}_mask"
        if folder == "files":
            data.write(
                f"{name}.jpg",
                image_bytes(
                    truth if index else np.repeat(truth[..., None], 3, axis=2),
                    "JPEG",
                    quality=85 + index,
                ),
            )
        elif folder == "webp":
            data.write(
                f"{name}.webp",
                image_bytes(np.repeat(truth[..., None], 3, axis=2), "WEBP", quality=80),
            )
        else:
            damaged = {
                "clean": lambda item: item,
                "jpeg60": lambda item: made.jpeg(item, 60),
                "jpeg90": lambda item: made.jpeg(item, 90),
                "mapped": lambda item: made.many_to_one(made.jpeg(item, 90)),
                "resized": made.bilinear,
            }[folder](truth)
            data.mask(f"{name}.png", damaged)


def scanned(root: Path, *folders: str) -> Workspace:
    data = DataSet(root)
    data.image("only.jpg")
    for folder in folders:
        fill(data, folder)
    workspace = Workspace.of(root)
    ensure_tiles(workspace, workers=1)
    return workspace


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return scanned(tmp_path_factory.mktemp("repair") / "set", *FOLDERS)


def repair_masks(workspace: Workspace, out: Path, **options: object) -> RepairResult:
    return run_repair(plan_repair(workspace, RepairOptions(out, **options)), Engine(1))  # type: ignore[arg-type]


def read_ledger(out: Path) -> list[dict[str, object]]:
    opened, _ = tables.open_table(
        out / LEDGER, kind=KIND.ledger, schema_version=KIND.schema_version
    )
    return [row for batch in tables.read_batches(opened) for row in batch.to_pylist()]


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (".lock", ".hp-states")
    }


def test_damaged_masks_are_repaired_and_the_ledger_tells_all(
    everything: Workspace, tmp_path: Path
) -> None:
    before = tree(everything.root)
    result = repair_masks(everything, tmp_path / "out")
    rows = {row["mask_path"]: row for row in read_ledger(result.out)}
    assert tree(everything.root) == before
    assert {path.split("/")[0] for path in rows} == {
        "files",
        "jpeg60",
        "jpeg90",
        "mapped",
        "resized",
        "webp",
    }
    # Of sources without a quality, masks that show nothing by themselves are not listed.
    assert result.num_repaired == 2 * NUM_MASKS + 3
    assert 2 * NUM_MASKS - 3 <= result.num_left <= 2 * NUM_MASKS + 3
    wrong: dict[str, list[float]] = {}
    for path, row in rows.items():
        folder, name = str(path).split("/")
        if row["status"] != "written":
            assert row["output_path"] is None
            continue
        truth = made.regions(int(name[:2]))
        labels = np.asarray(Image.open(result.out / str(row["output_path"])))
        damaged = np.asarray(Image.open(everything.root / str(path)).convert("L"))
        wrong.setdefault(folder, []).append(float(np.mean(labels != truth)))
        encoded = (result.out / str(row["output_path"])).read_bytes()
        assert (row["output_digest"], row["output_bytes"]) == (digest(encoded), len(encoded))
        assert row["source_digest"] == digest((everything.root / str(path)).read_bytes())
        assert row["changed_pixels"] == np.count_nonzero(labels != damaged)
        ids, pixels = np.unique(labels, return_counts=True)
        assert (row["label_ids"], row["label_pixels"]) == (ids.tolist(), pixels.tolist())
        assert set(row["removed_labels"]) == set(np.unique(damaged).tolist()) - set(
            row["label_ids"]
        )
        assert row["confidence"] >= MIN_CONFIDENCE
    assert all(np.mean(value) < 0.02 for value in wrong.values())
    assert np.mean(wrong["jpeg90"]) < 0.004
    causes = {
        str(path).split("/")[0]: (row["cause"], row["method"])
        for path, row in rows.items()
        if row["status"] == "written"
    }
    assert causes == {
        "files": ("jpeg-container", "snap-to-candidates"),
        "jpeg90": ("jpeg-history", "snap-to-candidates"),
        "resized": ("interpolated", "cut-ramps"),
    }
    # Each JPEG file by its own quality.
    assert [rows[f"files/{index:02}_mask.jpg"]["jpeg_quality"] for index in range(3)] == [
        85,
        86,
        87,
    ]
    reasons = {
        str(path).split("/")[0]: str(row["reason"])
        for path, row in rows.items()
        if row["status"] != "written"
    }
    assert reasons["jpeg60"].startswith("HP403 below-75: JPEG quality 60")
    assert reasons["mapped"].startswith("HP403 unknown-quality")
    assert reasons["webp"].startswith("HP403 webp-container")


def test_rules_choose_what_is_repaired(everything: Workspace, tmp_path: Path) -> None:
    result = repair_masks(everything, tmp_path / "out", rules=("HP404",))
    assert (result.num_repaired, result.num_left) == (NUM_MASKS, 0)
    with pytest.raises(UsageError, match="no such rule"):
        plan_repair(everything, RepairOptions(tmp_path / "out", rules=("HP405",)))
    with pytest.raises(UsageError, match="share"):
        plan_repair(everything, RepairOptions(tmp_path / "out", min_confidence=1.5))


@pytest.mark.slow
def test_confidence_can_be_asked_for(tmp_path: Path) -> None:
    workspace = scanned(tmp_path / "set", "jpeg90")
    everything = repair_masks(workspace, tmp_path / "a", min_confidence=0.0)
    values = sorted(row["confidence"] for row in read_ledger(everything.out))
    assert everything.num_repaired == NUM_MASKS
    limit = float(values[NUM_MASKS // 2 - 1] + values[NUM_MASKS // 2]) / 2 + 1e-4
    strict = repair_masks(workspace, tmp_path / "b", min_confidence=limit)
    rows = read_ledger(strict.out)
    assert strict.num_repaired == sum(value >= limit for value in values)
    refused = [row for row in rows if row["status"] == "refused"]
    assert len(refused) == strict.num_left > 0
    assert all("low-confidence" in row["reason"] for row in refused)
    # What was refused would be refused again: the tree is done.
    assert repair_masks(workspace, tmp_path / "b", min_confidence=limit).up_to_date


@pytest.mark.slow
def test_a_second_run_does_nothing_and_other_options_need_force(
    everything: Workspace, tmp_path: Path
) -> None:
    first = repair_masks(everything, tmp_path / "out")
    made_first = tree(first.out)
    again = repair_masks(everything, tmp_path / "out")
    assert again.up_to_date
    assert replace(again, up_to_date=False) == first
    assert tree(first.out) == made_first
    with pytest.raises(UsageError, match="made with other settings: --min-confidence"):
        repair_masks(everything, tmp_path / "out", min_confidence=0.5)
    other = repair_masks(
        everything, tmp_path / "out", min_confidence=0.5, rules=("HP404",), force=True
    )
    assert not any(name.startswith("jpeg90") for name in tree(other.out))
    assert other.num_stale_removed == NUM_MASKS + 3


@pytest.mark.slow
def test_bytes_do_not_depend_on_partitions_or_an_interruption(
    everything: Workspace, tmp_path: Path
) -> None:
    whole = tree(repair_masks(everything, tmp_path / "whole").out)
    assert tree(repair_masks(everything, tmp_path / "parts", partition_masks=7).out) == whole
    plan = plan_repair(everything, RepairOptions(tmp_path / "stopped", partition_masks=10))

    def stop(done: int, total: int) -> None:
        assert total == plan.num_masks
        if done >= 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_repair(plan, Engine(1), stop)
    assert not (plan.out / SUCCESS).exists()
    written = {path: path.stat().st_ino for path in plan.out.rglob("*_mask.png")}
    assert written
    run_repair(plan, Engine(1))
    assert tree(plan.out) == whole
    # Masks of finished parts were not written again.
    assert sum(path.stat().st_ino == inode for path, inode in written.items()) >= len(written) - 10


def test_a_mask_that_changed_is_not_repaired(tmp_path: Path) -> None:
    workspace = scanned(tmp_path / "set", "jpeg90")
    plan = plan_repair(workspace, RepairOptions(tmp_path / "out"))
    path = workspace.root / "jpeg90" / "03_mask.png"
    path.write_bytes(path.read_bytes() + b"\0")
    result = run_repair(plan, Engine(1))
    assert [item.path for item in result.failed] == ["jpeg90/03_mask.png"]
    assert "HP206" in result.failed[0].reason


def test_the_new_tree_must_not_touch_the_data(everything: Workspace) -> None:
    with pytest.raises(UsageError, match="must not mix"):
        plan_repair(everything, RepairOptions(everything.root / "repaired"))


def test_nothing_is_repaired_in_a_clean_set(tmp_path: Path) -> None:
    assert (
        plan_repair(scanned(tmp_path / "set", "clean"), RepairOptions(tmp_path / "out")).masks == ()
    )


def class_map() -> LabelMap:
    sources = tuple(SourceLabel(value, f"label {value}") for value in range(256))
    classes = tuple(TargetClass(value, f"class {value}", "#123456") for value in range(5))
    return LabelMap("five", sources, classes, {value: value % 5 for value in range(256)})


@pytest.mark.slow
def test_remap_refuses_damaged_masks_until_they_are_repaired(tmp_path: Path) -> None:
    workspace = scanned(tmp_path / "set", "clean", "jpeg90")
    with pytest.raises(UsageError, match="31 masks went through JPEG") as refused:
        plan_remap(workspace, class_map(), RemapOptions(tmp_path / "new"))
    assert "jpeg90 (HP403 jpeg-history, JPEG quality 90)" in str(refused.value)
    assert "histoprep repair" in str(refused.value.hint)
    forced = run_remap(
        plan_remap(workspace, class_map(), RemapOptions(tmp_path / "forced", force=True)), Engine(1)
    )
    assert forced.num_written == 2 * NUM_MASKS

    repaired = repair_masks(workspace, tmp_path / "repaired")
    result = run_remap(
        plan_remap(workspace, class_map(), RemapOptions(tmp_path / "new")), Engine(1)
    )
    assert result.num_written == 2 * NUM_MASKS
    total = np.zeros(5, np.int64)
    for index in range(NUM_MASKS):
        for folder, source in (("clean", workspace.root), ("jpeg90", repaired.out)):
            labels = np.asarray(Image.open(source / folder / f"{index:02}_mask.png"))
            classes = np.asarray(Image.open(result.out / folder / f"{index:02}_mask.png"))
            assert (classes == labels % 5).all()
            total += np.bincount(classes.ravel(), minlength=5)
    assert list(result.class_pixels) == total.tolist()
    assert run_remap(
        plan_remap(workspace, class_map(), RemapOptions(tmp_path / "new")), Engine(1)
    ).up_to_date


@pytest.mark.slow
def test_a_mask_is_repaired_by_its_own_quality_where_it_shows_one(tmp_path: Path) -> None:
    data = DataSet(tmp_path / "set")
    data.image("only.jpg")
    qualities = [90] * NUM_MASKS + [60] * 4 + [80] * 4
    for index, quality in enumerate(qualities):
        data.mask(f"{index:02}_mask.png", made.jpeg(made.regions(index % NUM_MASKS), quality))
    workspace = Workspace.of(data.root)
    ensure_tiles(workspace, workers=1)
    (source,) = lossy_sources(workspace.tiles)
    assert source.verdict.quality == 90
    result = repair_masks(workspace, tmp_path / "repaired")
    assert [item.path for item in result.failed] == [
        f"{index:02}_mask.png" for index, quality in enumerate(qualities) if quality == 60
    ]
    assert all("JPEG quality 60" in item.reason for item in result.failed)
    assert [row["jpeg_quality"] for row in read_ledger(result.out)] == [
        None if quality == 60 else quality for quality in qualities
    ]


@pytest.mark.slow
def test_remap_refuses_what_repair_had_to_refuse(tmp_path: Path) -> None:
    workspace = scanned(tmp_path / "set", "clean", "jpeg60", "jpeg90")
    repair_masks(workspace, tmp_path / "repaired")
    with pytest.raises(UsageError, match="31 masks went through JPEG") as refused:
        plan_remap(workspace, class_map(), RemapOptions(tmp_path / "new"))
    assert "jpeg60" in str(refused.value)
    assert "jpeg90" not in str(refused.value)
    assert (
        plan_remap(workspace, class_map(), RemapOptions(tmp_path / "new", force=True)).num_masks
        == 3 * NUM_MASKS
    )


@pytest.mark.slow
def test_remap_takes_no_repaired_mask_of_another_damaged_one(tmp_path: Path) -> None:
    workspace = scanned(tmp_path / "set", "jpeg90")
    repair_masks(workspace, tmp_path / "repaired")
    path = workspace.root / "jpeg90" / "05_mask.png"
    DataSet(workspace.root).mask("jpeg90/05_mask.png", made.jpeg(made.regions(50), 90))
    ensure_tiles(workspace, workers=1)
    with pytest.raises(UsageError, match=r"^1 mask went through JPEG"):
        plan_remap(workspace, class_map(), RemapOptions(tmp_path / "n"))
    rows = {
        row.path: row
        for task in plan_remap(
            workspace, class_map(), RemapOptions(tmp_path / "n", force=True)
        ).tasks()
        for row in task.rows
    }
    assert rows["jpeg90/05_mask.png"].repaired is None
    assert rows["jpeg90/05_mask.png"].digest == digest(path.read_bytes())
    assert (
        workspace.root / str(rows["jpeg90/06_mask.png"].repaired)
    ).resolve() == tmp_path / "repaired" / "jpeg90" / "06_mask.png"


@pytest.mark.slow
def test_repaired_masks_that_are_gone_stop_remap(tmp_path: Path) -> None:
    workspace = scanned(tmp_path / "set", "jpeg90")
    out = repair_masks(workspace, tmp_path / "repaired").out
    (out / "jpeg90" / "07_mask.png").unlink()
    with pytest.raises(IntegrityError, match="is missing, or was changed"):
        plan_remap(workspace, class_map(), RemapOptions(tmp_path / "new"))
    (out / SUCCESS).unlink()
    with pytest.raises(IntegrityError, match="is missing, or was changed"):
        plan_remap(workspace, class_map(), RemapOptions(tmp_path / "new"))
    note = workspace.folder / "repaired.json"
    note.write_text("{")
    with pytest.raises(IntegrityError, match="changed since it was written"):
        plan_remap(workspace, class_map(), RemapOptions(tmp_path / "new"))
    note.unlink()
    with pytest.raises(UsageError, match="went through JPEG"):
        plan_remap(workspace, class_map(), RemapOptions(tmp_path / "new"))


@pytest.mark.slow
def test_a_repair_of_an_earlier_version_is_an_error_until_it_is_made_again(tmp_path: Path) -> None:
    """Its note had the name of another file, and its table another form."""
    workspace = scanned(tmp_path / "set", "jpeg90")
    earlier = {name: workspace.folder / name for name in ("repair.json", "mended.parquet")}
    earlier["repair.json"].write_text(json.dumps({"out": "x", "ledger_digest": "0" * 32}))
    earlier["mended.parquet"].write_bytes(b"PAR1")
    with pytest.raises(IntegrityError, match="by an earlier version") as caught:
        plan_remap(workspace, class_map(), RemapOptions(tmp_path / "new"))
    assert caught.value.path == str(earlier["repair.json"])
    assert "histoprep repair" in str(caught.value.hint)
    repair_masks(workspace, tmp_path / "repaired")
    assert not any(path.exists() for path in earlier.values())
    plan_remap(workspace, class_map(), RemapOptions(tmp_path / "new"))


@pytest.mark.slow
def test_sheets_show_the_masks_that_changed_most(tmp_path: Path) -> None:
    workspace = scanned(tmp_path / "set", "jpeg90")
    plan = plan_repair(workspace, RepairOptions(tmp_path / "out"))
    (preview,) = write_preview(plan)
    assert preview.parent == workspace.folder
    assert not plan.out.exists()
    run_repair(plan, Engine(1))
    (item,) = write_sheets(plan)
    pages = write_sheets(plan, every_mask=True)
    assert [path.name for path in pages] == [
        "most-changed.png",
        *(f"page-{number:04d}.png" for number in range(1, 7)),
    ]
    assert pages[0].read_bytes() == write_sheets(plan)[0].read_bytes()
    with Image.open(item) as image:
        assert image.width > 1000
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}
        assert image.text.keys() <= {"Software"}
    # The damage and the change are there to see.
    assert {(255, 0, 200), (214, 0, 47)} <= colours
    # They are not foreign to the tree.
    assert run_repair(plan, Engine(1)).unexpected == ()
    assert json.loads((plan.out / "repair.json").read_text())["rules"] == ["HP403", "HP404"]


def test_a_sheet_keeps_the_colours_of_a_label_map() -> None:
    truth = np.zeros((90, 90), np.uint8)
    truth[:, 45:] = 7
    damaged = truth.copy()
    damaged[:, 44] = 3
    image = Image.open(
        made.stream(
            draw_sheet([SheetRow("a", "b", damaged, truth)], "t", {0: "#0a0b0c", 7: "#c80a14"})
        )
    ).convert("RGB")
    colours = {colour for _, colour in image.getcolors(1 << 24)}
    assert {(10, 11, 12), (200, 10, 20), (255, 0, 200)} <= colours


def test_the_busiest_window_holds_most_changes() -> None:
    changed = np.zeros((100, 80), bool)
    changed[70:75, 60:66] = True
    changed[3, 3] = True
    rows, columns = busiest_window(changed, 20)
    assert changed[rows, columns].sum() == 30
    assert (rows.stop - rows.start, columns.stop - columns.start) == (20, 20)
    rows, columns = busiest_window(changed, 200)
    assert (rows, columns) == (slice(0, 100), slice(0, 80))
