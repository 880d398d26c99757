"""Class counts against a pixel-by-pixel oracle, their laws, the published shares and what is
written.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections import Counter
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from histoprep import tables
from histoprep.counting import (
    COLUMNS,
    as_json,
    class_weights,
    compute_stats,
    count,
    csv_text,
    long_table,
    shares_by,
    summarise,
    write_stats,
)
from histoprep.counting.plot import draw_shares
from histoprep.errors import IntegrityError, LockedError, UsageError
from histoprep.labels import (
    LabelMap,
    SourceLabel,
    TargetClass,
    find_label_map,
    identity_map,
    load_label_map,
)
from histoprep.schemas import tiles
from histoprep.schemas.stats import SCHEMA
from histoprep.schemas.workspace import Workspace

# Labels 0-6; 5 becomes unknown, 6 is not in the map; class 2 is thin by nature, class 3 must be
# thick.
MAP = LabelMap(
    "three",
    tuple(SourceLabel(number, f"tissue {number}") for number in range(6)),
    (
        TargetClass(0, "unknown", "#888888"),
        TargetClass(1, "one", "#aa0000"),
        TargetClass(2, "thin", "#00aa00", min_radius_px=1.0),
        TargetClass(3, "thick", "#0000aa", min_radius_px=4.0),
        TargetClass(9, "never", "#00aaaa"),
    ),
    {0: 0, 1: 1, 2: 1, 3: 2, 4: 3, 5: 0},
)


def tile_row(
    tile_id: str, mask: np.ndarray | None, *, group: str | None = None, split: str | None = None
) -> dict[str, object]:
    """Return a row of the tiles table, its lists measured with NumPy and SciPy alone."""
    row: dict[str, object] = {
        "tile_id": tile_id,
        "group": group,
        "split": split,
        "image_path": f"{tile_id}.jpg",
    }
    if mask is None:
        return row
    ids, pixels = np.unique(mask, return_counts=True)
    cores = [
        int(ndimage.binary_erosion(mask == identifier, np.ones((5, 5)), border_value=1).sum())
        for identifier in ids
    ]
    radii = [
        (
            float(ndimage.distance_transform_edt(mask == identifier).max())
            if len(ids) > 1
            else min(mask.shape) / 2
        )
        for identifier in ids
    ]
    lists = {
        "label_ids": ids.tolist(),
        "label_pixels": pixels.tolist(),
        "label_core_pixels": cores,
        "label_radius_px": radii,
    }
    return row | {"mask_path": f"{tile_id}_mask.png"} | lists


def tiles_table(rows: list[dict[str, object]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=tiles.SCHEMA)


def blocky_mask(rng: np.random.Generator, num_labels: int = 7) -> np.ndarray:
    """Return a mask [24, 24] with regions 1 to 12 px thick."""
    cell = int(rng.choice([1, 2, 3, 4, 6, 12]))
    few = rng.choice(num_labels, size=int(rng.integers(1, 4)), replace=False)
    return np.kron(
        rng.choice(few, size=(24 // cell, 24 // cell)), np.ones((cell, cell), int)
    ).astype(np.uint8)


def random_rows(seed: int, number: int) -> list[dict[str, object]]:
    rng = np.random.default_rng(seed)
    rows = []
    for index in range(number):
        mask = None if rng.random() < 0.15 else blocky_mask(rng)
        rows.append(
            tile_row(
                f"t{seed}_{index:03d}",
                mask,
                group=rng.choice(["a", "b", None]),
                split=rng.choice(["train", "val", None]),
            )
        )
    return rows


def all_mapped(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Return the rows without label 6, which is not in the map."""
    return [row for row in rows if 6 not in (row.get("label_ids") or [])]


