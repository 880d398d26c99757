"""What repair wrote reaches every later stage: manifest, statistics, shards; and never a mask
that it was not made from.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import lossy_masks as made
import numpy as np
import pyarrow as pa
import pytest
from audit_cases import DataSet, Found, by_code, image_bytes, tissue
from PIL import Image
from tile_rows import tile_row, write_tiles

from histoprep import cli, tables
from histoprep.auditing import AuditOptions, run_audit
from histoprep.choices import Severity
from histoprep.counting import compute_stats, count_table
from histoprep.demo import make_demo
from histoprep.demo.layout import DERMIS, RECIPES
from histoprep.digests import digest
from histoprep.errors import ExitCode, IntegrityError
from histoprep.execution import Engine
from histoprep.findings import Finding
from histoprep.labels import LabelMap, SourceLabel, TargetClass, identity_map
from histoprep.manifest.build import ManifestOptions, ManifestSummary, build_manifest, raw_label_map
from histoprep.manifest.check import validate_manifest
from histoprep.repairing import RepairOptions, plan_repair, run_repair
from histoprep.schemas import repaired, tiles
from histoprep.schemas.manifest import Manifest, open_manifest
from histoprep.schemas.repaired import IS_REPAIRED, MASK_COLUMNS, open_repaired, open_rows
from histoprep.schemas.workspace import Workspace
from histoprep.shards import open_tiles
from histoprep.shards.verify import verify_shards
from histoprep.shards.write import write_shards
from histoprep.tiles.table import ensure_tiles

NUM_DAMAGED, NUM_CLEAN = 31, 4
SIDE_PX = 128
TRUTH = {f"slide/{index:02}": made.regions(index) for index in range(NUM_DAMAGED)} | {
    f"clean/{index:02}": made.regions(NUM_DAMAGED + index) for index in range(NUM_CLEAN)
}
TRUE_LABELS = sorted({int(value) for labels in TRUTH.values() for value in np.unique(labels)})


def fill(root: Path) -> None:
    data = DataSet(root)
    for index, (stem, labels) in enumerate(TRUTH.items()):
        data.pair(
            stem,
            made.jpeg(labels, 90) if stem.startswith("slide") else labels,
            tissue(index, SIDE_PX),
        )


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the data set `set` and its workspace; not to be changed."""
    folder = tmp_path_factory.mktemp("scanned")
    fill(folder / "set")
    ensure_tiles(Workspace.of(folder / "set"), workers=1)
    return folder


