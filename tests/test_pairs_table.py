"""`--pairs`: what a table of images and masks says, and what it cannot say."""

from __future__ import annotations

from pathlib import Path

import pytest
from audit_cases import DataSet
from layouts import classes, save, tissue

from histoprep.errors import UsageError
from histoprep.scanning import Issue, IssueKind, Pair, ScanOptions, scan


def make(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root


def pairs_of(root: Path, text: str | bytes, **options: object) -> tuple[list[Pair], list[Issue]]:
    table = root.parent / "pairs.csv"
    table.write_bytes(text if isinstance(text, bytes) else text.encode())
    issues: list[Issue] = []
    found = scan(root, ScanOptions(pairs=table, **options), issues.append)  # type: ignore[arg-type]
    return list(found), issues


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make(tmp_path / "data", "p/2/x.jpg", "p/1/x.jpg", "gt/m1.png", "gt/m2.png", "other.png")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize(
    "start", ["", "./", "data/", "D:\\me\\", "D:/me/", "/elsewhere/", "\\\\nas\\share\\"]
)
def test_files_are_found_by_path_or_the_end_of_it(root: Path, start: str, encoding: str) -> None:
    slash = "\\" if "\\" in start else "/"
    cells = [
        tuple(
            f"{start}{path}".replace("/", slash) if "\\" in start else f"{start}{path}"
            for path in row
        )
        for row in (("p/2/x.jpg", "gt/m2.png"), ("p/1/x.jpg", "gt/m1.png"))
    ]
    text = "Image;Mask;Case;Split\n" + "".join(
        f"{image};{mask};c;{split}\n"
        for (image, mask), split in zip(cells, ("Testing", "train"), strict=True)
    )
    found, issues = pairs_of(root, text.encode(encoding))
    assert found == [
        Pair("p/1/x", "p/1/x.jpg", "gt/m1.png", "c", "train", None, False, None),
        Pair("p/2/x", "p/2/x.jpg", "gt/m2.png", "c", "test", None, False, None),
    ]
    assert issues == []


def test_absolute_paths_below_the_root(root: Path) -> None:
    found, _ = pairs_of(root, f"image,mask\n{root}/p/1/x.jpg,{root}/gt/m1.png\n")
    assert [(pair.image_path, pair.mask_path) for pair in found] == [("p/1/x.jpg", "gt/m1.png")]


def test_two_columns_without_a_header(root: Path) -> None:
    found, _ = pairs_of(root, "p/1/x.jpg,gt/m1.png\np/2/x.jpg,gt/m2.png\n")
    assert [pair.mask_path for pair in found] == ["gt/m1.png", "gt/m2.png"]


def test_an_empty_cell_is_a_tile_without_a_mask(root: Path) -> None:
    found, issues = pairs_of(root, "image,mask,label\np/1/x.jpg,,adenoma\n")
    assert [(pair.mask_path, pair.label) for pair in found] == [(None, "adenoma")]
    assert issues == []


def test_options_go_before_the_columns_of_the_table(root: Path) -> None:
    text = "image,mask,group\np/1/x.jpg,gt/m1.png,g\n"
    assert pairs_of(root, text)[0][0].group == "g"
    assert pairs_of(root, text, group_by=r"p/(\d)")[0][0].group == "1"


def test_a_file_that_is_not_there_is_an_issue_and_its_tile_stays(root: Path) -> None:
    found, issues = pairs_of(root, "image,mask\np/1/x.jpg,gt/m9.png\np/2/x.jpg,gt/m2.png\n")
    assert [pair.mask_path for pair in found] == ["gt/m9.png", "gt/m2.png"]
    assert issues == [
        Issue(
            IssueKind.PAIRS_MISSING,
            "gt/m9.png",
            "row 2 of pairs.csv; there is no such file below ROOT",
        )
    ]


def test_tile_ids_stay_unique(tmp_path: Path) -> None:
    root = make(tmp_path / "data", "a.jpg", "a.png", "m.png")
    found, _ = pairs_of(root, "image,mask\na.jpg,m.png\na.png,m.png\n")
    assert [pair.tile_id for pair in found] == ["a", "a.png"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image,truth\np/1/x.jpg,gt/m1.png\n", "lacks a column"),
        ("", "lacks a column"),
        (
            "image,mask\np/1/x.jpg,gt/m1.png\np/1/x.jpg,gt/m2.png\n",
            "row 3 names an image for the sec",
        ),
        ("image,mask\n,gt/m1.png\n", "row 2 names no image"),
        ("image,mask,split\np/1/x.jpg,gt/m1.png,dev\n", "row 2 names an unknown split"),
        ("image,mask\nq/1/y.jpg,gt/m1.png\n", "no image that the table names is there"),
        ("image,mask\nC:\\x.jpg,gt/m1.png\n", "fits several files"),
        ("image,mask\n../outside.png,gt/m1.png\n", "outside of the data set"),
        ("image,mask\n", "has no row"),
        ("image,mask,split\np/1/x.jpg\n", "row 2 has another number of cells"),
        ("image,mask\np/1/x.jpg,gt/m1.png,more\n", "row 2 has another number of cells"),
    ],
)
def test_tables_that_are_refused(root: Path, text: str, words: str) -> None:
    make(root.parent, "outside.png")
    with pytest.raises(UsageError, match=words) as caught:
        pairs_of(root, text)
    assert caught.value.path == str(root.parent / "pairs.csv") and caught.value.seen is not None