def oracle(rows: list[dict[str, object]]) -> tuple[Counter, Counter, Counter, Counter]:
    """Return the tiles, classes, cooccurrence and unmapped counts by plain loops over the lists."""
    num_tiles, classes, pairs, unmapped = Counter(), Counter(), Counter(), Counter()
    for row in rows:
        lists = zip(
            *(
                row.get(name) or []
                for name in ("label_ids", "label_pixels", "label_core_pixels", "label_radius_px")
            ),
            strict=True,
        )
        present: dict[int, list[tuple[int, int, float]]] = {}
        for label, *figures in lists:
            if label in MAP.mapping:
                present.setdefault(MAP.mapping[label], []).append(tuple(figures))
            else:
                unmapped[label, "tiles"] += 1
                unmapped[label, "pixels"] += figures[0]
        pool = "conditional" if any(present.keys() - {0}) else "unconditional"
        key = (row["split"] or "", pool, row["group"] or "")
        num_tiles[key] += 1
        whole = sum(figures[0] for each in present.values() for figures in each)
        for value, each in present.items():
            needed = next(target.min_radius_px for target in MAP.classes if target.id == value)
            core = any(radius > needed if needed != 2.0 else cores > 0 for _, cores, radius in each)
            pixels, cores = (sum(figures[place] for figures in each) for place in (0, 1))
            amounts = {
                "tiles": 1,
                "core_tiles": int(core),
                "pixels": pixels,
                "core_pixels": cores,
                "tile_pixels": whole,
            }
            for name, amount in amounts.items():
                classes[*key, value, name] += amount
        pairs.update(combinations(sorted(present), 2))
    return num_tiles, classes, pairs, unmapped


def as_counters(counts) -> tuple[Counter, Counter, Counter, Counter]:
    names = ["tiles", "core_tiles", "pixels", "core_pixels", "tile_pixels"]
    classes = Counter()
    for row in counts.classes.to_dict("records"):
        for name in names:
            classes[row["split"], row["pool"], row["group"], row["class_id"], name] = row[name]
    return (
        Counter(
            {
                (row["split"], row["pool"], row["group"]): row["tiles"]
                for row in counts.tiles.to_dict("records")
            }
        ),
        classes,
        Counter(
            {
                (row["class_a"], row["class_b"]): row["tiles"]
                for row in counts.cooccurrence.to_dict("records")
            }
        ),
        Counter(
            {
                (row["label_id"], name): row[name]
                for row in counts.unmapped.to_dict("records")
                for name in ("tiles", "pixels")
            }
        ),
    )


def assert_same(first, second) -> None:
    for name in ("tiles", "classes", "cooccurrence", "unmapped"):
        a, b = getattr(first, name), getattr(second, name)
        assert a.to_dict("records") == b.to_dict("records"), name
        assert list(a.columns) == list(b.columns), name


@pytest.mark.parametrize("seed", range(6))
def test_counts_are_those_of_plain_loops(seed):
    rows = random_rows(seed, 60)
    got = as_counters(count(tiles_table(rows), MAP))
    for mine, expected in zip(got, oracle(rows), strict=True):
        assert +mine == +expected
    assert len(got[2]) > 2 and got[3][6, "tiles"] > 0, "the rows are too plain to test anything"


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    cuts=st.lists(st.integers(0, 40), max_size=4),
    shuffled=st.randoms(use_true_random=False),
)
@pytest.mark.slow
def test_counts_add_up_for_any_partition_and_order(seed, cuts, shuffled):
    rows = random_rows(seed, 40)
    whole = count(tiles_table(rows), MAP)
    shuffled.shuffle(rows)
    bounds = [0, *sorted(cuts), len(rows)]
    parts = [count(tiles_table(rows[a:b]), MAP) for a, b in pairwise(bounds)]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    assert_same(total, whole)


def test_a_slice_and_a_chunked_table_count_the_same():
    rows = random_rows(3, 30)
    table = tiles_table(rows)
    chunked = pa.concat_tables([table.slice(0, 7), table.slice(7, 5), table.slice(12)])
    assert_same(count(chunked, MAP), count(table, MAP))
    assert_same(count(table.slice(5, 11), MAP), count(tiles_table(rows[5:16]), MAP))


