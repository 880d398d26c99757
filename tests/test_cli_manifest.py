"""`histoprep manifest`: from files on disk to what is printed, written and returned."""

from __future__ import annotations

import csv
import fcntl
import shlex
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from histoprep.choices import DepthReading
from histoprep.cli import run
from histoprep.cli.manifest import app
from histoprep.errors import ExitCode, HistoprepError, LockedError, UsageError
from histoprep.mask_reading import Reading
from histoprep.schemas.manifest import open_manifest, open_named_manifest
from histoprep.schemas.workspace import Workspace
from histoprep.shards import open_tiles
from histoprep.tiles.table import ensure_tiles

SIDE_PX = 32
MAP = """\
sources: {0: glass, 1: stroma, 2: tumour}
classes: {0: Background, 1: Stroma, 2: Tumour}
map: {glass: Background, stroma: Stroma, tumour: Tumour}
"""

outer = typer.Typer()
outer.add_typer(app, name="manifest")


def _run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(outer, ["manifest", *map(str, arguments)])


def _ok(*arguments: str | Path) -> str:
    result = _run(*arguments)
    assert result.exit_code == ExitCode.OK, result.output
    return result.stdout


def _tile(folder: Path, name: str, label: int | None, seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    Image.fromarray(draw.integers(0, 255, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8)).save(
        folder / f"{name}.jpg"
    )
    if label is not None:
        mask = np.zeros((SIDE_PX, SIDE_PX), dtype=np.uint8)
        mask[4:20, 4:20] = label
        Image.fromarray(mask).save(folder / f"{name}_mask.png")


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of 40 tiles of 10 cases; labels none, 0, 1, 2 in turn."""
    root = tmp_path / "data"
    for index in range(40):
        _tile(root, f"case{index // 4}_{index}", (None, 0, 1, 2)[index % 4], index)
    (tmp_path / "m.yml").write_text(MAP)
    monkeypatch.chdir(tmp_path)
    return root


def _splits(path: Path) -> Mapping[str, str]:
    return dict(
        zip(*open_manifest(path).read(["tile_id", "split"]).to_pydict().values(), strict=True)
    )


@pytest.mark.parametrize("first", [(), ("build",)])
def test_the_command_is_build_when_nothing_else_is_named(
    dataset: Path, first: tuple[str, ...]
) -> None:
    text = _ok(*first, dataset, "--map", "m.yml", "--group-by", "case[0-9]+")
    path = dataset.with_name("data.histoprep") / "manifest.parquet"
    assert str(path) in text.splitlines()
    manifest = open_manifest(path)
    assert len(manifest) == 40 and manifest.root == dataset
    assert manifest.recipe["grouping"] == "case[0-9]+"
    by_case: dict[str, set[str]] = {}
    for tile, split in _splits(path).items():
        by_case.setdefault(tile.partition("_")[0], set()).add(split)
    assert all(len(found) == 1 for found in by_case.values())
    proof = "shared groups 0, shared duplicates 0, shared neighbours 0"
    assert f"{proof}, worst class deviation 0.00 points" in text
    assert [line.split() for line in text.splitlines() if line.startswith(("train", "test"))] == [
        ["train", "36", "18", "18", "9"],
        ["test", "4", "2", "2", "1"],
    ]


def test_options_alone_build_in_the_current_folder(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(dataset)
    _ok("--map", "../m.yml", "--split", "0.5/0.25/0.25")
    assert sorted(
        open_manifest(dataset.with_name("data.histoprep") / "manifest.parquet").certificate[
            "splits"
        ]
    ) == ["test", "train", "val"]


def test_grouping_of_the_last_time_is_kept(dataset: Path) -> None:
    _ok(dataset, "--map", "m.yml", "--group-by", "case[0-9]+")
    _ok(dataset, "--map", "m.yml", "--seed", "5", "--reshuffle")
    assert (
        open_manifest(dataset.with_name("data.histoprep") / "manifest.parquet").recipe["grouping"]
        == "case[0-9]+"
    )


def test_an_audit_in_between_does_not_cost_the_grouping(dataset: Path) -> None:
    for options in (["--group-by", "case[0-9]+"], []):
        assert run(["audit", str(dataset), "--workers", "1", *options]) == ExitCode.OK
    text = _ok(dataset, "--map", "m.yml")
    assert "certificate: shared groups 0," in text
    splits: dict[str, set[str]] = {}
    for tile, split in _splits(dataset.with_name("data.histoprep") / "manifest.parquet").items():
        splits.setdefault(tile.partition("_")[0], set()).add(split)
    assert {len(found) for found in splits.values()} == {1}


def test_a_split_without_groups_does_not_claim_to_have_checked_them(dataset: Path) -> None:
    text = _ok(dataset, "--map", "m.yml")
    wanted = (
        "certificate: no groups known (--group-by): tiles are split individually, shared duplicates"
        " 0, shared neighbours 0, worst"
    )
    assert wanted in text and "shared groups" not in text
    assert wanted in _ok("show", dataset.with_name("data.histoprep") / "manifest.parquet")


def test_tiles_of_labels_that_the_map_lacks_are_said_with_a_command(dataset: Path) -> None:
    (dataset.parent / "few.yml").write_text("0: 0\n1: 1\n")
    result = _run(dataset, "--map", "few.yml", "--group-by", r"case\d+")
    assert result.exit_code == ExitCode.INCOMPLETE
    output = " ".join(result.output.split())
    assert "warning: 10 tiles left out, since few does not list all of their labels" in output
    assert f"(HP501): histoprep audit {dataset} --map few.yml" in output


def test_a_grouping_that_fits_no_tile_is_refused(dataset: Path) -> None:
    arguments = ["audit", str(dataset), "--workers", "1"]
    assert run([*arguments, "--group-by", "folder"]) == ExitCode.USAGE
    # It is not remembered.
    assert run(arguments) == ExitCode.OK
    for named in (r"patient(\d+)", "folder"):
        error = _run(dataset, "--map", "m.yml", "--group-by", named).exception
        assert isinstance(error, UsageError)
        assert error.what == f"--group-by {named} finds no group for any tile"
        assert error.seen == "tile case0_0" and error.expected
    assert not (dataset.with_name("data.histoprep") / "manifest.parquet").exists()
    _ok(dataset, "--map", "m.yml", "--group-by", r"case(\d+)")


def test_a_refused_grouping_leaves_the_earlier_one(dataset: Path) -> None:
    workspace = dataset.with_name("data.histoprep")
    _ok(dataset, "--map", "m.yml", "--group-by", r"case(\d+)")
    before = [
        (workspace / name).read_bytes()
        for name in ("tiles.parquet", "listing-issues.parquet", "manifest.parquet")
    ]
    # Two tiles of a case on both sides: a refusal that has nothing to do with the pattern.
    dataset.with_name("split.csv").write_text("tile_id,split\ncase0_0,train\ncase0_1,test\n")
    for refused in (
        ["--group-by", r"patient(\d+)"],
        ["--group-by", "case[0-9]", "--split-file", "split.csv"],
        ["--group-by", "("],
    ):
        assert isinstance(_run(dataset, "--map", "m.yml", *refused).exception, UsageError)
        assert [
            (workspace / name).read_bytes()
            for name in ("tiles.parquet", "listing-issues.parquet", "manifest.parquet")
        ] == before
    _ok(dataset, "--map", "m.yml")
    assert open_manifest(workspace / "manifest.parquet").recipe["grouping"] == r"case(\d+)"


def test_a_grouping_that_is_refused_at_first_is_forgotten(dataset: Path) -> None:
    assert isinstance(
        _run(dataset, "--map", "m.yml", "--group-by", r"patient(\d+)").exception, UsageError
    )
    _ok(dataset, "--map", "m.yml")
    assert (
        open_manifest(dataset.with_name("data.histoprep") / "manifest.parquet").recipe["grouping"]
        is None
    )


def test_tiles_without_a_group_are_counted(dataset: Path) -> None:
    result = _run(dataset, "--map", "m.yml", "--group-by", "case[1-9]")
    assert result.exit_code == ExitCode.OK
    output = " ".join(result.stderr.split())
    assert (
        "--group-by case[1-9] finds no group for 4 of 40 tiles, such as case0_0 (HP105): they are"
        " split one by one" in output
    )
    assert "HP105" not in _run(dataset, "--map", "m.yml", "--group-by", "case").stderr


def test_without_a_label_map_labels_are_classes(dataset: Path) -> None:
    result = _run(dataset)
    assert result.exit_code == ExitCode.OK and "no label map" in result.stderr
    assert [
        cls.id
        for cls in open_manifest(
            dataset.with_name("data.histoprep") / "manifest.parquet"
        ).label_map.classes
    ] == [0, 1, 2]


def test_labels_that_are_too_large_for_classes_are_named_with_their_mask(dataset: Path) -> None:
    mask = np.zeros((SIDE_PX, SIDE_PX), dtype=np.uint16)
    for name, label in (("case1_5", 300), ("case3_14", 256), ("case2_9", 255)):
        mask[4:20, 4:20] = label
        Image.fromarray(mask).save(dataset / f"{name}_mask.png")
    error = _run(dataset).exception
    assert isinstance(error, UsageError)
    assert error.what == "labels of 2 masks are too large to be classes (HP505)"
    assert (error.path, error.seen, error.expected) == (
        "case1_5_mask.png",
        "label 300",
        "at most 255",
    ) and "--map" in str(error.hint)
    # 8 bits among 16 may be scaled (HP414): nobody decided.
    assert "HP414" in str(_run(dataset, "--map", "m.yml").exception)
    ensure_tiles(Workspace.of(dataset), reading=Reading(depth=DepthReading.STORED))
    # As the hint says: with a map they do not stop the others.
    assert _run(dataset, "--map", "m.yml").exit_code == ExitCode.INCOMPLETE
    assert len(_splits(dataset.with_name("data.histoprep") / "manifest.parquet")) == 37


def test_files_that_cannot_be_used_are_counted_and_give_3(dataset: Path) -> None:
    (dataset / "case0_2_mask.png").write_bytes(b"no image")
    (dataset / "case0_3.jpg").write_bytes((dataset / "case0_3.jpg").read_bytes()[:300])
    (dataset / "case1_5.jpg").unlink()
    result = _run(dataset, "--map", "m.yml")
    assert result.exit_code == ExitCode.INCOMPLETE
    assert [
        line.split()
        for line in result.stdout.splitlines()
        if "-" in line and line.split()[-1] == "1" and len(line.split()) == 2
    ] == [
        ["orphan-mask", "1"],
        ["image-error", "1"],
        ["mask-error", "1"],
    ]
    assert len(_splits(dataset.with_name("data.histoprep") / "manifest.parquet")) == 37


def test_an_orphan_alone_gives_0(dataset: Path) -> None:
    (dataset / "case1_5.jpg").unlink()
    assert "orphan-mask" in _ok(dataset, "--map", "m.yml")


def test_out_csv_and_split_file(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "split.csv").write_text(
        "tile_id,split\n"
        + "".join(f"case{i // 4}_{i},{'test' if i < 7 else 'train'}\n" for i in range(40))
    )
    _ok(
        dataset,
        "--map",
        "m.yml",
        "--split-file",
        "split.csv",
        "--out",
        "own.parquet",
        "--dataset-csv",
        "dataset.csv",
    )
    assert {
        tile for tile, split in _splits(tmp_path / "own.parquet").items() if split == "test"
    } == {f"case{i // 4}_{i}" for i in range(7)}
    with (tmp_path / "dataset.csv").open(newline="") as stream:
        rows = dict(csv.reader(stream))
    assert rows["case0_0.jpg"] == "" and rows["case0_2.jpg"] == "0 1" and len(rows) == 40


@pytest.mark.parametrize(
    "arguments",
    [
        ("--split", "0.9/0.2"),
        ("--split-method", "file"),
        ("--conditional-threshold", "7"),
        ("--map", "nowhere"),
        ("--group-by", "("),
    ],
)
def test_nonsense_is_a_usage_error(dataset: Path, arguments: tuple[str, ...]) -> None:
    result = _run(dataset, *arguments)
    assert isinstance(result.exception, UsageError), result.output
    assert not (dataset.with_name("data.histoprep") / "manifest.parquet").exists()


@pytest.mark.parametrize(
    ("option", "name"),
    [("--out", "m.parquet"), ("--out", "below/m.parquet"), ("--dataset-csv", "list.png")],
)
def test_nothing_but_a_table_asked_for_is_written_into_the_data_set(
    dataset: Path, option: str, name: str
) -> None:
    before = sorted(dataset.rglob("*"))
    result = _run(dataset, "--map", "m.yml", option, dataset / name)
    assert isinstance(result.exception, UsageError) and "must not mix with the data set" in str(
        result.exception
    )
    assert option in str(result.exception) and sorted(dataset.rglob("*")) == before
    _ok(dataset, "--map", "m.yml", "--dataset-csv", dataset / "dataset.csv")
    assert (dataset / "dataset.csv").exists()


def test_a_second_process_is_turned_away(dataset: Path) -> None:
    folder = dataset.with_name("data.histoprep")
    folder.mkdir()
    # An own descriptor: to flock, that is another process.
    with (folder / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert isinstance(_run(dataset).exception, LockedError)


def test_check_show_and_diff(dataset: Path, tmp_path: Path) -> None:
    _ok(dataset, "--map", "m.yml", "--out", "a.parquet")
    _ok(dataset, "--map", "m.yml", "--out", "b.parquet", "--seed", "1")
    assert "fine" in _ok("check", "a.parquet", "--digests")
    shown = _ok("show", "a.parquet")
    assert "40 tiles" in shown and "Tumour" in shown and "seed" in shown
    assert _ok("diff", "a.parquet", "a.parquet").strip() == "no difference"
    differing = _run("diff", "a.parquet", "b.parquet")
    before, after = _splits(tmp_path / "a.parquet"), _splits(tmp_path / "b.parquet")
    moved = [tile for tile in before if before[tile] != after[tile]]
    assert differing.exit_code == ExitCode.FINDINGS
    assert differing.stdout.splitlines()[0] == f"in another split: {len(moved)}"
    # Same size, other bytes: only a digest can tell.
    image = bytearray((dataset / "case3_12.jpg").read_bytes())
    image[-20] ^= 1
    (dataset / "case3_12.jpg").write_bytes(image)
    (dataset / "case4_17_mask.png").unlink()
    result = _run("check", "a.parquet")
    assert (
        result.exit_code == ExitCode.FINDINGS
        and "HP903" in result.stdout
        and "HP902" not in result.stdout
    )
    result = _run("check", "a.parquet", "--digests")
    assert (
        "HP902" in result.stdout
        and "case3_12.jpg" in result.stdout
        and "case4_17_mask.png" in result.stdout
    )


def test_a_path_that_is_no_manifest_is_an_error(tmp_path: Path) -> None:
    assert isinstance(_run("show", tmp_path / "none.parquet").exception, UsageError)
    (tmp_path / "junk.parquet").write_bytes(b"junk")
    assert isinstance(_run("show", tmp_path / "junk.parquet").exception, HistoprepError)
    assert isinstance(_run("check", tmp_path / "junk.parquet").exception, HistoprepError)


@pytest.mark.parametrize("command", ["show", "diff"])
def test_what_is_no_manifest_is_wrong_use_and_nobody_is_told_to_delete_it(
    tmp_path: Path, command: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "own.csv").write_text("tile_id,split\n")
    for name, what in (
        ("folder", "this is a folder, not a manifest"),
        ("own.csv", "this is no Parquet file, and so no manifest"),
    ):
        error = _run(command, *[tmp_path / name] * (1 + (command == "diff"))).exception
        assert isinstance(error, UsageError) and error.what == what
        assert "manifest.parquet" in str(error.hint) and "delete" not in str(error)


def test_real_cases_stay_whole(shared_data: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    _ok(
        shared_data / "ebhi_seg",
        "--workspace",
        tmp_path / "ws",
        "--group-by",
        r"GT(\d+)",
        "--split",
        "0.8/0.1/0.1",
        "--out",
        path,
    )
    where: dict[str, set[str]] = {}
    for row in open_manifest(path).read(["group", "split"]).to_pylist():
        if row["group"] is not None:
            where.setdefault(row["group"], set()).add(row["split"])
    assert len(where) > 50 and all(len(found) == 1 for found in where.values())
    assert open_manifest(path).certificate["worst_class"]["points"] < 3


SKIN_LIKE = "sources: {{{}}}\nclasses: {{0: none, 1: a, 2: b, 3: c, 4: d}}\nmap: {{{}}}\n".format(
    ", ".join(f"{number}: label {number}" for number in range(20)),
    ", ".join(f"{number}: {number % 5}" for number in range(20)),
)


def test_masks_that_hold_classes_already_are_not_mapped_again(tmp_path: Path) -> None:
    (tmp_path / "skin.yml").write_text(SKIN_LIKE)
    for index in range(30):
        _tile(tmp_path / "data", f"case{index}", 1 + index % 4, index)
    command = (tmp_path / "data", "--map", tmp_path / "skin.yml")
    refused = _run(*command)
    assert isinstance(refused.exception, UsageError)
    assert "HP508 already-remapped" in str(refused.exception) and "--force" in str(
        refused.exception
    )
    assert not (tmp_path / "data.histoprep" / "manifest.parquet").exists()
    _ok(*command, "--force")
    # Each label to itself does no harm.
    _ok(tmp_path / "data")


class TestSplitsOfOtherTools:
    """Split files as CLAM, VOC and spreadsheets write them."""

    @staticmethod
    def _names(dataset: Path) -> list[str]:
        return sorted(path.stem for path in dataset.rglob("*.jpg"))

    @staticmethod
    def _split_of(name: str) -> str:
        return "test" if name.startswith("case9") else "train"

    def test_bare_file_names_of_another_machine(self, dataset: Path) -> None:
        table = dataset.parent / "split.csv"
        rows = [
            f"C:\\me\\{name}.jpg;{self._split_of(name).title()}\r\n"
            for name in self._names(dataset)
        ]
        table.write_bytes(("File;Set\r\n" + "".join(rows)).encode("utf-16"))
        _ok(dataset, "--split-file", table)
        assert _splits(Workspace.of(dataset).manifest) == {
            name: self._split_of(name) for name in self._names(dataset)
        }

    def test_a_column_of_slides_for_each_split(self, dataset: Path) -> None:
        table = dataset.parent / "splits_0.csv"
        cases = [f"case{number}" for number in range(10)]
        table.write_text(
            ",train,val,test\n"
            + "".join(f"{at},{case},,{'case9' * (at == 0)}\n" for at, case in enumerate(cases[:9]))
        )
        _ok(dataset, "--split-file", table)
        assert _splits(Workspace.of(dataset).manifest) == {
            name: self._split_of(name) for name in self._names(dataset)
        }

    def test_lists_of_names(self, dataset: Path) -> None:
        lists = dataset.parent / "ImageSets"
        lists.mkdir()
        for split in ("train", "test"):
            names = [name for name in self._names(dataset) if self._split_of(name) == split]
            (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
        _ok(dataset, "--split-file", lists)
        assert _splits(Workspace.of(dataset).manifest) == {
            name: self._split_of(name) for name in self._names(dataset)
        }

    def test_the_longest_end_of_a_path_of_another_machine_decides(self, dataset: Path) -> None:
        name = self._names(dataset)[0]
        for slide in ("S2", "S3"):
            _tile(dataset / slide, "0_0", 1, int(slide[1]))
        table = dataset.parent / "split.csv"
        # All paths of the table lie in one folder, whose name is that of a slide.
        table.write_text(f"image,split\n{name},train\nD:\\me\\S3\\0_0.jpg,test\n")
        result = _run(dataset, "--split-file", table, "--no-groups")
        assert result.exit_code == 0
        assert _splits(Workspace.of(dataset).manifest)["S3/0_0"] == "test"

    def test_a_name_of_two_tiles_decides_nothing(self, dataset: Path) -> None:
        name = self._names(dataset)[0]
        _tile(dataset / "more", name, 1, 999)
        table = dataset.parent / "split.csv"
        table.write_text(f"image,split\n{name},train\n")
        result = _run(dataset, "--split-file", table, "--no-groups")
        assert isinstance(result.exception, UsageError)
        assert "fits several tiles" in str(result.exception)
        everything = sorted(self._names(dataset))
        table.write_text(
            "image,split\n" + "".join(f"/x/{n}.jpg,train\n" for n in dict.fromkeys(everything))
        )
        result = _run(dataset, "--split-file", table)
        assert isinstance(result.exception, UsageError)
        assert "fits several tiles" in str(result.exception)


def test_masks_of_which_none_has_an_image_are_no_reason_for_tiles_without(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for index in range(6):
        _tile(root / "images", f"a{index}", None, index)
        _tile(root / "masks", f"b{7 * index}", None, index)
        (root / "masks" / f"b{7 * index}.jpg").unlink()
        Image.fromarray(np.eye(SIDE_PX, dtype=np.uint8)).save(root / "masks" / f"q{index * 5}.png")
    error = _run(root).exception
    assert isinstance(error, UsageError)
    assert error.what == "no mask has an image (HP101 orphan-mask)"
    assert error.seen == "6 images, 6 masks, and no pair"
    assert f"histoprep audit {root}" in str(error.hint)
    assert _run(root, "--force").exit_code == ExitCode.OK
    assert len(open_manifest(Workspace.of(root).manifest)) == 6


def test_the_last_lines_are_the_next_commands(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a command prints as the next one runs as it stands, to the end of the toolkit's part."""
    words = ["audit", str(dataset), "--map", "m.yml", "--workers", "1"]
    seen = []
    for _ in range(3):
        assert run(words) == 0
        printed = capsys.readouterr().err.splitlines()
        following = [line.removeprefix("next: ") for line in printed if line.startswith("next: ")]
        assert len(following) <= 2 and printed[-len(following) :] == [
            f"next: {x}" for x in following
        ]
        seen.append(words[0])
        words = next(
            (shlex.split(line)[1:] for line in reversed(following) if line.startswith("histoprep")),
            [],
        )
        if not words:
            break
    assert seen == ["audit", "manifest", "shard"]
    assert following == [
        f"trainer fit --manifest {dataset.with_name('data.histoprep')}/shards --preset codec-tiny"
    ]


@pytest.mark.parametrize("where", ["results", "data"])
@pytest.mark.parametrize("command", ["check", "shard"])
def test_a_folder_in_the_place_of_a_manifest_leads_to_it(
    dataset: Path, where: str, command: str
) -> None:
    _ok(dataset)
    manifest = Workspace.of(dataset).manifest
    folder = manifest.parent if where == "results" else dataset
    with pytest.raises(UsageError) as caught:
        if command == "check":
            open_named_manifest(folder)
        else:
            open_tiles(folder).table  # noqa: B018
    assert caught.value.what == "this is a folder, not a manifest"
    assert str(caught.value.hint) == f"name the manifest {manifest}"
    (dataset / "sub").mkdir()
    with pytest.raises(UsageError, match="folder"):
        open_named_manifest(dataset / "sub")
