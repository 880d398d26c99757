"""tiles.parquet has the same bytes however it was made, and a file is read again exactly when it
may have changed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import xxhash

from histoprep import tables
from histoprep.cli import main
from histoprep.demo import make_demo
from histoprep.errors import IncompleteError, Interrupted, UsageError
from histoprep.execution import Engine
from histoprep.progress import Advance, silent
from histoprep.scanning import ScanOptions
from histoprep.schemas.workspace import Workspace
from histoprep.tiles import TileOptions
from histoprep.tiles.listing import Listing
from histoprep.tiles.reuse import EarlierTable
from histoprep.tiles.table import TableOptions, TableResult, TileTable
from histoprep.tiles.task import TileTask

TESTS = Path(__file__).parent
ONE = Engine(1)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data set with planted defects, 48 tiles and 5 orphan masks; tests must not change
    it.
    """
    root = tmp_path_factory.mktemp("data") / "demo"
    make_demo(root, num_tiles=48, tile_px=64)
    return root


@pytest.fixture(scope="module")
def whole(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Return the workspace of a table made at once by one worker; tests must not change it."""
    where = Workspace.of(demo, tmp_path_factory.mktemp("whole"))
    made = TileTable(where).build(ONE)
    assert (made.num_tiles, made.num_reused, made.up_to_date) == (made.num_listed, 0, False)
    return where


@pytest.fixture
def own(demo: Path, tmp_path: Path) -> Workspace:
    """Return a copy of the data set that a test may change, with times kept, and an empty
    workspace.
    """
    shutil.copytree(demo, tmp_path / "own")
    return Workspace.of(tmp_path / "own", tmp_path / "workspace")


def build(
    where: Workspace, options: TableOptions | None = None, engine: Engine = ONE
) -> TableResult:
    return TileTable(where, options or TableOptions()).build(engine)


def same(workspace: Workspace, other: Workspace) -> bool:
    """Return whether tables and issues are equal, byte by byte."""
    return all(
        a.read_bytes() == b.read_bytes()
        for a, b in (
            (workspace.tiles, other.tiles),
            (workspace.listing_issues, other.listing_issues),
        )
    )


@pytest.mark.parametrize(
    "workers, partition", [(1, 1000), (1, 64), (2, 7), (3, 1), (2, 10), (1, 1)]
)
def test_bytes_do_not_depend_on_workers_or_partitions(
    workers: int, partition: int, demo: Path, whole: Workspace, tmp_path: Path
) -> None:
    where = Workspace.of(demo, tmp_path)
    made = build(where, TableOptions(partition_tiles=partition), Engine(workers))
    assert same(where, whole)
    assert not list(where.parts.iterdir())
    assert made.num_tiles == pq.read_metadata(whole.tiles).num_rows >= 48


def test_bytes_that_differ_are_seen_control(demo: Path, whole: Workspace, tmp_path: Path) -> None:
    where = Workspace.of(demo, tmp_path)
    build(where, TableOptions(tiles=TileOptions(min_area_px=63)))
    assert not same(where, whole)


PART = """
import sys
from pathlib import Path
from histoprep.execution import Engine
from histoprep.tiles.listing import Listing
from histoprep.tiles.table import TableOptions, TileTable
from histoprep.schemas.workspace import Workspace
root, folder, number, count = sys.argv[1:]
table = TileTable(Workspace.of(Path(root), Path(folder)), TableOptions(partition_tiles=5))
print(table.build_part(int(number), int(count), Engine(1)))
"""


def make_parts(where: Workspace, numbers: list[int], count: int) -> int:
    """Make parts in as many processes at the same time, and return how many partitions they
    made.
    """
    environment = os.environ | {"PYTHONPATH": str(TESTS.parent)}
    jobs = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                PART,
                str(where.root),
                str(where.folder),
                str(number),
                str(count),
            ],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for number in numbers
    ]
    texts = [job.communicate(timeout=120)[0] for job in jobs]
    assert not any(job.returncode for job in jobs)
    return sum(map(int, texts))


@pytest.mark.parametrize("count", [1, 3, 7])
@pytest.mark.slow
def test_parts_of_many_jobs_become_the_same_table(
    count: int, demo: Path, whole: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = Workspace.of(demo, tmp_path)
    made = make_parts(where, list(range(count, 0, -1)), count)
    assert (
        made
        == len(list(where.parts.glob("*.parquet")))
        == -(-pq.read_metadata(whole.tiles).num_rows // 5)
    )
    with pytest.raises(SystemExit) as left:
        main(["collect", str(demo), "--workspace", str(tmp_path)])
    assert (
        left.value.code == 0
        and f"{pq.read_metadata(whole.tiles).num_rows} tiles" in capsys.readouterr().out
    )
    assert same(where, whole)
    assert not list(where.parts.iterdir())
    # Nothing is left to do, and saying so is no error.
    assert TileTable.of_parts(where).collect().up_to_date


def test_collect_names_what_is_missing_and_takes_no_damaged_part(
    demo: Path, whole: Workspace, tmp_path: Path
) -> None:
    where, options = Workspace.of(demo, tmp_path), TableOptions(partition_tiles=5)
    TileTable(where, options).build_part(1, 2, ONE)
    with pytest.raises(IncompleteError, match=r"5 of 11 partitions are not done") as caught:
        TileTable.of_parts(where).collect()
    assert caught.value.seen == "partitions 1, 3, 5, 7, 9 missing"
    TileTable(where, options).build_part(2, 2, ONE)
    damaged = sorted(where.parts.glob("*.parquet"))[3]
    damaged.write_bytes(damaged.read_bytes()[:-100])
    with pytest.raises(IncompleteError, match="1 of 11"):
        TileTable.of_parts(where).collect()
    TileTable(where, options).build_part(1, 1, ONE)
    TileTable.of_parts(where).collect()
    assert same(where, whole)


def test_parts_with_other_options_do_not_mix(demo: Path, tmp_path: Path) -> None:
    where = Workspace.of(demo, tmp_path)
    with pytest.raises(UsageError, match="no parts to collect"):
        TileTable.of_parts(where)
    TileTable(where, TableOptions(partition_tiles=20)).build_part(1, 3, ONE)
    for other in (
        TableOptions(partition_tiles=21),
        TableOptions(partition_tiles=20, tiles=TileOptions(min_area_px=1)),
    ):
        with pytest.raises(UsageError, match="parts that were made with other settings"):
            TileTable(where, other).build_part(2, 3, ONE)


def test_a_table_of_other_files_is_not_what_collect_is_asked_for(own: Workspace) -> None:
    build(own)
    next(own.root.rglob("*.jpg")).unlink()
    with pytest.raises(UsageError, match="no parts to collect"):
        TileTable.of_parts(own).collect()


class Stop:
    """Stops a run when so many tiles are done, as Ctrl-C would."""

    def __init__(self, at: int, parts: Path) -> None:
        self.at = at
        self.parts = parts
        self.inodes: set[int] = set()

    def __call__(self, label: str, unit: str) -> Advance:
        return self._advance if label == "reading" else silent

    def _advance(self, done: int, total: int) -> None:
        self.inodes = {path.stat().st_ino for path in self.parts.glob("*.parquet")}
        if done >= self.at:
            raise Interrupted("stopped")


@pytest.mark.parametrize("at", [1, 20, 50])
def test_a_stopped_run_goes_on_where_it_was(
    at: int, demo: Path, whole: Workspace, tmp_path: Path
) -> None:
    where, options = Workspace.of(demo, tmp_path), TableOptions(partition_tiles=6)
    with pytest.raises(Interrupted):
        TileTable(where, options).build(ONE, Stop(at, where.parts))
    kept = {path.stat().st_ino for path in where.parts.glob("*.parquet")}
    assert len(kept) >= -(-at // 6) and not where.tiles.exists()
    watch = Stop(10**9, where.parts)
    TileTable(where, options).build(Engine(2), watch)
    assert kept <= watch.inodes, "finished parts were made again"
    assert same(where, whole)


def test_a_damaged_part_of_a_stopped_run_is_made_again(
    demo: Path, whole: Workspace, tmp_path: Path
) -> None:
    where, options = Workspace.of(demo, tmp_path), TableOptions(partition_tiles=6)
    with pytest.raises(Interrupted):
        TileTable(where, options).build(ONE, Stop(40, where.parts))
    for number, part in enumerate(sorted(where.parts.glob("*.parquet"))):
        data = bytearray(part.read_bytes())
        part.write_bytes(
            (data[:50], b"", data[:200] + bytes([data[200] ^ 1]) + data[201:])[number % 3]
        )
    TileTable(where, options).build(ONE)
    assert same(where, whole)


def test_nothing_changed_is_nothing_done(own: Workspace) -> None:
    first = build(own)
    before = own.tiles.stat()
    again = build(own)
    assert (again.up_to_date, again.num_reused) == (True, first.num_tiles)
    after = own.tiles.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_each_touched_file_costs_one_row(own: Workspace) -> None:
    first = build(own)
    for path in (next(own.root.rglob("*.jpg")), next(own.root.rglob("*_mask.png"))):
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
        made = build(own, TableOptions(partition_tiles=7))
        assert (made.up_to_date, made.num_reused) == (False, first.num_tiles - 1)
    fresh = replace(own, folder=own.folder.with_name("fresh"))
    build(fresh)
    assert same(own, fresh)


def grow(path: Path) -> None:
    stat = path.stat()
    path.write_bytes(path.read_bytes() + b"\0")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def move_away(path: Path) -> None:
    path.unlink()


def add_another(path: Path) -> None:
    shutil.copyfile(path, path.with_name("slide99_0001.jpg"))


def rename(path: Path) -> None:
    path.rename(path.with_name("slide98_0001.jpg"))


@pytest.mark.parametrize(
    "change, fewer_tiles, fewer_reused",
    [(grow, 0, 1), (move_away, 0, 1), (add_another, -1, 0), (rename, -1, 1)],
    ids=lambda item: getattr(item, "__name__", ""),
)
def test_only_changed_files_are_read_again(
    change: Callable[[Path], None], fewer_tiles: int, fewer_reused: int, own: Workspace
) -> None:
    first = build(own)
    # A tile with a mask, so that without its image an orphan stays.
    path = next(
        path
        for path in sorted(own.root.rglob("*.jpg"))
        if path.with_name(f"{path.stem}_mask.png").exists()
    )
    change(path)
    made = build(own)
    assert (first.num_tiles - made.num_tiles, first.num_tiles - made.num_reused) == (
        fewer_tiles,
        fewer_reused,
    )
    fresh = replace(own, folder=own.folder.with_name("fresh"))
    build(fresh)
    assert same(own, fresh)


@pytest.mark.parametrize("how", ["another inode", "the same inode"])
def test_a_file_replaced_within_size_and_time_is_read_again(own: Workspace, how: str) -> None:
    build(own)
    victim = next(own.root.rglob("*.jpg"))
    stat, data = victim.stat(), victim.read_bytes()[:-3] + b"\0\0\0"
    if how == "another inode":
        victim.with_name("new").write_bytes(data)
        os.utime(victim.with_name("new"), ns=(stat.st_atime_ns, stat.st_mtime_ns))
        victim.with_name("new").rename(victim)
        assert victim.stat().st_ino != stat.st_ino
    else:
        victim.write_bytes(data)
        os.utime(victim, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert victim.stat().st_ino == stat.st_ino
    assert (victim.stat().st_size, victim.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    before = own.tiles.read_bytes()
    made = build(own)
    assert (made.num_reused, made.up_to_date) == (made.num_tiles - 1, False)
    assert own.tiles.read_bytes() != before
    assert build(own).up_to_date


@pytest.mark.parametrize("left", ["nothing", "damaged"])
def test_without_a_memory_of_this_machine_all_is_read_once(own: Workspace, left: str) -> None:
    """So it is with a table of an earlier version, and where data set and workspace were copied."""
    build(own)
    before = own.tiles.read_bytes()
    states = own.folder / ".hp-states"
    if left == "nothing":
        states.unlink()
    else:
        states.write_bytes(states.read_bytes()[:-1] + b"?")
    made = build(own)
    assert (made.num_reused, made.up_to_date, own.tiles.read_bytes() == before) == (0, False, True)
    assert build(own).up_to_date


def test_a_copied_data_set_is_read_once_with_the_same_bytes(own: Workspace, tmp_path: Path) -> None:
    build(own)
    before = pq.read_table(own.tiles)
    shutil.copytree(own.root, tmp_path / "copy/set")
    shutil.copytree(own.folder, tmp_path / "copy/work")
    copy = Workspace.of(tmp_path / "copy/set", tmp_path / "copy/work")
    own.root.rename(tmp_path / "gone")
    made = build(copy)
    assert made.num_reused == 0
    assert pq.read_table(copy.tiles).equals(before)
    assert build(copy).up_to_date


def test_parts_made_before_a_file_changed_are_made_again(own: Workspace) -> None:
    table = TileTable(own)
    table.build_part(1, 1, Engine(1))
    victim = next(own.root.rglob("*.jpg"))
    stat = victim.stat()
    victim.write_bytes(victim.read_bytes()[:-3] + b"\0\0\0")
    os.utime(victim, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(IncompleteError, match="not done"):
        table.collect()
    table.build_part(1, 1, Engine(1))
    table.collect()
    assert (
        xxhash.xxh3_128_hexdigest(victim.read_bytes())
        in pq.read_table(own.tiles)["image_digest"].to_pylist()
    )


@pytest.mark.parametrize(
    "options",
    [TileOptions(min_area_px=65), TileOptions(headers_only=True), TileOptions(max_pixels=100)],
)
def test_other_measurements_are_made_anew(options: TileOptions, own: Workspace) -> None:
    build(own)
    made = build(own, TableOptions(tiles=options))
    assert (made.num_reused, made.up_to_date) == (0, False)


def test_another_reading_of_names_reads_no_file(own: Workspace) -> None:
    first = build(own)
    made = build(own, TableOptions(scan=ScanOptions(group_by=r"slide\d+")))
    assert (made.num_reused, made.up_to_date) == (first.num_tiles, False)
    groups = pq.read_table(own.tiles, columns=["group"])["group"]
    assert groups.null_count == 0
    assert build(own, TableOptions(scan=ScanOptions(group_by=r"slide\d+"))).up_to_date


def with_header(path: Path, **changed: object) -> None:
    """Rewrite a table of ours as another version of this program would have."""
    opened, header = tables.open_table(path, kind="tiles", schema_version="1.0")
    late = {key: header.pop(key) for key in ("listing_digest",)}
    table = tables.read_table(opened)
    tables.write_table(
        path,
        [table],
        table.schema.remove_metadata(),
        kind="tiles",
        schema_version="1.0",
        metadata=header | changed,
        late_metadata=lambda: late,
    )


def test_rows_of_another_version_are_not_used(own: Workspace) -> None:
    build(own)
    with_header(own.tiles)
    assert build(own).up_to_date, "rewriting alone changes nothing"
    for changed in ({"tool_version": "0.0.0"}, {"schema_version": "1.9"}):
        with_header(own.tiles, **changed)
        made = build(own)
        assert (made.num_reused, made.up_to_date) == (0, False)


def test_a_table_of_another_folder_is_made_again(own: Workspace) -> None:
    first = build(own)
    moved = own.root.with_name("moved")
    own.root.rename(moved)
    made = build(Workspace.of(moved, own.folder))
    assert (made.up_to_date, made.num_reused) == (False, first.num_tiles)
    assert tables.open_table(own.tiles, kind="tiles", schema_version="1.0")[1]["root"] == str(moved)


@pytest.mark.slow
def test_no_damage_to_the_table_survives(demo: Path, whole: Workspace, tmp_path: Path) -> None:
    where = Workspace.of(demo, tmp_path)
    data = whole.tiles.read_bytes()
    noticed = 0
    for number in range(24):
        shutil.copytree(whole.folder, where.folder, dirs_exist_ok=True)
        at = len(data) * (2 * number + 1) // 48
        where.tiles.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        noticed += not build(where).up_to_date
        assert pq.read_table(where.tiles).equals(pq.read_table(whole.tiles)), f"byte {at}"
    assert noticed >= 20


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not a table at all", None])
def test_issues_that_are_damaged_or_gone_are_made_again(
    content: bytes | None, demo: Path, whole: Workspace, tmp_path: Path
) -> None:
    where = Workspace.of(demo, tmp_path)
    shutil.copytree(whole.folder, where.folder, dirs_exist_ok=True)
    where.listing_issues.unlink() if content is None else where.listing_issues.write_bytes(content)
    made = build(where)
    assert (made.up_to_date, made.num_reused) == (False, made.num_tiles)
    assert same(where, whole)


def test_issues_of_another_listing_are_not_taken_for_these(
    own: Workspace, whole: Workspace
) -> None:
    """As after a run that was killed between issues and table, on a data set that was put back
    since.
    """
    build(own)
    table, issues = own.tiles.read_bytes(), own.listing_issues.read_bytes()
    stray = own.root / "stray.xyz"
    stray.touch()
    build(own)
    stray.unlink()
    own.tiles.write_bytes(table)
    assert own.listing_issues.read_bytes() != issues
    assert not build(own).up_to_date
    assert own.listing_issues.read_bytes() == issues


def test_earlier_rows_come_in_the_order_they_are_asked_for(
    own: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "ROW_GROUP_ROWS", 9)
    build(own)
    listed = list(Listing().walk(own.root, TileTable(own).options))
    order = [40, 3, 17, 0, 52, 4]
    found = EarlierTable(own.tiles).find([listed[at] for at in order])
    assert found and found.at == (0, 1, 2, 3, 4, 5)
    digests = pq.read_table(own.tiles, columns=["mask_digest"])["mask_digest"].to_pylist()
    assert found.rows["mask_digest"].to_pylist() == [digests[at] for at in order]


def test_rows_of_files_that_could_not_be_read_are_tried_again(own: Workspace) -> None:
    options = TableOptions(tiles=TileOptions(neighbours=False), partition_tiles=10)
    # As when a worker died at the image of the third pair of the first partition, which is its file
    # 4.
    first = next(iter(TileTable(own, options)._tasks(Listing())))
    first.without(4, "killed").run()
    made = build(own, options)
    assert made.num_reused == 0
    errors = pq.read_table(own.tiles, columns=["image_error", "mask_error"]).to_pylist()
    assert errors[2] == {"image_error": "HP201 worker-died", "mask_error": None}
    again = build(own, options)
    assert (again.up_to_date, again.num_reused) == (False, made.num_tiles - 1)
    fresh = replace(own, folder=own.folder.with_name("fresh"))
    build(fresh, options)
    assert same(own, fresh)
    assert build(own, options).up_to_date


def test_files_too_large_to_read_are_no_reason_to_read_everything(own: Workspace) -> None:
    options = TableOptions(tiles=TileOptions(max_file_bytes=1000))
    build(own, options)
    errors = pq.read_table(own.tiles, columns=["image_error"])["image_error"].to_pylist()
    assert "HP205 huge-file" in errors
    assert build(own, options).up_to_date


def test_rows_are_found_in_any_row_group(own: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "ROW_GROUP_ROWS", 9)
    first = build(own)
    assert pq.read_metadata(own.tiles).num_row_groups > 4
    for name in ("*_mask.png", "*.jpg"):
        path = sorted(own.root.rglob(name))[20]
        os.utime(path, ns=(0, time.time_ns()))
    made = build(own, TableOptions(partition_tiles=11))
    assert made.num_reused == first.num_tiles - 2
    fresh = replace(own, folder=own.folder.with_name("fresh"))
    build(fresh)
    assert same(own, fresh)


def test_a_sample_is_the_same_tiles_every_time(
    demo: Path, whole: Workspace, tmp_path: Path
) -> None:
    rows = pq.read_table(whole.tiles)
    seen = []
    for partition in (3, 1000):
        where = Workspace.of(demo, tmp_path / str(partition))
        made = build(where, TableOptions(sample=12, partition_tiles=partition))
        assert (made.num_tiles, made.num_listed) == (12, rows.num_rows)
        seen.append(pq.read_table(where.tiles))
    assert seen[0].equals(seen[1])
    kept = rows.filter(pc.is_in(rows["tile_id"], seen[0]["tile_id"]))
    assert kept.equals(seen[0])


def test_a_task_done_twice_writes_once(demo: Path, tmp_path: Path) -> None:
    where = Workspace.of(demo, tmp_path)
    task = next(iter(TileTable(where, TableOptions(partition_tiles=4))._tasks(Listing())))
    assert isinstance(task, TileTask) and not task.is_done()
    inode = task.run().stat().st_ino
    assert task.is_done() and task.run().stat().st_ino == inode
    assert not task.marker.exists()