def test_orphans_broken_masks_and_colour_masks_are_not_counted():
    good = tile_row("good", np.full((24, 24), 1, np.uint8))
    orphan = tile_row("orphan", np.full((24, 24), 2, np.uint8)) | {"image_path": None}
    broken = {
        "tile_id": "broken",
        "image_path": "broken.jpg",
        "mask_path": "broken_mask.png",
        "mask_error": "truncated",
    }
    colour = {
        "tile_id": "colour",
        "image_path": "colour.jpg",
        "mask_path": "colour_mask.png",
        "mask_colours": 9,
    }
    table = tiles_table([good, orphan, broken, colour])
    counts = count(table, MAP)
    assert counts.num_tiles == 1
    assert counts.classes["pixels"].tolist() == [576]


def test_a_tile_whose_lists_differ_in_length_is_refused():
    row = tile_row("bad", np.eye(24, dtype=np.uint8)) | {"label_core_pixels": [1]}
    with pytest.raises(IntegrityError, match="differ in length"):
        count(tiles_table([tile_row("fine", None), row]), MAP)


def test_the_pool_is_decided_after_mapping():
    zero, unknown, unlisted, real = (np.full((24, 24), item, np.uint8) for item in (0, 5, 6, 1))
    rows = [
        tile_row(str(index), mask)
        for index, mask in enumerate((zero, unknown, unlisted, None, real))
    ]
    pools = count(tiles_table(rows), MAP).tiles.set_index("pool")["tiles"].to_dict()
    assert pools == {"conditional": 1, "unconditional": 4}


def test_unmapped_labels_name_their_first_tile_and_are_in_no_share():
    mask = np.full((24, 24), 1, np.uint8)
    mask[:12] = 6
    counts = count(tiles_table([tile_row("b", mask), tile_row("a", mask)]), MAP)
    assert counts.unmapped.to_dict("records") == [
        {"label_id": 6, "tiles": 2, "pixels": 576, "example": "a"}
    ]
    summary = summarise(counts, MAP)
    assert summary.num_pixels == 576
    assert summary.classes.set_index("class_id")["pixel_percent"][1] == 100.0


def test_shares_and_the_square_of_pairs():
    rows = random_rows(11, 80)
    summary = summarise(count(tiles_table(rows), MAP), MAP)
    assert summary.classes["pixel_percent"].sum() == pytest.approx(100)
    square = summary.cooccurrence
    assert (square.to_numpy() == square.to_numpy().T).all()
    assert np.diag(square).tolist() == summary.classes["tiles"].tolist()
    together = sum(
        {1, 2} & set(row.get("label_ids") or []) != set() and 3 in row["label_ids"]
        for row in rows
        if row.get("label_ids")
    )
    assert square.loc[1, 2] == together > 0
    assert square.loc[9].sum() == 0


@pytest.mark.parametrize("by", ["split", "pool", "group"])
def test_a_breakdown_adds_up_to_the_whole(by):
    summary = summarise(count(tiles_table(random_rows(5, 80)), MAP), MAP, [by])
    parts = summary.breakdown.groupby("class_id")[["tiles", "core_tiles", "pixels"]].sum()
    whole = summary.classes[summary.classes["tiles"] > 0].set_index("class_id")
    assert parts.equals(whole[["tiles", "core_tiles", "pixels"]])
    shares = summary.breakdown.groupby("key")["pixel_percent"].sum()
    assert shares.to_numpy() == pytest.approx(100)
    item = summary.breakdown.iloc[0]
    sizes = summary.tiles[summary.tiles["by"] == by].set_index("key")["tiles"]
    assert item["tile_percent"] == pytest.approx(100 * item["tiles"] / sizes[item["key"]])
    assert set(summary.breakdown["by"]) == {by}
    assert summary.tiles["tiles"].tolist()[0] == summary.tiles["tiles"][1:].sum() == 80


