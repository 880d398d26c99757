"""The audit as a whole: reuse, options, verdicts, and that the data set is left alone."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import subprocess
import sys
import typing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from audit_cases import SIDE_PX, SKIN_MAP, DataSet, by_code, stripes, write_map
from believed import believe
from PIL import Image

import histoprep
from histoprep.auditing import AuditOptions, AuditResult, run_audit
from histoprep.auditing.outcome import status_of
from histoprep.catalogue import all_rules
from histoprep.choices import Severity
from histoprep.counting import compute_stats
from histoprep.demo import make_demo
from histoprep.errors import ExitCode, UsageError
from histoprep.execution import Engine
from histoprep.findings import Finding, Mark, Selection, finding
from histoprep.labels import default_map, identity_map, load_label_map
from histoprep.manifest.build import ManifestOptions, build_manifest
from histoprep.names import to_name
from histoprep.report import Status, render
from histoprep.scanning import ScanOptions
from histoprep.schemas.workspace import Workspace
from histoprep.tiles import TileOptions
from histoprep.tiles.options import TableOptions, earlier_options

RULES = all_rules()


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    made = DataSet(tmp_path / "data")
    made.pairs(4)
    made.mask("lost_mask.png")
    made.pair("odd", stripes(0, 1, 200))
    return made


def run(data: DataSet, options: AuditOptions | None = None, **more: bool) -> AuditResult:
    return run_audit(
        Workspace.of(data.root), options or AuditOptions(table=TableOptions()), Engine(1), **more
    )


def snapshot(root: Path) -> dict[str, tuple[int, int, int]]:
    return {
        str(path): (status.st_size, status.st_mtime_ns, status.st_mode)
        for path in root.rglob("*")
        for status in [path.lstat()]
    }


def test_results_are_written_beside_the_data_set_which_is_left_alone(data: DataSet) -> None:
    before = snapshot(data.root)
    folder_time = data.root.stat().st_mtime_ns
    result = run(data)
    assert snapshot(data.root) == before
    assert data.root.stat().st_mtime_ns == folder_time
    workspace = Workspace.of(data.root)
    for path in (
        workspace.tiles,
        workspace.findings,
        workspace.summary,
        workspace.report,
        workspace.duplicates,
    ):
        assert path.stat().st_size > 0
    assert not list(workspace.parts.glob("*"))
    table = pd.read_parquet(workspace.findings)
    assert table.groupby("code").size().to_dict() == {
        problem.code: problem.count for problem in result.report.findings
    }
    summary = json.loads(workspace.summary.read_text())
    assert summary["last_line"] == result.text.splitlines()[-1]
    assert (
        summary["last_line"]
        == "5 images, 6 masks: 5 paired, 1 orphan, 0 zero, 0 unreadable | 1 error, 1 warning |"
        " report.html"
    )
    assert summary["exit_code"] == result.exit_code == ExitCode.FINDINGS


def test_nothing_is_read_again_while_nothing_changes(data: DataSet) -> None:
    first = run(data)
    # Other bytes, but the size and time of before: whoever reads the file again sees them.
    for path in data.root.iterdir():
        status = path.stat()
        path.write_bytes(b"x" * status.st_size)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    believe(data.root)
    second = run(data)
    assert (second.report, second.text, second.exit_code) == (None, first.text, first.exit_code)
    # The whole report is made from the tables again.
    third = run(data, want_report=True)
    assert third.text == first.text
    assert third.report is not None
    assert third.report.summary.num_reused == 6
    assert run(data, AuditOptions(table=TableOptions(reuse=False))).text != first.text


def test_what_changed_is_read_again(data: DataSet) -> None:
    first = run(data)
    data.mask("odd_mask.png", stripes(0, 1, 201))
    second = run(data)
    assert second.report is not None
    assert second.report.summary.num_reused == 5
    assert second.text == first.text
    (data.root / "lost_mask.png").unlink()
    third = run(data)
    assert third.exit_code == ExitCode.OK
    assert "1 orphan" not in third.text


@pytest.mark.parametrize(
    "change",
    [
        "selection",
        "fail_on",
        "tile_size_px",
        "map",
        "map content",
        "expectation",
        "baseline",
        "table",
    ],
)
def test_every_option_counts(data: DataSet, tmp_path: Path, change: str) -> None:
    path = write_map(tmp_path)
    options = AuditOptions(table=TableOptions())
    if change == "map content":
        options = replace(options, map_path=path)
    run(data, options)
    assert run(data, options).report is None
    (tmp_path / "expected.yml").write_text("images: 9\n")
    (tmp_path / "accepted.json").write_text(
        '{"format": "histoprep-baseline", "version": 1, "accepted": {"HP101": ["lost_mask.png"]}}'
    )
    if change == "map content":
        path.write_text(path.read_text().replace("3: tumour", "200: tumour"))
    changed = {
        "selection": replace(options, selection=Selection(ignore=("HP101",))),
        "fail_on": replace(options, fail_on=Severity.INFO),
        "tile_size_px": replace(options, tile_size_px=(1, 1)),
        "map": replace(options, map_path=path),
        "map content": options,
        "expectation": replace(options, expectation=tmp_path / "expected.yml"),
        "baseline": replace(options, baseline=tmp_path / "accepted.json"),
        "table": replace(options, table=TableOptions(ScanOptions(group_by="[a-z]+"))),
    }[change]
    assert run(data, changed).report is not None
    assert run(data, changed).report is None


def test_damaged_results_are_made_again(data: DataSet) -> None:
    workspace = Workspace.of(data.root)
    first = run(data)
    for path in (workspace.summary, workspace.findings, workspace.report, workspace.duplicates):
        (
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            if path == workspace.summary
            else path.unlink()
        )
        again = run(
            data,
            (
                AuditOptions(table=TableOptions(), fail_on=Severity.INFO)
                if path == workspace.duplicates
                else None
            ),
        )
        assert again.report is not None
        assert again.text == first.text
        assert path.exists()


def test_a_baseline_leaves_only_what_is_new(data: DataSet, tmp_path: Path) -> None:
    accepted = tmp_path / "accepted.json"
    accepted.write_text(
        '{"format": "histoprep-baseline", "version": 1, "accepted": {"HP101": ["lost_mask.png"]}}'
    )
    options = AuditOptions(table=TableOptions(), baseline=accepted)
    passed = run(data, options)
    assert passed.exit_code == ExitCode.OK
    assert "0 errors, 1 warning (+1 known)" in passed.text
    data.mask("lost2_mask.png")
    failed = run(data, options)
    assert failed.exit_code == ExitCode.FINDINGS
    assert "HP101 orphan-mask: 1 of 7 masks" in failed.text
    assert "1 error, 1 warning (+1 known)" in failed.text


def test_an_expectation_is_held_against_the_counts(data: DataSet, tmp_path: Path) -> None:
    path = tmp_path / "expected.yml"
    path.write_text(
        "images: 5\nmasks: 6\npairs: 5\norphan_masks: 1\nzero_masks: 0\nlabels:\n  1: 5\n  200: 1\n"
    )
    assert "HP108" not in by_code(data.audit(expectation=path).findings)
    path.write_text("images: 5\nmasks: 7\n")
    assert by_code(data.audit(expectation=path).findings)["HP108"] == {
        "masks": "seen 6, expected 7"
    }
    with pytest.raises(UsageError, match="sample"):
        data.audit(expectation=path, sample=2)
    path.write_text("zero_masks: 0\n")
    with pytest.raises(UsageError, match="quick"):
        data.audit(expectation=path, tile_options=TileOptions(headers_only=True))


def test_a_sample_is_the_same_every_time_and_says_so(data: DataSet) -> None:
    report = data.audit(sample=3)
    assert report.summary.num_tiles == 3
    assert report.summary.looked_at == 0.5
    paths = [
        pd.read_parquet(Path(report.workspace) / "tiles.parquet").tile_id.tolist()
        for _ in range(2)
        if data.audit(sample=3)
    ]
    assert paths[0] == paths[1]
    assert report.options["sample"] == "3 tiles"
    assert data.audit(sample=99).summary.looked_at == 1


def test_headers_alone_say_nothing_of_pixels(data: DataSet, tmp_path: Path) -> None:
    data.write("cut.jpg", (data.root / "odd.jpg").read_bytes()[:-200])
    data.mask("short_mask.png", stripes(0, 1)[:50])
    data.image("short.jpg")
    report = data.audit(tile_options=TileOptions(headers_only=True), label_map=write_map(tmp_path))
    codes = {key.split()[0] for key in by_code(report.findings)}
    assert codes == {"HP101", "HP102", "HP202", "HP401", "HP710"}
    assert "headers" in str(report.options["quick"])


UNSEEN = ("permission", "folder", "input-output", "cannot-open", "vanished", "worker-died")


@pytest.mark.parametrize(
    ("found", "fail_on", "status"),
    [
        ([], Severity.INFO, Status.PASSED),
        (["HP303"], Severity.ERROR, Status.PASSED),
        (["HP303"], Severity.WARNING, Status.FAILED),
        (["HP406"], Severity.INFO, Status.FAILED),
        (["HP101"], Severity.ERROR, Status.FAILED),
        (["HP101"], None, Status.PASSED),
        (["HP201 truncated"], Severity.ERROR, Status.FAILED),
        *((["HP101", f"HP201 {item}"], None, Status.INCOMPLETE) for item in UNSEEN),
    ],
)
def test_verdicts(found: list[str], fail_on: Severity | None, status: Status) -> None:
    def make(entry: str) -> Finding:
        code, _, subcode = entry.partition(" ")
        return finding(RULES[code], [("a", "")], denominator=1, unit="files", subcode=subcode)

    findings = [make(item) for item in found]
    assert status_of(findings, fail_on) is status
    # What was accepted does not count.
    assert (
        status_of([replace(problem, known=True) for problem in findings], fail_on) is Status.PASSED
    )


def as_anybody() -> list[str]:
    """Return what goes before a command so that file modes hold for it, even for root."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root may read everything, and there is no setpriv")
    rights = "-dac_override,-dac_read_search"
    return ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}"]


