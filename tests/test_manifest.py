"""From a tiles table to a manifest and back: nothing is lost silently, nothing crosses, everything
is found again.
"""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from tile_rows import tile_row, write_tiles

from histoprep import tables
from histoprep.counting.counts import count
from histoprep.errors import HistoprepError, IntegrityError, UsageError
from histoprep.labels import LabelMap, SourceLabel, TargetClass, identity_map
from histoprep.manifest.build import ManifestOptions, ManifestSummary, build_manifest
from histoprep.manifest.check import certificate_problems, check_manifest, validate_manifest
from histoprep.manifest.dataset_csv import write_dataset_csv
from histoprep.manifest.diff import diff_manifests
from histoprep.schemas.manifest import (
    Manifest,
    open_manifest,
    read_manifest,
    schema,
    write_manifest,
)
from histoprep.split import parse_fractions

LABELS = LabelMap(
    "three",
    tuple(SourceLabel(item, f"source {item}") for item in (0, 1, 2, 7)),
    (
        TargetClass(0, "nothing", "#000000"),
        TargetClass(1, "tissue", "#111111"),
        TargetClass(4, "tumour", "#222222", min_radius_px=1.0),
    ),
    {0: 0, 1: 1, 2: 1, 7: 4},
)


def many_rows(number: int = 120, num_groups: int = 0) -> list[dict[str, Any]]:
    draw = np.random.default_rng(2)
    rows = []
    for index in range(number):
        group = f"case {draw.integers(num_groups)}" if num_groups else None
        some = {
            int(item): int(draw.integers(1, 60))
            for item in draw.choice([1, 2, 7], 2, replace=False)
        }
        rows.append(tile_row(f"t{index:04d}", (None, {}, some, some)[index % 4], group=group))
    return rows


def build(
    folder: Path,
    rows: list[dict[str, Any]],
    labels: LabelMap = LABELS,
    name: str = "manifest",
    **options: Any,
) -> tuple[Manifest, ManifestSummary]:
    tiles = write_tiles(
        folder / "tiles.parquet",
        rows,
        group_by="case" if any(row.get("group") for row in rows) else None,
    )
    summary = build_manifest(tiles, labels, ManifestOptions(**options), folder / f"{name}.parquet")
    return open_manifest(summary.path), summary


class TestRows:
    def test_a_row_says_what_the_tile_holds(self, tmp_path: Path) -> None:
        # Labels 1 and 2 are one class; 30 pixels are core-present, 3 are not, but class 4 asks for
        # a radius of 1 only.
        manifest, _ = build(
            tmp_path,
            [
                tile_row("a", {1: 3, 2: 30}, group="g", label="good"),
                tile_row("b", {1: 3, 7: 9}),
                *many_rows(20),
            ],
        )
        first, second = manifest.read().slice(0, 2).to_pylist()
        named = [first[name] for name in ("tile_id", "image_path", "mask_path", "group", "label")]
        assert named == ["a", "a.jpg", "a_mask.png", "g", "good"]
        assert (first["class_pixels"], first["classes"], first["pool"]) == (
            [223, 33, 0],
            [0, 1],
            "conditional",
        )
        assert (second["class_pixels"], second["classes"]) == ([244, 3, 9], [0, 4])
        assert first["shard"] is None and first["image_offset"] is None
        assert (first["image_bytes"], first["mask_bytes"], first["width_px"]) == (1000, 100, 16)

    def test_pools(self, tmp_path: Path) -> None:
        rows = [
            tile_row("none"),
            tile_row("zero", {}),
            tile_row("one", {1: 1}),
            tile_row("half", {1: 128}),
            tile_row("full", {7: 256}),
        ]
        for threshold, conditional in (
            (0.0, ["one", "half", "full"]),
            (0.5, ["half", "full"]),
            (0.51, ["full"]),
            (1.0, ["full"]),
        ):
            manifest, _ = build(tmp_path, rows, conditional_threshold=threshold)
            assert [
                row["tile_id"]
                for row in manifest.read().to_pylist()
                if row["pool"] == "conditional"
            ] == conditional
            assert validate_manifest(manifest.path, files=False) == []

    def test_counts_agree_with_the_stats(self, tmp_path: Path) -> None:
        rows = many_rows(200)
        manifest, _ = build(tmp_path, rows)
        table = manifest.read()
        tiles, _ = tables.open_table(tmp_path / "tiles.parquet", kind="tiles", schema_version="1.0")
        counts = count(tables.read_table(tiles), LABELS)
        by_class = counts.classes.groupby("class_id")[["core_tiles", "pixels"]].sum()
        pixels = np.array(table["class_pixels"].to_pylist()).sum(axis=0)
        for index, cls in enumerate(LABELS.classes):
            assert by_class.loc[cls.id, "pixels"] == pixels[index]
            assert by_class.loc[cls.id, "core_tiles"] == sum(
                cls.id in classes for classes in table["classes"].to_pylist()
            )
        conditional = counts.tiles[counts.tiles["pool"] == "conditional"]["tiles"].sum()
        assert conditional == sum(pool == "conditional" for pool in table["pool"].to_pylist())

    def test_sixteen_bit_masks_are_fine(self, tmp_path: Path) -> None:
        labels = LabelMap(
            "wide",
            (SourceLabel(0, "a"), SourceLabel(40_000, "b")),
            LABELS.classes,
            {0: 0, 40_000: 4},
        )
        manifest, _ = build(
            tmp_path,
            [tile_row("a", {40_000: 100}, mask_bit_depth=16, mask_mode="I;16"), tile_row("b", {})],
            labels,
        )
        assert manifest.read()["classes"].to_pylist()[0] == [0, 4]