def test_shares_by_group_are_a_table_of_classes_and_groups():
    summary = summarise(count(tiles_table(random_rows(5, 80)), MAP), MAP)
    table = shares_by(summary, "group")
    assert list(table.columns) == ["class_id", "class_name", "-", "a", "b"]
    assert table[["-", "a", "b"]].sum().to_numpy() == pytest.approx(100)
    assert table["class_name"].tolist() == [cls.name for cls in MAP.classes]


def test_weights_are_their_formulas():
    import pandas as pd

    classes = pd.DataFrame(
        {"pixels": [800, 150, 50, 0], "tile_pixels": [1000, 500, 200, 0], "tiles": [10, 5, 2, 0]}
    )
    weights = class_weights(classes, beta=0.9)
    inverse = np.array([1 / 0.8, 1 / 0.15, 1 / 0.05])
    frequency = np.array([0.8, 0.3, 0.25])
    effective = np.array([sum(0.9**power for power in range(n)) for n in (10, 5, 2)])
    expected = {
        "weight_inverse": inverse,
        "weight_median": np.median(frequency) / frequency,
        "weight_effective": 1 / effective,
    }
    for name, values in expected.items():
        assert weights[name][:3] == pytest.approx(values / values.mean())
        assert np.isnan(weights[name][3])


# Source labels by their class in the 5- and the 10-class map, with a share that rounds to the
# published figures of both.
PUBLISHED = {
    (0, 0): (74.012, [0]),
    (3, 0): (0.02, [27]),
    (1, 1): (3.37, [1]),
    (1, 2): (0.92, [2]),
    (3, 3): (1.45, [3, 4, 16, 24, 25, 30, 31, 32, 35, 36, 37, 40]),
    (4, 4): (7.65, [28, 29]),
    (4, 5): (0.60, [41, 42]),
    (4, 6): (5.56, [43, 44, 45, 46, 47, 48, 49, 50, 51, 53, 54]),
    (2, 7): (0.884, [10, 11, 12, 13, 14, 15, 26, 34]),
    (2, 8): (4.734, [19, 20, 38, 52]),
    (3, 9): (0.80, [5, 6, 7, 8, 9, 17, 18, 21, 22, 23, 33, 39]),
}
SHARES_5 = [74.01, 4.29, 5.62, 2.27, 13.81]
SHARES_10 = [74.03, 3.37, 0.92, 1.45, 7.65, 0.60, 5.56, 0.88, 4.73, 0.80]