@pytest.mark.slow
def test_what_must_not_be_read_makes_the_verdict_unknown(tmp_path: Path) -> None:
    data = DataSet(tmp_path / "data")
    data.pairs(3)
    data.pair("secret/one")
    (data.root / "fine01.jpg").chmod(0)
    (data.root / "secret").chmod(0)
    code = "import sys; from histoprep.cli import main; main(sys.argv[1:])"
    command = [*as_anybody(), sys.executable, "-c", code, "audit", str(data.root), "--workers", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    (data.root / "secret").chmod(0o755)
    assert done.returncode == ExitCode.INCOMPLETE, done.stdout + done.stderr
    assert "HP201 unreadable-file (permission): 1 of 6 files" in done.stdout
    assert "HP201 unreadable-file (folder): 1\n" in done.stdout
    assert "Incomplete" in done.stdout


def test_images_name_labels_that_the_map_does_not_list_by_their_own_values(
    tmp_path: Path,
) -> None:
    data = DataSet(tmp_path / "data")
    data.pairs(1)
    data.mask("lost_mask.png", stripes(0, 1, 9, 2000, dtype=np.uint16))
    # The map has a class 9, and no label 9.
    text = "sources: {0: none, 1: tumour}\nclasses: {0: None, 9: Tumour}\nmap: {0: 0, 1: 9}\n"
    report = data.audit(map_path=write_map(tmp_path, text))
    quarters = {
        ("None", 0.25),
        ("Tumour", 0.25),
        ("label 9, not listed", 0.25),
        ("label 2000, not listed", 0.25),
    }
    assert "HP501" in by_code(report.findings)
    assert {
        (entry.name, entry.share) for entry in report.thumbnails["lost_mask.png", Mark.NONE].legend
    } == quarters
    html = render(report, "html")
    assert "label 9, not listed" in html and "label -" not in html


def test_the_one_map_of_a_data_set_is_used(tmp_path: Path) -> None:
    assert default_map(tmp_path) is None
    (tmp_path / "label_map_a.yml").touch()
    assert default_map(tmp_path) == tmp_path / "label_map_a.yml"
    (tmp_path / "label_map_b.yaml").touch()
    assert default_map(tmp_path) is None


def test_pools_are_those_of_the_manifest(tmp_path: Path) -> None:
    data = DataSet(tmp_path / "data")
    for index in range(12):
        mask = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
        mask[: SIDE_PX * (index % 4 + 1) // 8] = 1
        data.pair(f"tile{index}", mask)
    run(data)
    workspace = Workspace.of(data.root)
    # Shares of 1/8, 1/4, 3/8 and 1/2: half of the tiles stay below.
    made = build_manifest(
        workspace.tiles,
        identity_map({0, 1}),
        ManifestOptions(conditional_threshold=0.3),
        workspace.manifest,
    )
    stated = {
        name: (value["conditional"], value["unconditional"])
        for name, value in made.certificate["splits"].items()
    }
    assert sum(unconditional for _, unconditional in stated.values()) == 6
    report = run(data, want_report=True).report
    assert {
        row.name: (row.num_conditional, row.num_unconditional) for row in report.splits
    } == stated
    counted = compute_stats(workspace, by=["pool"]).main.tiles
    pools = counted[counted["by"] == "pool"]
    assert dict(zip(pools["key"], pools["tiles"], strict=True)) == {
        "conditional": 6,
        "unconditional": 6,
    }


SPLIT_MAP = """\
sources: {0: glass, 7: tumour of one lab, 8: tumour of the other}
classes: {0: Background, 1: Tumour}
map: {0: 0, 7: 1, 8: 1}
"""


def test_splits_are_judged_by_the_classes_they_were_made_for(tmp_path: Path) -> None:
    data = DataSet(tmp_path / "data")
    for split, label in (("train", 7), ("test", 8)):
        for index in range(4):
            data.pair(f"{split}/{index}", stripes(0, label))
    assert "HP801" in by_code(run(data, want_report=True).report.findings)
    label_map = load_label_map(write_map(tmp_path, SPLIT_MAP))
    workspace = Workspace.of(data.root)
    build_manifest(workspace.tiles, label_map, ManifestOptions(), workspace.manifest)
    report = run(data, want_report=True).report
    assert "HP801" not in by_code(report.findings)
    assert report.options["label map"] == str(workspace.manifest)
    # What the raw labels are called matters to nobody then; a map that is named goes first.
    apart = SPLIT_MAP.replace("8: 1}", "8: 2}").replace("1: Tumour}", "1: Tumour, 2: Other}")
    named = AuditOptions(table=TableOptions(), map_path=write_map(tmp_path, apart))
    assert "HP801" in by_code(run(data, named, want_report=True).report.findings)


def test_the_function_shows_its_own_signature() -> None:
    assert inspect.isfunction(histoprep.audit)
    signature = inspect.signature(histoprep.audit)
    assert list(signature.parameters) == [
        "root", "label_map", "group_by", "workspace", "workers", "options",
    ]  # fmt: skip
    hints = typing.get_type_hints(histoprep.audit)
    assert hints["return"] is histoprep.Report and hints["options"] == AuditOptions | None
    assert "Folder of the data set" in (inspect.getdoc(histoprep.audit) or "")
    # Whatever is imported afterwards.
    from histoprep import auditing

    assert histoprep.audit is auditing.audit


def test_names_and_groups_that_are_no_utf8_survive_every_table(tmp_path: Path) -> None:
    data = DataSet(tmp_path / os.fsdecode(b"d\xe9"))
    data.pairs(2)
    data.mask(os.fsdecode(b"l\xf8st_mask.png"))
    folder = write_map(data.root, SKIN_MAP.replace("  tumour: Tumour\n", "")).parent
    report = histoprep.audit(
        data.root, workspace=tmp_path / "results", label_map=folder / "two.yml", workers=1
    )
    table = pd.read_parquet(tmp_path / "results" / "findings.parquet")
    places = {code: to_name(path) for code, path in zip(table.code, table.path, strict=True)}
    assert places["HP101"] == os.fsdecode(b"l\xf8st_mask.png")
    assert places["HP503"].startswith(str(folder))
    text = render(report, "text")
    assert r"l\xf8st_mask.png" in text
    assert r"d\xe9/two.yml" in text
    assert r"d\xe9" in json.loads((tmp_path / "results" / "summary.json").read_text())["root"]


def test_python_keeps_the_grouping_of_the_last_audit_unless_it_gives_a_table(data: DataSet) -> None:
    def grouping() -> object:
        return earlier_options(Workspace.of(data.root)).scan.group_by

    for arguments, kept in (
        ({"group_by": "[a-z]+"}, "[a-z]+"),
        ({}, "[a-z]+"),
        ({"options": AuditOptions(table=TableOptions())}, None),
    ):
        histoprep.audit(data.root, workers=1, **arguments)
        assert grouping() == kept


@pytest.mark.slow
def test_the_package_can_be_used_like_the_command(data: DataSet) -> None:
    code = (
        "import sys, histoprep; assert not {'pandas', 'pyarrow', 'numpy'} & set(sys.modules)\n"
        "report = histoprep.audit(sys.argv[1], workers=1, group_by='[a-z]+')\n"
        "print(report.status, [one.code for one in report.findings])\n"
        "from histoprep.auditing import run_audit\n"
        "assert histoprep.audit(sys.argv[1], group_by='[a-z]+').status == report.status\n"
        "for name in histoprep.__all__: getattr(histoprep, name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(data.root)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("failed ['HP101'")
    with pytest.raises(AttributeError, match="no_such_name"):
        histoprep.no_such_name  # noqa: B018


@pytest.mark.slow
def test_a_second_audit_of_unchanged_data_imports_no_pandas(tmp_path: Path) -> None:
    root = make_demo(tmp_path / "demo", num_tiles=48, tile_px=64).folder
    code = (
        "import sys\n"
        "from histoprep.cli import main\n"
        "sys.argv = ['histoprep', 'audit', sys.argv[1], '--output', sys.argv[2]]\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    print('pandas' in sys.modules, file=sys.__stdout__)\n"
    )
    command = [sys.executable, "-c", code, str(root), str(tmp_path / "report.txt")]
    loaded = [
        subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()[-1]
        for _ in range(2)
    ]
    assert loaded == ["True", "False"]


@pytest.mark.parametrize(
    ("extra", "options", "starts_workers"),
    [("", [], False), ("", ["--workers", "1"], True), ("more.tif", [], True)],
)
@pytest.mark.slow
def test_a_few_plain_files_are_read_without_starting_workers(
    tmp_path: Path, extra: str, options: list[str], starts_workers: bool
) -> None:
    root = tmp_path / "tiles"
    root.mkdir()
    rng = np.random.default_rng(0)
    for number in range(4):
        labels = np.zeros((64, 64), np.uint8)
        labels[:, 20 + number :] = 3
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(root / f"{number}.jpg")
        Image.fromarray(labels).save(root / f"{number}_mask.png")
    if extra:
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(root / extra)
    code = (
        "import sys\n"
        "from multiprocessing import forkserver\n"
        "from histoprep.cli import main\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    started = forkserver._forkserver._forkserver_pid is not None\n"
        "    print(started, file=sys.__stdout__)\n"
    )
    tables, started = [], []
    for number, more in enumerate((options, ["--workers", "2"])):
        results = tmp_path / f"results{number}"
        command = ["audit", str(root), "--workspace", str(results), "--exit-zero", *more]
        ended = subprocess.run(
            [sys.executable, "-c", code, *command], capture_output=True, text=True, check=True
        )
        started.append(ended.stdout.split()[-1])
        tables.append((results / "tiles.parquet").read_bytes())
    assert started == [str(starts_workers), "True"]
    assert tables[0] == tables[1]


@pytest.mark.slow
def test_a_second_audit_that_ends_with_next_steps_imports_neither_pandas_nor_scipy(
    tmp_path: Path,
) -> None:
    root = tmp_path / "tiles"
    root.mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        labels = np.zeros((64, 64), np.uint8)
        labels[:, 20 + number :] = 3
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(root / f"{number}.png")
        Image.fromarray(labels).save(root / f"{number}_mask.png")
    code = (
        "import sys\n"
        "from histoprep.cli import main\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    print({'pandas', 'scipy'} & set(sys.modules), file=sys.__stdout__)\n"
    )
    command = [sys.executable, "-c", code, "audit", str(root)]
    ended = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(2)]
    assert "histoprep map init" in ended[1].stdout + ended[1].stderr
    assert ended[1].stdout.splitlines()[-1] == "set()"