@pytest.fixture(scope="module")
def repaired_folder(scanned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return such a folder after repair; not to be changed."""
    folder = copied(scanned, tmp_path_factory.mktemp("repaired") / "all")
    repair(Workspace.of(folder / "set"))
    return folder


def copied(folder: Path, to: Path) -> Path:
    """Return a copy of both folders; times stay, so that nothing is read again."""
    shutil.copytree(folder, to)
    table = to / "set.histoprep" / "tiles.parquet"
    opened, header = tables.open_table(table, kind=tiles.KIND, schema_version=tiles.SCHEMA_VERSION)
    rows = tables.read_table(opened)
    described = {
        name: value
        for name, value in header.items()
        if name not in ("kind", "schema_version", "tool_version")
    } | {"root": str(to / "set")}
    tables.write_table(
        table,
        [rows],
        tiles.SCHEMA,
        kind=tiles.KIND,
        schema_version=tiles.SCHEMA_VERSION,
        metadata=described,
    )
    # It names the first data set, which is still there; without it the options are those of the
    # table.
    (to / "set.histoprep" / "scan-options.json").unlink(missing_ok=True)
    return to


@pytest.fixture
def own(repaired_folder: Path, tmp_path: Path) -> Workspace:
    """Return a repaired data set that a test may change; its tree is recorded where it was made
    first, as far as remap is asked.
    """
    return Workspace.of(copied(repaired_folder, tmp_path / "own") / "set")


def repair(
    workspace: Workspace, out: Path | None = None, engine: Engine | None = None, **options: Any
) -> Path:
    plan = plan_repair(workspace, RepairOptions(out or workspace.folder / "repaired", **options))
    return run_repair(plan, engine or Engine(1)).out


def read(path: Path) -> list[dict[str, Any]]:
    opened, _ = tables.open_table(path, kind=repaired.KIND, schema_version=repaired.SCHEMA_VERSION)
    return tables.read_table(opened).to_pylist()


def found_by_audit(workspace: Workspace) -> set[str]:
    report = run_audit(workspace, AuditOptions(), Engine(1)).report
    assert report is not None
    return {finding.code for finding in report.findings}


def manifest_of(
    workspace: Workspace, label_map: LabelMap | None = None, **options: Any
) -> tuple[Manifest, ManifestSummary]:
    summary = build_manifest(
        workspace.tiles,
        label_map or raw_label_map(workspace.tiles),
        ManifestOptions(**options),
        workspace.manifest,
    )
    return open_manifest(summary.path), summary


class TestTable:
    def test_it_says_what_an_audit_of_the_new_files_would_say(
        self, repaired_folder: Path, tmp_path: Path
    ) -> None:
        workspace = Workspace.of(repaired_folder / "set")
        again = DataSet(tmp_path / "again")
        for stem in TRUTH:
            if stem.startswith("slide"):
                again.image(f"{stem}.jpg", tissue(0, SIDE_PX))
                again.write(
                    f"{stem}_mask.png",
                    (workspace.folder / "repaired" / f"{stem}_mask.png").read_bytes(),
                )
        looked_at = Workspace.of(again.root)
        ensure_tiles(looked_at, workers=1)
        opened, _ = tables.open_table(
            looked_at.tiles, kind=tiles.KIND, schema_version=tiles.SCHEMA_VERSION
        )
        expected = {row["mask_path"]: row for row in tables.read_table(opened).to_pylist()}
        found = read(workspace.repaired)
        assert len(found) == NUM_DAMAGED
        for row in found:
            assert row["mask_path"] == f"../set.histoprep/repaired/{row['damaged_path']}"
            assert row["damaged_digest"] == digest(
                (workspace.root / row["damaged_path"]).read_bytes()
            )
            same = [name for name in MASK_COLUMNS if name not in ("mask_path", "mask_mtime_ns")]
            assert {name: row[name] for name in same} == {
                name: expected[row["damaged_path"]][name] for name in same
            }
            assert set(row["label_ids"]) <= set(
                np.unique(TRUTH[row["damaged_path"].removesuffix("_mask.png")]).tolist()
            )

    @pytest.mark.slow
    def test_the_same_bytes_for_any_partitions_and_workers_and_after_a_stop(
        self, repaired_folder: Path, scanned: Path, tmp_path: Path
    ) -> None:
        first = Workspace.of(copied(scanned, tmp_path / "a") / "set")
        repair(first, partition_masks=7, engine=Engine(2))
        plan = plan_repair(first, RepairOptions(first.folder / "repaired", partition_masks=7))
        made_first = first.repaired.read_bytes()
        assert run_repair(plan, Engine(1)).up_to_date
        assert first.repaired.read_bytes() == made_first
        shutil.rmtree(first.folder / "repaired")

        def stop(done: int, total: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_repair(plan, Engine(1), stop)
        assert not first.repaired.exists()
        repair(first)
        assert first.repaired.read_bytes() == made_first
        columns = [row | {"damaged_path": ""} for row in read(first.repaired)]
        assert columns == [
            row | {"damaged_path": ""}
            for row in read(repaired_folder / "set.histoprep" / "repaired.parquet")
        ]

    @pytest.mark.slow
    def test_a_tree_elsewhere_is_named_in_full(self, scanned: Path, tmp_path: Path) -> None:
        workspace = Workspace.of(copied(scanned, tmp_path / "a") / "set")
        out = repair(workspace, tmp_path / "elsewhere")
        assert {row["mask_path"] for row in read(workspace.repaired)} == {
            f"{out}/{stem}_mask.png" for stem in TRUTH if stem.startswith("slide")
        }
        manifest, _ = manifest_of(workspace)
        assert validate_manifest(manifest.path, digests=True) == []

    def test_it_follows_a_repair_with_other_options(self, own: Workspace) -> None:
        opened, _ = tables.open_table(
            own.folder / "repaired" / "ledger.parquet", kind="repair-ledger", schema_version="1.0"
        )
        confidences = sorted(tables.read_table(opened)["confidence"].to_pylist())
        repair(own, min_confidence=confidences[10], force=True)
        rows = read(own.repaired)
        assert 0 < len(rows) < NUM_DAMAGED
        assert all((own.root / row["mask_path"]).exists() for row in rows)
        assert manifest_of(own)[1].num_repaired == len(rows)


class TestRows:
    @pytest.mark.parametrize(
        ("piece", "group"), [(1, 3), (4, 65_536), (65_536, 5), (65_536, 65_536)]
    )
    def test_masks_are_the_repaired_ones_however_the_tables_are_cut(
        self, own: Workspace, piece: int, group: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Both tables shuffled: nothing may hang on their order.
        draw = np.random.default_rng(piece)
        monkeypatch.setattr(tables, "ROW_GROUP_ROWS", group)
        for path, kind, schema, version in (
            (own.tiles, tiles.KIND, tiles.SCHEMA, tiles.SCHEMA_VERSION),
            (own.repaired, repaired.KIND, repaired.SCHEMA, repaired.SCHEMA_VERSION),
        ):
            opened, header = tables.open_table(path, kind=kind, schema_version=version)
            rows = tables.read_table(opened)
            shuffled = rows.take(pa.array(draw.permutation(rows.num_rows)))
            facts = {
                name: value
                for name, value in header.items()
                if name not in ("kind", "schema_version", "tool_version")
            }
            tables.write_table(
                path, [shuffled], schema, kind=kind, schema_version=version, metadata=facts
            )
        opened, _ = tables.open_table(
            own.tiles, kind=tiles.KIND, schema_version=tiles.SCHEMA_VERSION
        )
        plain = tables.read_table(opened).to_pylist()
        better = {row["damaged_path"]: row for row in read(own.repaired)}
        expected = [
            row
            | {
                name: better[row["mask_path"]][name]
                for name in MASK_COLUMNS
                if row["mask_path"] in better
            }
            for row in plain
        ]
        seen = open_rows(own.tiles)[0]
        assert [
            row for batch in seen.read_batches(rows=piece) for row in batch.to_pylist()
        ] == expected
        # Any columns, in the order asked for, whether or not the keys are among them.
        for columns in (
            ["label_ids"],
            ["tile_id"],
            [IS_REPAIRED, "tile_id"],
            ["mask_width_px", "tile_id", "mask_path", IS_REPAIRED],
        ):
            pieces = [batch.select(columns) for batch in seen.read_batches(columns, piece)]
            wanted = [
                {**row, IS_REPAIRED: before["mask_path"] in better}
                for row, before in zip(expected, plain, strict=True)
            ]
            assert [row for batch in pieces for row in batch.to_pylist()] == [
                {name: row[name] for name in columns} for row in wanted
            ]

    def test_a_mask_that_changed_is_itself_again(self, own: Workspace) -> None:
        path = own.root / "slide" / "03_mask.png"
        DataSet(own.root).mask("slide/03_mask.png", made.regions(70))
        ensure_tiles(own, workers=1)
        rows = {
            row["tile_id"]: row
            for batch in open_rows(own.tiles)[0].read_batches(
                ["tile_id", "mask_path", "mask_digest"]
            )
            for row in batch.to_pylist()
        }
        assert (rows["slide/03"]["mask_path"], rows["slide/03"]["mask_digest"]) == (
            "slide/03_mask.png",
            digest(path.read_bytes()),
        )
        assert rows["slide/04"]["mask_path"] == "../set.histoprep/repaired/slide/04_mask.png"
        manifest, summary = manifest_of(own)
        assert (summary.num_repaired, manifest.header["repaired_masks"]) == (
            NUM_DAMAGED - 1,
            NUM_DAMAGED - 1,
        )
        assert any(
            warning.startswith("1 repaired masks are left out") for warning in summary.warnings
        )

    def test_the_label_map_of_a_mask_stays(self, tmp_path: Path) -> None:
        row = tile_row("a", {1: 100}, mask_label_map="five 0123")
        table = write_tiles(tmp_path / "tiles.parquet", [row])
        columns = {name: row.get(name) for name in MASK_COLUMNS} | {
            "damaged_path": row["mask_path"],
            "damaged_digest": row["mask_digest"],
        }
        rows = tiles.to_table(
            [columns | {"mask_path": "new.png", "mask_digest": "0" * 32}], repaired.SCHEMA
        )
        tables.write_table(
            tmp_path / "repaired.parquet",
            [rows],
            repaired.SCHEMA,
            kind=repaired.KIND,
            schema_version="1.0",
            metadata={"ledger_digest": "1", "root": ""},
        )
        (tmp_path / "repaired.json").write_text(json.dumps({"ledger_digest": "1"}))
        (batch,) = open_rows(table)[0].read_batches()
        (seen,) = batch.to_pylist()
        assert (seen["mask_path"], seen["mask_label_map"]) == ("new.png", "five 0123")

    def test_a_repair_that_did_not_end_is_no_return_to_damaged_masks(self, own: Workspace) -> None:
        kept = own.repaired.read_bytes()
        own.repaired.unlink()
        for ask in (
            lambda: manifest_of(own),
            lambda: compute_stats(own),
            lambda: raw_label_map(own.tiles),
        ):
            with pytest.raises(IntegrityError, match="a later repair did not end") as refused:
                ask()
            assert "run histoprep repair again, or delete" in str(refused.value.hint)
        own.repaired.write_bytes(kept)
        record = json.loads(own.repaired_note.read_text())
        own.repaired_note.write_text(json.dumps(record | {"ledger_digest": "0" * 32}))
        with pytest.raises(IntegrityError, match="changed since it was written"):
            manifest_of(own)
        # The tables of a repair of an earlier version are not listed.
        (own.folder / "checksums.json").unlink()
        with pytest.raises(IntegrityError, match="a later repair did not end"):
            manifest_of(own)
        # The audit goes on: it judges the files of the data set.
        assert "HP403" in found_by_audit(own)
        own.repaired_note.unlink()
        assert open_repaired(own.folder) is None
        assert "repaired_masks" not in manifest_of(own)[0].header

    @pytest.mark.parametrize("damage", ["gone", "longer", "flipped"])
    def test_no_manifest_names_a_repaired_mask_that_is_not_there(
        self, own: Workspace, damage: str
    ) -> None:
        path = own.folder / "repaired" / "slide" / "07_mask.png"
        if damage == "gone":
            path.unlink()
        elif damage == "flipped":
            data = path.read_bytes()
            path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        else:
            path.write_bytes(path.read_bytes() + b"\0")
        with pytest.raises(
            IntegrityError, match="a repaired mask is missing, or was changed"
        ) as refused:
            manifest_of(own)
        assert "slide/07_mask.png" in str(refused.value.path)
        assert not own.manifest.exists()


class TestManifest:
    def test_it_names_and_counts_what_was_repaired(self, own: Workspace) -> None:
        manifest, summary = manifest_of(own)
        rows = manifest.read().to_pylist()
        ids = [cls.id for cls in manifest.label_map.classes]
        assert set(ids) <= set(TRUE_LABELS)
        for row in rows:
            path = own.root / row["mask_path"]
            labels = np.asarray(Image.open(path))
            assert row["tile_id"].startswith("clean") or path.resolve().is_relative_to(
                own.folder / "repaired"
            )
            assert (row["mask_bytes"], row["mask_digest"]) == (
                path.stat().st_size,
                digest(path.read_bytes()),
            )
            assert row["class_pixels"] == [
                np.count_nonzero(labels == identifier) for identifier in ids
            ]
            assert set(row["classes"]) <= set(np.unique(TRUTH[row["tile_id"]]).tolist())
        assert (summary.num_repaired, manifest.header["repaired_masks"]) == (
            NUM_DAMAGED,
            NUM_DAMAGED,
        )
        assert validate_manifest(manifest.path, digests=True) == []

    def test_without_repair_it_holds_false_labels(self, scanned: Path, tmp_path: Path) -> None:
        workspace = Workspace.of(copied(scanned, tmp_path / "a") / "set")
        manifest, summary = manifest_of(workspace)
        assert not {cls.id for cls in manifest.label_map.classes} <= set(TRUE_LABELS)
        assert summary.num_repaired == 0
        assert "repaired_masks" not in manifest.header

    @pytest.mark.slow
    def test_a_manifest_from_before_the_repair_is_stale(
        self, scanned: Path, tmp_path: Path
    ) -> None:
        workspace = Workspace.of(copied(scanned, tmp_path / "a") / "set")
        manifest_of(workspace)
        repair(workspace)
        (found,) = validate_manifest(workspace.manifest)
        assert (found.code, found.count) == ("HP902", NUM_DAMAGED)
        assert found.details[0] == "repaired after the manifest was made"
        codes = found_by_audit(workspace)
        assert {"HP403", "HP902"} <= codes
        manifest_of(workspace)
        codes = found_by_audit(workspace)
        assert "HP403" in codes
        assert not codes & {"HP902", "HP903"}

    def test_tiles_whose_false_labels_had_no_class_come_back(
        self, own: Workspace, tmp_path: Path
    ) -> None:
        sources = tuple(
            SourceLabel(true_label, f"label {true_label}") for true_label in TRUE_LABELS
        )
        label_map = LabelMap(
            "true",
            sources,
            (TargetClass(0, "none", "#000000"), TargetClass(1, "any", "#ffffff")),
            {true_label: int(true_label > 0) for true_label in TRUE_LABELS},
        )
        assert len(manifest_of(own, label_map)[0]) == len(TRUTH)
        # Whoever looks for the name of a tile counts the same tiles.
        silent = tmp_path / "split.csv"
        silent.write_text(
            "tile_id,split\n" + "".join(f"{stem},train\n" for stem in TRUTH if stem != "slide/30"),
            "utf-8",
        )
        _, summary = manifest_of(own, label_map, method="file", split_file=silent)
        assert any("says nothing of 1 tile, such as slide/30" in text for text in summary.warnings)
        own.repaired_note.unlink()
        assert len(manifest_of(own, label_map)[0]) < len(TRUTH)

    @pytest.mark.slow
    def test_the_command_line_says_how_many(
        self, own: Workspace, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.run(["manifest", str(own.root), "--workers", "1"]) == ExitCode.OK
        assert "31 masks are repaired copies" in capsys.readouterr().out
        assert cli.run(["manifest", "show", str(own.manifest)]) == ExitCode.OK
        assert "31 masks are repaired copies" in capsys.readouterr().out
        assert cli.run(["stats", str(own.root), "--workers", "1"]) == ExitCode.OK
        assert "31 repaired masks" in capsys.readouterr().out
        assert cli.run(["repair", str(own.root), "--workers", "1", "--force"]) == ExitCode.OK
        assert "is older than the repaired masks" in capsys.readouterr().err

    @pytest.mark.slow
    def test_the_command_line_warns_of_damaged_masks_until_they_are_repaired(
        self, scanned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        workspace = Workspace.of(copied(scanned, tmp_path / "a") / "set")
        for command in ("manifest", "stats"):
            assert cli.run([command, str(workspace.root), "--workers", "1"]) == ExitCode.OK
            warning = " ".join(capsys.readouterr().err.split())
            assert (
                f"warning: {NUM_DAMAGED} masks of slide (HP403 jpeg-history, JPEG quality 90) went"
                " through JPEG" in warning
            )
        repair(workspace)
        for command in ("manifest", "stats"):
            assert cli.run([command, str(workspace.root), "--workers", "1"]) == ExitCode.OK
            assert "not repaired" not in capsys.readouterr().err

    @pytest.mark.slow
    def test_a_few_masks_are_no_proof_but_are_warned_of(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        data = DataSet(tmp_path / "set")
        for index in range(12):
            data.pair(f"tile{index}", made.jpeg(made.regions(index), 90), tissue(index, SIDE_PX))
        report = run_audit(
            Workspace.of(data.root), AuditOptions(), Engine(1), want_report=True
        ).report
        assert report is not None
        [spurious] = [finding for finding in report.findings if finding.code == "HP804"]
        assert "see HP403" in spurious.cause and spurious.suggestion.startswith(
            "histoprep repair /"
        )
        sources = ", ".join(f"{number}: label {number}" for number in range(256))
        mapping = ", ".join(f"{number}: {int(number > 0)}" for number in range(256))
        (tmp_path / "all.yml").write_text(
            f"sources: {{{sources}}}\nclasses: {{0: none, 1: any}}\nmap: {{{mapping}}}\n"
        )
        for command in ("remap", "manifest", "stats"):
            assert (
                cli.run(
                    [command, str(data.root), "--map", str(tmp_path / "all.yml"), "--workers", "1"]
                )
                == ExitCode.OK
            )
            warning = " ".join(capsys.readouterr().err.split())
            assert (
                "warning: 12 masks of . (HP403 jpeg-history, JPEG quality 90) perhaps went through"
                " JPEG" in warning
            )

    @pytest.mark.slow
    def test_the_audit_says_what_is_repaired(
        self, own: Workspace, scanned: Path, tmp_path: Path
    ) -> None:
        def lossy(workspace: Workspace) -> Finding:
            report = run_audit(workspace, AuditOptions(), Engine(1), want_report=True).report
            assert report is not None
            [found] = [finding for finding in report.findings if finding.code == "HP403"]
            return found

        damaged = lossy(Workspace.of(copied(scanned, tmp_path / "a") / "set"))
        assert (damaged.severity, "repaired mask" in damaged.cause) == (Severity.ERROR, False)
        repair(own, force=True)
        repaired = lossy(own)
        assert (repaired.severity, repaired.count) == (Severity.INFO, NUM_DAMAGED)
        assert (
            f"{NUM_DAMAGED} of {NUM_DAMAGED} have a repaired copy" in repaired.cause
            and "use the repaired masks" in repaired.suggestion
        )

    @pytest.mark.parametrize("kind", ["PNG", "JPEG"])
    @pytest.mark.slow
    def test_the_audit_finds_in_repaired_masks_what_they_still_have(
        self, kind: str, tmp_path: Path
    ) -> None:
        data, clean = DataSet(tmp_path / "set"), DataSet(tmp_path / "clean")
        suffix = "png" if kind == "PNG" else "jpg"
        for index in range(NUM_DAMAGED):
            labels = made.regions(index)
            if index % 2:
                # Somebody drew this speck: repair keeps it.
                labels[60:64, 60:64] = max(set(np.unique(labels).tolist()) - {int(labels[62, 62])})
            data.image(f"{index:02}.jpg", tissue(index, SIDE_PX))
            lossy = Image.fromarray(made.jpeg(labels, 90))
            contents = (
                image_bytes(lossy, "PNG")
                if kind == "PNG"
                else image_bytes(lossy.convert("RGB"), "JPEG", quality=90)
            )
            data.write(f"{index:02}_mask.{suffix}", contents)
        workspace = Workspace.of(data.root)

        def found() -> Found:
            report = run_audit(workspace, AuditOptions(), Engine(1), want_report=True).report
            assert report is not None
            return by_code(
                finding for finding in report.findings if finding.code not in ("HP403", "HP404")
            )

        before = set(found())
        repair(workspace)
        after = found()
        for image in data.root.glob("??.jpg"):
            clean.write(image.name, image.read_bytes())
        for mask in (workspace.folder / "repaired").glob("*_mask.png"):
            clean.write(mask.name, mask.read_bytes())
        expected = by_code(
            finding for finding in clean.audit().findings if finding.code not in ("HP403", "HP404")
        )

        assert before - set(after) >= (
            {"HP408 see-hp403", "HP409 see-hp403", "HP804"}
            if kind == "PNG"
            else {"HP402 grey-in-rgb"}
        )
        assert len(after["HP408 repaired"]) >= NUM_DAMAGED // 2
        assert not any(key.startswith(("HP402", "HP203")) or "see-" in key for key in after)
        as_files = {
            key.removesuffix(" repaired"): {
                path.replace(f"_mask.{suffix}", "_mask.png"): detail
                for path, detail in items.items()
            }
            for key, items in after.items()
        }
        assert as_files == expected

    def test_the_audit_judges_the_damaged_masks_where_a_repaired_one_is_gone(
        self, own: Workspace
    ) -> None:
        assert "HP804" not in found_by_audit(own)
        (own.folder / "repaired" / "slide" / "07_mask.png").unlink()
        note = own.repaired_note.stat()
        os.utime(own.repaired_note, ns=(note.st_atime_ns, note.st_mtime_ns + 1))
        assert "HP804" in found_by_audit(own)


class TestStats:
    def test_they_count_the_repaired_masks_in_place_of_the_damaged(self, own: Workspace) -> None:
        pixels: dict[bool, Counter[int]] = {False: Counter(), True: Counter()}
        for stem in TRUTH:
            for is_repaired, counter in pixels.items():
                folder = (
                    own.folder / "repaired"
                    if is_repaired and stem.startswith("slide")
                    else own.root
                )
                ids, numbers = np.unique(
                    np.asarray(Image.open(folder / f"{stem}_mask.png")), return_counts=True
                )
                counter.update(dict(zip(ids.tolist(), numbers.tolist(), strict=True)))
        stats = compute_stats(own)
        assert dict(
            zip(stats.raw.classes["class_id"], stats.raw.classes["pixels"], strict=True)
        ) == dict(pixels[True])
        assert stats.num_repaired == NUM_DAMAGED
        by_files = (
            count_table(own, None, by_group=False).raw.classes.groupby("class_id")["pixels"].sum()
        )
        assert by_files.to_dict() == dict(pixels[False])
        assert set(pixels[True]) <= set(TRUE_LABELS) < set(pixels[False])


class TestShards:
    def test_they_hold_the_repaired_masks(self, own: Workspace, tmp_path: Path) -> None:
        manifest, _ = manifest_of(own)
        assert (
            verify_shards(write_shards(manifest.path, tmp_path / "shards").index, manifest.path)
            == []
        )
        wrong = []
        for source in (open_tiles(manifest.path), open_tiles(tmp_path / "shards")):
            assert len(source) == len(TRUTH)
            for row, stem in enumerate(source.tile_ids):
                mask = source.read(row).mask
                assert mask is not None
                assert set(np.unique(mask).tolist()) <= set(np.unique(TRUTH[stem]).tolist())
                wrong.append(np.mean(mask != TRUTH[stem]))
        assert np.mean(wrong) < 0.004

    @pytest.mark.slow
    def test_of_the_demo_too(self, tmp_path: Path) -> None:
        workspace = Workspace.of(make_demo(tmp_path / "demo", num_tiles=80, tile_px=64).folder)
        ensure_tiles(workspace, workers=1)
        recipes = [recipe for recipe in RECIPES if max(recipe.labels) <= DERMIS]

        def false_labels() -> int:
            manifest = build_manifest(
                workspace.tiles, identity_map(range(256)), ManifestOptions(), workspace.manifest
            )
            shards = tmp_path / f"shards-{manifest.num_repaired}"
            source = open_tiles(write_shards(manifest.path, shards).index)
            number = 0
            for row, name in enumerate(source.tile_ids):
                if name.startswith("slide07"):
                    mask = source.read(row).mask
                    assert mask is not None
                    number += len(
                        set(np.unique(mask).tolist())
                        - set(recipes[int(name.split("_")[1]) % len(recipes)].labels)
                    )
            return number

        before = false_labels()
        repair(workspace)
        assert before > 100
        assert false_labels() == 0