class TestExclusion:
    def test_every_reason_is_told_and_counted(self, tmp_path: Path) -> None:
        no_labels = dict.fromkeys(
            ("label_ids", "label_pixels", "label_core_pixels", "label_radius_px")
        )
        truncated = {"image_error": "HP202 truncated-jpeg", "image_error_detail": "no end"}
        gone = [
            (tile_row("e1", {1: 5}, image_path=None), "orphan-mask", "e1_mask.png has no image"),
            (
                tile_row("e2", {1: 5}, **truncated),
                "image-error",
                "e2.jpg: HP202 truncated-jpeg: no end",
            ),
            (
                tile_row("e3", {1: 5}, mask_error="HP201 truncated"),
                "mask-error",
                "e3_mask.png: HP201 truncated",
            ),
            (tile_row("e4", {1: 5}, mask_colours=12, **no_labels), "not-a-class-map", "12 colours"),
            (tile_row("e5", {1: 5}, mask_width_px=8), "size-mismatch", "image 16x16, mask 8x16"),
            (
                tile_row("e6", {1: 5, 9: 4, 200: 1}),
                "unmapped-label",
                "e6_mask.png: label 9, 200 not in three",
            ),
        ]
        rows = many_rows(40)
        rows[7:7] = [row for row, _, _ in gone]
        manifest, summary = build(tmp_path, rows)
        assert len(manifest) + sum(summary.excluded.values()) == len(rows)
        assert manifest.excluded == summary.excluded == {reason: 1 for _, reason, _ in gone}
        table = pq.read_table(summary.excluded_path).to_pylist()
        assert [(item["tile_id"], item["reason"]) for item in table] == [
            (row["tile_id"], reason) for row, reason, _ in gone
        ]
        assert all(part in item["detail"] for item, (_, _, part) in zip(table, gone, strict=True))
        assert summary.incomplete
        assert not {row["tile_id"] for row, _, _ in gone} & set(
            manifest.read()["tile_id"].to_pylist()
        )

    def test_orphans_alone_are_no_failure_and_old_exclusions_go(self, tmp_path: Path) -> None:
        _, summary = build(tmp_path, [*many_rows(20), tile_row("zz", {1: 5}, image_path=None)])
        assert summary.excluded == {"orphan-mask": 1} and not summary.incomplete
        _, summary = build(tmp_path, many_rows(20))
        assert pq.read_table(summary.excluded_path).num_rows == 0

    def test_no_usable_tile_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="no tile can be used"):
            build(tmp_path, [tile_row("a", {9: 5})])

    def test_masks_mapped_before_are_refused(self, tmp_path: Path) -> None:
        rows = [tile_row("a", {1: 5}, mask_label_map="label_map_5"), tile_row("b", {})]
        with pytest.raises(UsageError, match="HP508"):
            build(tmp_path, rows)
        assert not (tmp_path / "manifest.parquet").exists()
        for allowed in (
            build(tmp_path, rows, identity_map([0, 1])),
            build(tmp_path, rows, force=True),
        ):
            assert len(allowed[0]) == 2

    @pytest.mark.parametrize("key, value", [("sample", 10), ("tiles", {"headers_only": True})])
    def test_a_table_of_some_tiles_is_refused(
        self, tmp_path: Path, key: str, value: object
    ) -> None:
        path = write_tiles(tmp_path / "tiles.parquet", many_rows(20))
        table = pq.read_table(path)
        header = json.loads(table.schema.metadata[tables.METADATA_KEY])
        header["options"][key] = value
        metadata = {name: header[name] for name in ("root", "options")}
        tables.write_table(
            path,
            [table],
            table.schema.remove_metadata(),
            kind="tiles",
            schema_version="1.0",
            metadata=metadata,
        )
        with pytest.raises(UsageError, match="quick or sampling"):
            build_manifest(path, LABELS, ManifestOptions(), tmp_path / "m.parquet")

    def test_a_tile_id_that_occurs_twice_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="twice") as caught:
            build(tmp_path, [*many_rows(20), tile_row("t0007")], seed=4)
        assert caught.value.seen == "t0007"