def published_rows() -> list[dict[str, object]]:
    """Return tiles, three labels each, whose pixels add up to the published shares of a billion."""
    amounts: list[tuple[int, int]] = []
    for share, members in PUBLISHED.values():
        parts = np.arange(1, len(members) + 1) / sum(range(1, len(members) + 1))
        pixels = np.rint(share * 1e7 * parts).astype(int)
        amounts += zip(members, pixels.tolist(), strict=True)
    # Each label's pixels in three tiles, each tile with up to three labels.
    pieces = [
        (label, pixels // 3 + (pixels % 3 if turn == 0 else 0))
        for turn in range(3)
        for label, pixels in amounts
    ]
    rows = []
    for index in range(0, len(pieces), 3):
        some = dict(sorted(pieces[index : index + 3]))
        cores = {"label_core_pixels": [1] * len(some), "label_radius_px": [3.0] * len(some)}
        lists = {"label_ids": list(some), "label_pixels": list(some.values()), **cores}
        rows.append(
            {
                "tile_id": f"p{index}",
                "image_path": f"p{index}.jpg",
                "mask_path": f"p{index}_mask.png",
                **lists,
            }
        )
    return rows


@pytest.mark.parametrize(
    ("name", "shares"), [("label_map_5", SHARES_5), ("label_map_10", SHARES_10)]
)
def test_published_shares_are_reproduced_from_raw_counts(name, shares):
    assert sorted(label for _, members in PUBLISHED.values() for label in members) == list(
        range(55)
    )
    label_map = load_label_map(find_label_map(name))
    summary = summarise(count(tiles_table(published_rows()), label_map), label_map)
    assert summary.classes["pixel_percent"].round(2).tolist() == shares
    assert summary.unmapped.empty


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    (tmp_path / "set").mkdir()
    found = Workspace.of(tmp_path / "set")
    found.folder.mkdir()
    return found


def publish(workspace: Workspace, rows: list[dict[str, object]]) -> None:
    tables.write_table(
        workspace.tiles,
        [tiles_table(rows)],
        tiles.SCHEMA,
        kind=tiles.KIND,
        schema_version=tiles.SCHEMA_VERSION,
        metadata={},
    )


def publish_manifest(
    workspace: Workspace, splits: dict[str, str], pool: str = "conditional"
) -> None:
    schema = pa.schema([(name, pa.string()) for name in ("tile_id", "split", "pool")])
    rows = pa.table(
        {"tile_id": list(splits), "split": list(splits.values()), "pool": [pool] * len(splits)},
        schema=schema,
    )
    tables.write_table(
        workspace.manifest, [rows], schema, kind="manifest", schema_version="1.0", metadata={}
    )


def test_stats_of_a_workspace_are_raw_and_mapped(workspace):
    rows = random_rows(2, 50)
    publish(workspace, rows)
    stats = compute_stats(workspace, MAP, by=("split", "pool", "group"))
    assert_same(count(tiles_table(rows), MAP), count(tiles_table(rows).select(COLUMNS), MAP))
    expected = summarise(count(tiles_table(all_mapped(rows)), MAP), MAP)
    assert stats.mapped is not None and stats.mapped.classes.equals(expected.classes)
    assert stats.mapped.breakdown.equals(expected.breakdown)
    raw = summarise(count(tiles_table(rows), identity_map(range(7))), identity_map(range(7)))
    assert stats.raw.classes["pixels"].tolist() == raw.classes["pixels"].tolist()
    assert stats.raw.classes["class_name"].tolist() == [
        *(f"tissue {number}" for number in range(6)),
        "label 6",
    ]
    assert (
        stats.main is stats.mapped
        and compute_stats(workspace).main.classes["pixels"].sum() == raw.num_pixels
    )


def test_splits_come_from_the_manifest_when_there_is_one(workspace):
    rows = all_mapped(random_rows(4, 50))
    assert len(rows) == 40
    publish(workspace, rows)
    by_table = compute_stats(workspace, MAP, by=["split"])
    assert by_table.split_source == "tiles"
    # The manifest is in another order and does not know the last tile.
    splits = {
        str(row["tile_id"]): "test" if index % 3 else "train" for index, row in enumerate(rows[:-1])
    }
    publish_manifest(workspace, dict(reversed(splits.items())))
    stats = compute_stats(workspace, MAP, by=["split"])
    assert stats.split_source == "manifest"
    found = stats.main.tiles.set_index("key")["tiles"].to_dict()
    assert {key: found[key] for key in ("train", "test")} == {"train": 13, "test": 26}
    assert stats.main.tiles.to_dict("records")[1] == {"by": "split", "key": "", "tiles": 1}
    assert stats.num_unlisted == 1 and by_table.num_unlisted == 0
    moved = [row | {"split": splits.get(str(row["tile_id"]))} for row in rows]
    expected = summarise(count(tiles_table(moved), MAP), MAP, ["split"])
    assert stats.main.breakdown.equals(expected.breakdown)


def test_pools_come_with_the_splits(workspace):
    rows = all_mapped(random_rows(4, 50))
    publish(workspace, rows)
    assert 0 < compute_stats(workspace, MAP).main.num_unconditional < 39
    # The manifest does not know the last tile.
    publish_manifest(
        workspace, {str(row["tile_id"]): "train" for row in rows[:-1]}, pool="unconditional"
    )
    alone = summarise(count(tiles_table(rows[-1:]), MAP), MAP)
    assert compute_stats(workspace, MAP).main.num_unconditional == 39 + alone.num_unconditional


def unusable_rows() -> dict[str, dict[str, object]]:
    """Return a row for every reason to leave a tile out, each with a mask of class 1 but for one
    stripe.
    """
    mask = np.full((24, 24), 1, np.uint8)
    stray = mask.copy()
    stray[:2] = 6
    row = tile_row("u", mask)
    no_labels = dict.fromkeys(("label_ids", "label_pixels", "label_core_pixels", "label_radius_px"))
    return {
        "orphan-mask": row | {"image_path": None},
        "image-error": row | {"image_error": "HP202 truncated-jpeg"},
        "mask-error": row | {"mask_error": "HP201 truncated"},
        "not-a-class-map": row | no_labels,
        "size-mismatch": (
            row | {"width_px": 24, "height_px": 24, "mask_width_px": 24, "mask_height_px": 12}
        ),
        "unmapped-label": tile_row("u", stray),
    }


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("reason", unusable_rows())
def test_what_no_manifest_takes_is_in_no_count(workspace, reason, listed):
    rows = all_mapped(random_rows(4, 40))
    if listed:
        publish_manifest(workspace, {str(row["tile_id"]): "train" for row in rows})
    publish(workspace, rows)
    without = compute_stats(workspace, MAP)
    publish(workspace, [*rows, unusable_rows()[reason]])
    found = compute_stats(workspace, MAP)
    assert found.left_out == {reason: 1} and without.left_out == {}
    assert found.num_unlisted == without.num_unlisted == 0
    for name in ("num_tiles", "num_unconditional", "num_pixels"):
        assert getattr(found.main, name) == getattr(without.main, name)
    for name in ("classes", "breakdown", "tiles", "cooccurrence"):
        assert getattr(found.main, name).equals(getattr(without.main, name)), name
    # Raw labels need no map.
    assert found.raw.num_tiles - without.raw.num_tiles == (reason == "unmapped-label")
    assert len(found.main.unmapped) == (reason == "unmapped-label")


def test_many_row_groups_give_the_same_as_one_table(workspace):
    few = all_mapped(random_rows(8, 70))[:50]
    table = pa.concat_tables([tiles_table(few)] * 1_400)
    tables.write_table(
        workspace.tiles,
        [table],
        tiles.SCHEMA,
        kind=tiles.KIND,
        schema_version=tiles.SCHEMA_VERSION,
        metadata={},
    )
    stats = compute_stats(workspace, MAP)
    once = summarise(count(tiles_table(few), MAP), MAP)
    assert stats.main.num_tiles == 70_000
    assert stats.main.classes["pixels"].tolist() == [1_400 * cls for cls in once.classes["pixels"]]
    assert stats.main.classes["pixel_percent"].to_numpy() == pytest.approx(
        once.classes["pixel_percent"].to_numpy()
    )


def test_nothing_to_count_is_no_error(workspace):
    publish(workspace, [tile_row("only", None)])
    stats = compute_stats(workspace, MAP)
    assert stats.main.num_tiles == 1 and stats.main.num_pixels == 0
    assert np.isnan(stats.main.classes["weight_inverse"]).all()
    write_stats(stats, workspace)


def test_an_unknown_breakdown_is_refused(workspace):
    publish(workspace, [])
    with pytest.raises(UsageError, match="no such breakdown"):
        compute_stats(workspace, MAP, by=["slide"])


def test_what_is_written_reads_back_and_is_the_same_every_time(workspace):
    publish(workspace, random_rows(6, 40))
    stats = compute_stats(workspace, MAP, by=("split", "pool", "group"))
    paths = write_stats(stats, workspace)
    assert [path.name for path in paths] == [
        "stats.parquet",
        "stats.json",
        "pixel_class_percentages.png",
    ]
    first = [path.read_bytes() for path in paths]
    opened, header = tables.open_table(workspace.stats_table, kind="stats", schema_version="1.0")
    table = tables.read_table(opened)
    assert table.schema.names == SCHEMA.names
    assert header["label_map"]["name"] == "three"
    mapped = [row for row in table.to_pylist() if row["labels"] == "mapped" and row["by"] == "all"]
    assert [row["pixels"] for row in mapped] == stats.main.classes["pixels"].tolist()
    assert mapped[4]["weight_inverse"] is None, "a class that does not occur has no weight"
    plain = json.loads(workspace.stats_json.read_text())
    assert plain["mapped"]["cooccurrence"]["tiles"] == stats.main.cooccurrence.to_numpy().tolist()
    assert plain["mapped"]["unmapped"][0]["label_id"] == 6
    write_stats(compute_stats(workspace, MAP, by=("split", "pool", "group")), workspace)
    assert [path.read_bytes() for path in paths] == first


def test_a_second_writer_is_refused(workspace):
    publish(workspace, random_rows(6, 4))
    stats = compute_stats(workspace)
    hold = (
        "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX);"
        " print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", hold, str(workspace.folder / ".lock")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(LockedError):
            write_stats(stats, workspace)
        other.communicate()
    assert not workspace.stats_json.exists()
    write_stats(stats, workspace)


def test_thousands_of_groups_stay_out_of_the_json(workspace):
    mask = np.full((24, 24), 1, np.uint8)
    publish(
        workspace,
        [tile_row(f"t{index}", mask, group=f"g{index}", split="train") for index in range(1_001)],
    )
    stats = compute_stats(workspace, MAP, by=("split", "group"))
    plain = as_json(stats)
    assert plain["only_in_parquet"] == ["group"]
    assert {row["by"] for row in plain["mapped"]["breakdown"]} == {"split"}
    assert (long_table(stats)["by"] == "group").sum() == 2 * 1_001


def test_csv_quotes_what_could_be_a_formula(workspace):
    mask = np.full((24, 24), 1, np.uint8)
    publish(workspace, [tile_row("a", mask, group="=cmd()"), tile_row("b", mask, group="fine")])
    stats = compute_stats(workspace, MAP, by=["group"])
    lines = csv_text(stats).splitlines()
    assert len(lines) == 1 + len(long_table(stats))
    assert any(line.startswith('"mapped","group","=cmd()",1,"one",1,') for line in lines)
    read = list(csv.DictReader(lines))
    assert {row["key"] for row in read} == {"", "=cmd()", "fine"}
    assert [row["weight_inverse"] == "" for row in read] == [
        row["by"] != "all" or row["pixels"] == "0" for row in read
    ]
    assert "nan" not in csv_text(stats).lower()


def test_the_panels_of_the_plot_have_one_scale(workspace: Workspace) -> None:
    publish(workspace, published_rows())
    label_map = load_label_map(find_label_map("label_map_5"))
    stats = compute_stats(workspace, label_map)
    panels = draw_shares(stats).axes
    assert len(panels) == 2 and panels[0].get_xlim() == panels[1].get_xlim()
    longest = [max(bar.get_width() for bar in panel.containers[0]) for panel in panels]
    assert stats.mapped is not None
    for rows, panel in ((stats.mapped.classes, panels[0]), (stats.raw.classes, panels[1])):
        shares = sorted(rows["pixel_percent"][rows["pixels"] > 0].clip(upper=max(longest)))
        drawn = sorted(bar.get_width() for bar in panel.containers[0])
        assert drawn[-len(shares) :] == pytest.approx(shares)


@pytest.mark.slow
def test_the_plot_is_a_image_of_every_label(workspace: Workspace, tmp_path: Path):
    from PIL import Image

    publish(workspace, published_rows())
    sizes = {}
    for name in (None, "label_map_5"):
        label_map = load_label_map(find_label_map(name)) if name else None
        write_stats(compute_stats(workspace, label_map), workspace)
        with Image.open(workspace.stats_plot) as image:
            image.load()
            assert not image.text  # type: ignore[attr-defined]
            sizes[name] = image.size
            ink = np.asarray(image.convert("L")) < 200
        assert 0.01 < ink.mean() < 0.6
    assert sizes["label_map_5"][1] > sizes[None][1] > 1500, "55 labels need their own lines"
