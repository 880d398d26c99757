"""Logs at services: what goes there is what the run's own folder has, and a failure ends nothing.

wandb and mlflow need not be installed; without them the tests that use them are skipped.
"""

from __future__ import annotations

import csv
import struct
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainer.cli import run as run_cli
from trainer.engine.fit import fit
from trainer.engine.loggers import ServiceLogger, check_loggers
from trainer.engine.logs import StageLog
from trainer.errors import ConfigError
from trainer.reporter import Reporter

_BLOCK = 1 << 15
SHEET = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)


class ListLogger(ServiceLogger):
    """A service in this process, which fails on request."""

    service = "list"

    def __init__(self, folder: Path, reporter: Reporter, *, fails: bool = False) -> None:
        super().__init__(folder, "run", reporter)
        self.entries: list[tuple[Any, ...]] = []
        self._fails = fails

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        self._add("config", params)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._add("metrics", step, dict(metrics))

    def log_image(self, name: str, image: np.ndarray, step: int) -> None:
        self._add("image", name, step, image.tobytes())

    def finalize(self, status: str) -> None:
        self._add("end", status)

    def _add(self, *entry: Any) -> None:
        with self._sending():
            if self._fails:
                raise ConnectionError("nobody answers")
            self.entries.append(entry)


def test_services_get_what_the_folder_gets(tmp_path: Path) -> None:
    service = ListLogger(tmp_path, Reporter(print, print))
    log = StageLog(tmp_path, 0, {"seed": 3}, [service])
    log.write(5, {"loss": 0.25, "endless": float("inf")})
    log.draw(5, {"sheet": SHEET})
    log.close(has_ended=False)
    assert service.entries == [
        ("config", {"seed": 3}),
        ("metrics", 5, {"loss": 0.25}),
        ("image", "sheet", 5, SHEET.tobytes()),
        ("end", "failed"),
    ]
    assert (tmp_path / "samples" / "00000005-sheet.png").is_file()


def test_a_service_that_fails_is_said_once_and_ends_nothing(tmp_path: Path) -> None:
    warnings: list[str] = []
    service = ListLogger(tmp_path, Reporter(print, warnings.append), fails=True)
    log = StageLog(tmp_path, 0, {}, [service])
    log.write(1, {"loss": 1.0})
    log.write(2, {"loss": 0.5})
    log.close()
    [warning] = warnings
    assert "list failed" in warning and "nobody answers" in warning
    with (tmp_path / "metrics.csv").open() as stream:
        assert [row["step"] for row in csv.DictReader(stream)] == ["1", "2"]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_named_with_the_command(
    toy_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(sys, "path", [])
    config = toy_config(**{f"loggers__{name}": {}})
    with pytest.raises(ConfigError) as caught:
        check_loggers(config)
    assert name in caught.value.what
    assert f".[{name}]" in str(caught.value.hint)
    with pytest.raises(ConfigError):
        fit(config)
    assert not Path(config.out).exists()


def test_unknown_services_and_options_are_refused(
    demo_manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["fit", "--preset", "codec-tiny", "--manifest", str(demo_manifest)]
    words += ["--out", str(tmp_path / "run"), "--set", "loggers.neptune={}"]
    assert run_cli(words) == 2
    assert "neptune" in capsys.readouterr().err


def numbers_of(run: str) -> dict[int, dict[str, float]]:
    """Return the numbers of each step in metrics.csv."""
    with (Path(run) / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    return {
        int(row["step"]): {
            name: float(value) for name, value in row.items() if name != "step" and value
        }
        for row in rows
    }


def test_mlflow_has_the_numbers_and_sheets_of_a_run(
    toy_config: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    # mlflow-skinny has no other store on a disk.
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    place = (tmp_path / "mlflow").as_uri()
    section = {"tracking_uri": place, "experiment": "tests"}
    said: list[str] = []
    config = toy_config(loggers__mlflow=section, every__images=6, schedule__kind="constant")
    fit(config, reporter=Reporter(said.append, said.append))
    assert not [line for line in said if "mlflow" in line]
    client = mlflow.MlflowClient(tracking_uri=place)
    identity = (Path(config.out) / "mlflow.id").read_text().strip()
    found = client.get_run(identity)
    assert (found.info.status, found.info.run_name) == ("FINISHED", "run")
    for step, numbers in numbers_of(config.out).items():
        for name, value in numbers.items():
            history = client.get_metric_history(identity, name)
            assert value in [entry.value for entry in history if entry.step == step]
    samples = [entry.path for entry in client.list_artifacts(identity, "samples")]
    drawn = sorted(path.name for path in (Path(config.out) / "samples").glob("*.png"))
    assert sorted(Path(path).name for path in samples) == drawn != []
    # A run that goes on stays the same run there.
    longer = toy_config(
        loggers__mlflow=section, every__images=6, schedule__kind="constant", duration__steps=16
    )
    fit(longer)
    assert (Path(config.out) / "mlflow.id").read_text().strip() == identity
    assert client.get_metric_history(identity, "loss")[-1].step == 16


def records_of(path: Path) -> Iterator[bytes]:
    """Yield the records of a file of wandb, a log of LevelDB: blocks of 32 KiB, in them pieces of
    records after checksum, length and kind (1 whole, 2 first, 3 middle, 4 last).
    """
    data, at, record = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = _BLOCK - at % _BLOCK
        if left < 7:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


def test_wandb_has_the_numbers_and_sheets_of_a_run(toy_config: Callable[..., Any]) -> None:
    wandb = pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    said: list[str] = []
    config = toy_config(loggers__wandb={"mode": "offline", "project": "tests"}, every__images=6)
    fit(config, reporter=Reporter(said.append, said.append))
    assert not [line for line in said if "wandb" in line], wandb.__version__
    [path] = Path(config.out).glob("wandb/offline-run-*/run-*.wandb")
    seen, sheets = dict[int, dict[str, str]](), set[str]()
    for data in records_of(path):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        items = {
            item.key or "/".join(item.nested_key): item.value_json for item in record.history.item
        }
        if "step" in items:
            seen.setdefault(int(items["step"]), {}).update(items)
            sheets |= {value for value in items.values() if "image-file" in value}
    for step, numbers in numbers_of(config.out).items():
        for name, value in numbers.items():
            assert float(seen[step][name]) == pytest.approx(value), (step, name)
    drawn = list((Path(config.out) / "samples").glob("*.png"))
    files = list(path.parent.glob("files/media/images/*.png"))
    assert len(files) == len(drawn) > 0
    assert {Image.open(file).size for file in files} == {Image.open(file).size for file in drawn}