class TestSplit:
    def test_groups_and_copies_stay_together(self, tmp_path: Path) -> None:
        rows = many_rows(300, num_groups=30)
        rows[3]["image_digest"] = rows[250]["image_digest"]
        rows[4]["luminance_digest"] = rows[200]["luminance_digest"]
        manifest, summary = build(tmp_path, rows)
        table = manifest.read().to_pylist()
        by_group: dict[str, set[str]] = {}
        for row in table:
            by_group.setdefault(row["group"], set()).add(row["split"])
        assert all(len(splits) == 1 for splits in by_group.values())
        assert table[3]["split"] == table[250]["split"] and table[4]["split"] == table[200]["split"]
        assert "groups share images" in summary.warnings[0]
        assert manifest.recipe["grouping"] == "case"
        assert (
            manifest.certificate["shared_groups"] == manifest.certificate["shared_duplicates"] == 0
        )

    def test_blank_tiles_that_look_alike_join_nothing(self, tmp_path: Path) -> None:
        rows = [
            tile_row(f"t{index}", group=f"g{index % 10}", luminance_digest="white", contrast=0.1)
            for index in range(100)
        ]
        _, summary = build(tmp_path, rows)
        assert summary.recipe["groups_joined_by_copies"] == 0

    def test_the_order_of_rows_does_not_matter(self, tmp_path: Path) -> None:
        rows = many_rows(200, num_groups=25)
        manifest, _ = build(tmp_path, rows)
        splits = dict(zip(*manifest.read(["tile_id", "split"]).to_pydict().values(), strict=True))
        turned, _ = build(tmp_path, rows[::-1], name="turned")
        assert (
            dict(zip(*turned.read(["tile_id", "split"]).to_pydict().values(), strict=True))
            == splits
        )
        assert turned.certificate == manifest.certificate

    def test_the_same_inputs_give_the_same_bytes(self, tmp_path: Path) -> None:
        first, _ = build(tmp_path, many_rows(200, 20), name="one")
        second, _ = build(tmp_path, many_rows(200, 20), name="two")
        assert first.path.read_bytes() == second.path.read_bytes()

    def test_many_row_groups_give_what_one_gives(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The first group of rows is left out as a whole.
        rows = [
            *(tile_row(f"bad {index}", {9: 1}) for index in range(40)),
            *many_rows(300),
            tile_row("bad", {9: 1}),
        ]
        whole, _ = build(tmp_path, rows, name="whole")
        monkeypatch.setattr(tables, "ROW_GROUP_ROWS", 37)
        pieces, _ = build(tmp_path, rows, name="pieces")
        assert pieces.opened.num_row_groups > 5
        assert pieces.read().equals(whole.read())
        assert pieces.certificate == whole.certificate

    def test_folder_splits_keep_test_and_give_validation(self, tmp_path: Path) -> None:
        rows = [
            tile_row(
                f"{split}/{kind}/{index}",
                split=split,
                label=kind,
                group=f"{split}{kind}{index // 5}",
            )
            for split, number in (("train", 100), ("test", 30))
            for kind in ("a", "b")
            for index in range(number)
        ]
        manifest, _ = build(tmp_path, rows)
        table = manifest.read().to_pylist()
        assert all((row["split"] == "test") == row["tile_id"].startswith("test/") for row in table)
        splits = manifest.certificate["splits"]
        assert splits["val"]["labels"] == {"a": 20, "b": 20} and splits["train"]["labels"] == {
            "a": 80,
            "b": 80,
        }
        assert manifest.recipe["method"] == "folder"
        check_manifest(manifest)
        anew, _ = build(
            tmp_path, rows, ignore_folder_split=True, fractions=parse_fractions("0.5/0.5")
        )
        assert anew.certificate["splits"]["test"]["tiles"] == 130

    def test_a_leaking_folder_split_names_the_group(self, tmp_path: Path) -> None:
        numbers = [
            *(("train", index) for index in range(10)),
            *(("test", index) for index in range(9, 19)),
        ]
        rows = [
            tile_row(f"{split}/{index}", split=split, group=f"case {index}")
            for split, index in numbers
        ]
        with pytest.raises(UsageError, match=r"HP702.*case 9") as caught:
            build(tmp_path, rows)
        assert caught.value.seen == "case 9 in test and train"
        numbers = [(split, index) for split in ("train", "test") for index in range(5)]
        rows = [
            tile_row(
                f"{split}/{index}", split=split, image_digest=f"{split}{index}" if index else "same"
            )
            for split, index in numbers
        ]
        with pytest.raises(UsageError, match="HP703") as caught:
            build(tmp_path, rows)
        assert caught.value.seen == "test/0 in test, train/0 in train"

    def test_a_split_file_by_tile_and_by_group(self, tmp_path: Path) -> None:
        rows = many_rows(40, num_groups=8)
        groups = sorted({row["group"] for row in rows})
        file = tmp_path / "split.csv"
        file.write_text(
            "group,split,note\n"
            + "".join(
                f"{group},{'test' if index < 2 else 'train'},x\n"
                for index, group in enumerate(groups)
            )
        )
        manifest, _ = build(tmp_path, rows, method="file", split_file=file)
        assert all(
            (row["split"] == "test") == (row["group"] in groups[:2])
            for row in manifest.read().to_pylist()
        )
        file.write_text(
            "split,tile_id\n"
            + "".join(
                f"{'val' if row['group'] == groups[0] else 'train'},{row['tile_id']}\n"
                for row in rows
            )
        )
        manifest, _ = build(tmp_path, rows, method="file", split_file=file)
        assert all(
            (row["split"] == "val") == (row["group"] == groups[0])
            for row in manifest.read().to_pylist()
        )

    @pytest.mark.parametrize(
        "text, message",
        [
            ("tile_id,split\nx0000,train\n", "says nothing of any tile"),
            ("tile_id,split\nt0000,train\nt0000,test\n", "one tile in two splits"),
            ("tile_id,split\nt0000,dev\n", "unknown split"),
            ("word,split\nt0000,train\n", "lacks a column"),
            ("", "cannot be read"),
            (
                "tile_id,split\n"
                + "".join(
                    f"t{index:04d},{'test' if index == 5 else 'train'}\n" for index in range(40)
                ),
                "HP702",
            ),
        ],
    )
    def test_a_split_file_that_cannot_be(self, tmp_path: Path, text: str, message: str) -> None:
        (tmp_path / "split.csv").write_text(text)
        with pytest.raises(UsageError, match=message):
            build(
                tmp_path,
                many_rows(40, num_groups=3),
                method="file",
                split_file=tmp_path / "split.csv",
            )

    def test_hash_keeps_old_groups_when_data_grows(self, tmp_path: Path) -> None:
        rows = many_rows(200, num_groups=40)
        before, _ = build(tmp_path, rows[:120], name="before", method="hash")
        after, _ = build(tmp_path, rows, name="after", method="hash")
        change = diff_manifests(before, after)
        assert change.moved_split == () and len(change.added) == 80

    @pytest.mark.parametrize(
        "options",
        [
            {"method": "magic"},
            {"method": "file"},
            {"split_file": Path("x")},
            {"conditional_threshold": 2.0},
            {"seed": -1},
        ],
    )
    def test_options_that_cannot_be(self, tmp_path: Path, options: dict[str, Any]) -> None:
        with pytest.raises(UsageError):
            build(tmp_path, many_rows(20), **options)


class TestReaders:
    def test_header_and_batches(self, tmp_path: Path) -> None:
        manifest, summary = build(tmp_path, many_rows(50), seed=3)
        assert manifest.label_map == LABELS
        assert manifest.root == tmp_path / "data"
        assert manifest.recipe == summary.recipe and manifest.recipe["seed"] == 3
        assert manifest.certificate == summary.certificate
        assert manifest.tiles_digest == xxhash.xxh3_128_hexdigest(
            (tmp_path / "tiles.parquet").read_bytes()
        )
        pieces = list(manifest.iter_batches(["tile_id"], rows=7))
        assert [piece.num_rows for piece in pieces] == [7] * 7 + [1]
        assert pa.concat_tables(pieces).equals(read_manifest(manifest.path, ["tile_id"]))

    def test_extra_columns_and_minor_versions_are_accepted(self, tmp_path: Path) -> None:
        manifest, _ = build(tmp_path, many_rows(20))
        table = manifest.read().append_column("extra", pa.array(range(20)))
        metadata = {
            name: value
            for name, value in manifest.header.items()
            if name not in ("kind", "schema_version", "tool_version")
        }
        tables.write_table(
            manifest.path,
            [table],
            table.schema.remove_metadata(),
            kind="manifest",
            schema_version="1.7",
            metadata=metadata,
        )
        assert len(open_manifest(manifest.path)) == 20
        assert validate_manifest(manifest.path, files=False) == []

    @pytest.mark.parametrize(
        "damage, message",
        [
            ("version", "major version"),
            ("column", "columns"),
            ("type", "columns"),
            ("header", "header"),
            ("kind", "not the expected"),
            ("bytes", "damaged|read"),
        ],
    )
    def test_what_is_no_manifest_is_refused(
        self, tmp_path: Path, damage: str, message: str
    ) -> None:
        manifest, _ = build(tmp_path, many_rows(20))
        table = manifest.read()
        metadata = {
            name: value
            for name, value in manifest.header.items()
            if name not in ("kind", "schema_version", "tool_version")
        }
        if damage == "column":
            table = table.drop_columns(["pool"])
        if damage == "type":
            table = table.set_column(
                table.column_names.index("width_px"), "width_px", table["width_px"].cast(pa.int64())
            )
        if damage == "header":
            del metadata["label_map"]
        version, kind = (
            "2.0" if damage == "version" else "1.0",
            "tiles" if damage == "kind" else "manifest",
        )
        tables.write_table(
            manifest.path,
            [table],
            table.schema.remove_metadata(),
            kind=kind,
            schema_version=version,
            metadata=metadata,
        )
        if damage == "bytes":
            data = bytearray(manifest.path.read_bytes())
            data[len(data) // 3] ^= 16
            manifest.path.write_bytes(data)
        with pytest.raises(IntegrityError, match=message):
            open_manifest(manifest.path).read()
        if damage != "bytes":
            assert [finding.code for finding in validate_manifest(manifest.path, files=False)] == [
                "HP901"
            ]

    def test_no_file_is_a_usage_error(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="no manifest"):
            open_manifest(tmp_path / "none.parquet")

    def test_a_failed_build_leaves_the_old_manifest(self, tmp_path: Path) -> None:
        manifest, _ = build(tmp_path, many_rows(20))
        old = manifest.path.read_bytes()
        with pytest.raises(HistoprepError):
            build(tmp_path, [tile_row("a", {9: 1})])
        assert manifest.path.read_bytes() == old


class TestDatasetCsv:
    def test_it_is_read_back_name_by_name(self, tmp_path: Path) -> None:
        names = ["=cmd", "+1", "-x", "@y", "plain", 'quo"te', "com,ma", "ümlaut", "line\nbreak"]
        manifest, _ = build(
            tmp_path,
            [
                tile_row(name, {1: 3, 7: 200} if index % 2 else None)
                for index, name in enumerate(names)
            ],
        )
        path = tmp_path / "dataset.csv"
        assert write_dataset_csv(manifest, path) == len(names)
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.reader(stream))
        assert rows == [
            [f"{name}.jpg", "0 1 4" if index % 2 else ""] for index, name in enumerate(names)
        ]
        assert not any(
            line.startswith(("=", "+", "-", "@"))
            for line in path.read_text(encoding="utf-8").splitlines()
        )


def rewrite(
    manifest: Manifest, change: dict[int, dict[str, Any]], add: tuple[dict[str, Any], ...] = ()
) -> Path:
    """Write the manifest again with some cells changed, by row number, and its header kept."""
    rows = manifest.read().to_pylist()
    for index, cells in change.items():
        rows[index] |= cells
    target = manifest.path.with_name("changed.parquet")
    wanted = schema(manifest.label_map.num_classes)
    loose = pa.schema([field.with_nullable(True) for field in wanted])
    table = pa.table(
        [pa.array([row[field.name] for row in [*rows, *add]], field.type) for field in loose],
        schema=loose,
    )
    metadata = {
        name: value
        for name, value in manifest.header.items()
        if name not in ("kind", "schema_version", "tool_version")
    }
    tables.write_table(
        target, [table], loose, kind="manifest", schema_version="1.0", metadata=metadata
    )
    return target


def with_files(folder: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Make the files that the rows speak of, with their true sizes and digests."""
    for row in rows:
        for what in ("image", "mask"):
            if row.get(f"{what}_path"):
                data = f"{what} {row['tile_id']}".encode()
                path = folder / row[f"{what}_path"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
                row |= {
                    f"{what}_bytes": len(data),
                    f"{what}_digest": xxhash.xxh3_128_hexdigest(data),
                }
    return rows


class TestCheck:
    def test_a_true_manifest_has_no_finding(self, tmp_path: Path) -> None:
        manifest, _ = build(tmp_path, with_files(tmp_path / "data", many_rows(60, num_groups=12)))
        assert validate_manifest(manifest.path, digests=True) == []
        check_manifest(manifest)

    def test_files_that_changed_or_went_are_found(self, tmp_path: Path) -> None:
        root = tmp_path / "data"
        manifest, _ = build(tmp_path, with_files(root, many_rows(60)))
        (root / "t0003.jpg").unlink()
        (root / "t0005_mask.png").write_bytes(b"longer than it was before")
        same_size = (root / "t0006.jpg").read_bytes().swapcase()
        (root / "t0006.jpg").write_bytes(same_size)
        (root / "t0007.jpg").unlink()
        os.mkfifo(root / "t0007.jpg")
        found = {finding.code: finding for finding in validate_manifest(manifest.path)}
        assert found["HP903"].paths == ("t0003.jpg", "t0007.jpg")
        assert found["HP902"].paths == ("t0005_mask.png",)
        found = {
            finding.code: finding for finding in validate_manifest(manifest.path, digests=True)
        }
        assert found["HP902"].paths == ("t0005_mask.png", "t0006.jpg")
        assert found["HP902"].denominator == 60 + 45
        root.rename(tmp_path / "moved")
        assert len(validate_manifest(manifest.path)[0].paths) == 105
        assert len(validate_manifest(manifest.path, tmp_path / "moved")) == 2

    def test_each_leak_has_its_code(self, tmp_path: Path) -> None:
        manifest, _ = build(tmp_path, many_rows(80, num_groups=10))
        rows = manifest.read().to_pylist()
        train = next(index for index, row in enumerate(rows) if row["split"] == "train")
        pool = rows[train]["pool"]
        test = next(
            index
            for index, row in enumerate(rows)
            if row["split"] == "test" and row["pool"] == pool
        )

        def codes(change: dict[int, dict[str, Any]], *add: dict[str, Any]) -> dict[str, Any]:
            return {
                f"{finding.code}{finding.subcode}": finding
                for finding in validate_manifest(rewrite(manifest, change, add), files=False)
            }

        found = codes({train: {"split": "test"}})
        assert set(found) == {"HP702", "HP901certificate"}
        assert found["HP702"].paths == (rows[train]["group"],) and found["HP702"].details == (
            "in test and train",
        )
        found = codes({train: {"image_digest": rows[test]["image_digest"]}})
        assert set(found) == {"HP703", "HP901certificate"}
        found = codes({}, {**rows[train], "split": "test", "group": None, "image_digest": None})
        assert set(found) == {"HP701", "HP901certificate", "HP901not-unique"}
        assert found["HP701"].paths == (rows[train]["tile_id"],)
        zero, full = (
            next(i for i, row in enumerate(rows) if row["pool"] == pool)
            for pool in ("unconditional", "conditional")
        )
        assert "HP704" in codes({zero: {"pool": "conditional"}})
        assert "HP704" in codes(
            {
                zero: {
                    "image_digest": rows[full]["image_digest"],
                    "group": rows[full]["group"],
                    "split": rows[full]["split"],
                }
            }
        )
        for cells in (
            {"split": "dev"},
            {"split": None},
            {"pool": "x"},
            {"classes": [3]},
            {"tile_id": None},
        ):
            assert set(codes({train: cells})) == {"HP901"}, cells

    def test_the_certificate_is_computed_from_the_rows(self, tmp_path: Path) -> None:
        manifest, _ = build(tmp_path, many_rows(200))
        assert certificate_problems(manifest) == []
        rows = manifest.read().to_pylist()
        test = next(
            index
            for index, row in enumerate(rows)
            if row["split"] == "test" and row["classes"] == [0]
        )
        for cells in ({"split": "train"}, {"classes": [0, 4]}):
            changed = open_manifest(rewrite(manifest, {test: cells}))
            with pytest.raises(IntegrityError, match="certificate"):
                check_manifest(changed)

    def test_an_image_in_both_pools_is_warned_of(self, tmp_path: Path) -> None:
        rows = [
            *many_rows(40),
            tile_row("copy", image_digest="same"),
            tile_row("labelled", {1: 100}, image_digest="same"),
        ]
        manifest, summary = build(tmp_path, rows)
        assert any("HP704" in warning for warning in summary.warnings)
        assert [
            (finding.code, finding.paths)
            for finding in validate_manifest(manifest.path, files=False)
        ] == [("HP704", ("copy",))]


class TestDiff:
    def test_everything_that_changed_is_named(self, tmp_path: Path) -> None:
        rows = many_rows(60)
        before, _ = build(tmp_path, rows, name="before")
        changed = [dict(row) for row in rows[1:]] + [tile_row("new", {1: 3})]
        changed[1] |= {"image_digest": "other"}
        changed[2] |= {"mask_digest": "other"}
        changed[8] |= {
            name: value
            for name, value in tile_row(changed[8]["tile_id"], {1: 9}).items()
            if name.startswith(("label", "mask"))
        }
        after, _ = build(tmp_path, changed, name="after", seed=9)
        change = diff_manifests(before, after)
        assert change.added == ("new",) and change.removed == ("t0000",)
        assert change.changed_images == ("t0002",) and change.changed_masks == ("t0003", "t0009")
        assert change.moved_pool == (("t0009", "unconditional", "conditional"),)
        splits = [
            dict(zip(*value.read(["tile_id", "split"]).to_pydict().values(), strict=True))
            for value in (before, after)
        ]
        both = sorted({*splits[0]} & {*splits[1]})
        assert change.moved_split == tuple(
            (tile, splits[0][tile], splits[1][tile])
            for tile in both
            if splits[0][tile] != splits[1][tile]
        )
        assert change.moved_split and change.label_map == ()

    def test_a_manifest_does_not_differ_from_itself(self, tmp_path: Path) -> None:
        manifest, _ = build(tmp_path, many_rows(30))
        assert diff_manifests(manifest, manifest).empty

    def test_label_maps_are_compared(self, tmp_path: Path) -> None:
        other = LabelMap(
            "other",
            LABELS.sources[:3],
            (*LABELS.classes[:2], TargetClass(4, "cancer", "#222222", 1.0)),
            {0: 0, 1: 4, 2: 1},
        )
        rows = [tile_row(f"t{index}", {1: 50}) for index in range(20)]
        first, second = (
            build(tmp_path, rows, name="one")[0],
            build(tmp_path, rows, other, name="two")[0],
        )
        change = diff_manifests(first, second).label_map
        assert [line.split(":")[0] for line in change] == ["class 4", "label 1", "label 7"]
        assert "tumour" in change[0] and "cancer" in change[0] and change[2].endswith("unmapped")


def test_written_and_read_manifests_are_equal(tmp_path: Path) -> None:
    manifest, _ = build(tmp_path, many_rows(30))
    header = {
        name: manifest.header[name]
        for name in (
            "root",
            "unlabelled_roots",
            "tiles_digest",
            "recipe",
            "certificate",
            "excluded",
        )
    }
    copy = tmp_path / "copy.parquet"
    assert write_manifest(copy, manifest.iter_batches(rows=4), LABELS, header) == 30
    assert copy.read_bytes() == manifest.path.read_bytes()