def test_links_and_hidden_folders_are_not_searched(root: Path) -> None:
    make(root, ".cache/p/3/x.jpg")
    (root / "loop").symlink_to(root)
    found, _ = pairs_of(root, "image,mask\nC:\\p\\1\\x.jpg,gt/m1.png\n")
    assert [pair.image_path for pair in found] == ["p/1/x.jpg"]


def test_a_mask_of_two_images_is_an_issue(root: Path) -> None:
    found, issues = pairs_of(root, "image,mask\np/1/x.jpg,gt/m1.png\np/2/x.jpg,gt/m1.png\n")
    assert len(found) == 2
    assert issues == [
        Issue(
            IssueKind.PAIRS_SHARED, "gt/m1.png", "in pairs.csv for 2 images: p/1/x.jpg, p/2/x.jpg"
        )
    ]


def test_cells_at_the_end_may_be_left_out(root: Path) -> None:
    found, _ = pairs_of(root, "image,mask,split,label\np/1/x.jpg,gt/m1.png\n")
    assert found[0].mask_path == "gt/m1.png"


def filled(root: Path, rows: list[tuple[str, str]]) -> Path:
    for seed, (image, mask) in enumerate(rows):
        save(tissue(seed), root / image)
        save(classes(seed), root / mask)
    return root


ROWS = [(f"a/{number}.png", f"b/{number}x.png") for number in range(6)]


def test_swapped_columns_are_refused_with_the_cause(tmp_path: Path) -> None:
    root = filled(tmp_path / "data", ROWS)
    text = "image,mask\n" + "".join(f"{mask},{image}\n" for image, mask in ROWS)
    with pytest.raises(UsageError, match="columns of images and masks seem to be swapped") as error:
        pairs_of(root, text)
    assert "b/0x.png" in str(error.value) and "exchange the names" in str(error.value)
    text = "image,mask\n" + "".join(f"{image},{mask}\n" for image, mask in ROWS)
    assert len(pairs_of(root, text)[0]) == 6
    # Photographs in both columns are a matter of the files.
    for seed, (_, mask) in enumerate(ROWS):
        save(tissue(50 + seed), root / mask)
    assert len(pairs_of(root, text)[0]) == 6


def test_a_file_is_no_mask_of_itself(tmp_path: Path) -> None:
    root = filled(tmp_path / "data", ROWS)
    text = "image,mask\n" + "".join(f"{image},{image}\n" for image, _ in ROWS)
    with pytest.raises(UsageError, match="one file as the image and as its mask"):
        pairs_of(root, text)


def test_a_row_of_files_that_never_were_there_is_a_fault_of_the_table(tmp_path: Path) -> None:
    root = filled(tmp_path / "data", ROWS)
    table = tmp_path / "pairs.csv"
    table.write_text("image,mask\n" + "".join(f"{i},{m}\n" for i, m in [*ROWS, ("z.png", "y.png")]))
    data = DataSet(root)
    [found] = [item for item in data.audit(scan={"pairs": table}).findings if item.code == "HP201"]
    assert found.subcode == "absent" and set(found.paths) == {"y.png", "z.png"}
    assert "The table of --pairs names files that are not there" in found.cause
    assert "while the audit ran" not in found.cause and "HP107" in found.suggestion
