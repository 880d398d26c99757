"""trainer encode: killed and resumed to the same bytes, refused for other options, skips counted, a
report that tells the truth.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coordinate_tiles import image_of, write_tiles
from small_codecs import save_kl, save_tiny

import trainer.encode
from histoprep.cli import run as histoprep
from histoprep.errors import (
    ExitCode,
    HistoprepError,
    IncompleteError,
    LockedError,
    OutputError,
    UsageError,
)
from histoprep.imageio import decode_rgb
from histoprep.shards import open_tiles
from histoprep.streams import single_stream
from trainer.cli import run
from trainer.data.latent_dataset import LatentDataset
from trainer.data.latent_journal import JOURNAL
from trainer.data.latents import LatentSet
from trainer.data.transforms import to_float, to_uint8
from trainer.encode import EncodeOptions, encode_tiles
from trainer.encode_report import report_codec
from trainer.errors import LatentSetError
from trainer.recipes.codecs import load_codec

SIZE = 32
NUM_TILES = 20
OPTIONS = EncodeOptions(views=2, batch_size=3)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiles(tmp_path_factory.mktemp("encode") / "data", NUM_TILES, SIZE)


@pytest.fixture(scope="module")
def codec_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_kl(tmp_path_factory.mktemp("codec"))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    # Two batches a chunk: 20 tiles make four chunks.
    monkeypatch.setattr(trainer.encode, "_CHUNK_BYTES", 6 * 2 * 2 * 2 * 4 * 4 * 4)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.name not in (".lock", ".hp-states")
    }


class Stop(Exception):
    """Ends a run from within, as a signal would."""


def stop_after(count: int) -> Callable[[int], None]:
    left = [count]

    def advance(number: int) -> None:
        left[0] -= number
        if left[0] < 0:
            raise Stop

    return advance


@pytest.fixture(scope="module")
def expected(
    manifest: Path, codec_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("whole") / "latents"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.encode, "_CHUNK_BYTES", 6 * 2 * 2 * 2 * 4 * 4 * 4)
        result = encode_tiles(open_tiles(manifest), load_codec(codec_folder), out, OPTIONS)
    assert result.num_entries == result.num_encoded == NUM_TILES
    assert len((out / JOURNAL).read_text().splitlines()) == 1 + 4
    return contents(out)


@pytest.mark.parametrize("stopped_after", [0, 5, 8, 13, 19])
def test_a_stopped_run_goes_on_to_the_same_bytes(
    manifest: Path,
    codec_folder: Path,
    tmp_path: Path,
    expected: dict[str, bytes],
    stopped_after: int,
) -> None:
    tiles, codec, out = open_tiles(manifest), load_codec(codec_folder), tmp_path / "latents"
    with pytest.raises(Stop):
        encode_tiles(tiles, codec, out, OPTIONS, advance=stop_after(stopped_after))
    with pytest.raises(LatentSetError):
        LatentSet.open(out)
    # What a kill leaves behind a whole chunk: bytes without a line in the journal, and half a line.
    for name in ("latents.npy", "mask_values.bin", JOURNAL):
        with (out / name).open("ab") as stream:
            stream.write(b'{"bytes": {"la')
    result = encode_tiles(tiles, codec, out, OPTIONS)
    assert result.num_encoded == NUM_TILES - max(0, stopped_after // 6 * 6)
    assert contents(out) == expected


def test_a_second_run_encodes_nothing_and_changes_nothing(
    manifest: Path, codec_folder: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    tiles, codec = open_tiles(manifest), load_codec(codec_folder)
    encode_tiles(tiles, codec, tmp_path, OPTIONS)
    assert encode_tiles(tiles, codec, tmp_path, OPTIONS).num_encoded == 0
    assert contents(tmp_path) == expected


def test_workers_change_no_byte(
    manifest: Path, codec_folder: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    encode_tiles(
        open_tiles(manifest),
        load_codec(codec_folder),
        tmp_path,
        EncodeOptions(views=2, batch_size=3, num_workers=1),
    )
    assert contents(tmp_path) == expected


@pytest.mark.parametrize("killed_after", [0, 7])
def test_a_killed_process_goes_on_to_the_same_bytes(
    manifest: Path,
    codec_folder: Path,
    tmp_path: Path,
    expected: dict[str, bytes],
    killed_after: int,
) -> None:
    tiles, codec = open_tiles(manifest), load_codec(codec_folder)

    def die(_: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    left = [killed_after]
    child = os.fork()
    if child == 0:
        encode_tiles(tiles, codec, tmp_path, OPTIONS, advance=die)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not (tmp_path / "latents.json").exists()
    encode_tiles(tiles, codec, tmp_path, OPTIONS)
    assert contents(tmp_path) == expected


def test_a_folder_begun_otherwise_is_refused(
    manifest: Path, codec_folder: Path, tmp_path: Path
) -> None:
    tiles, codec, out = open_tiles(manifest), load_codec(codec_folder), tmp_path / "latents"
    encode_tiles(tiles, codec, out, OPTIONS)
    before = contents(out)
    with pytest.raises(UsageError, match="made with other settings: views") as caught:
        encode_tiles(tiles, codec, out, EncodeOptions(views=4, batch_size=3))
    assert "views 2" in str(caught.value) and "views 4" in str(caught.value)
    with pytest.raises(UsageError, match="made with other settings: codec"):
        encode_tiles(tiles, load_codec(save_tiny(tmp_path / "tiny")), out, OPTIONS)
    assert contents(out) == before
    assert (
        encode_tiles(
            tiles, codec, out, EncodeOptions(views=4, batch_size=3), force=True
        ).latents.num_views
        == 4
    )


@pytest.mark.parametrize(
    "theirs", ["latents.npy", "reconstruction.png", "shard-000000.tar", "journal.jsonl"]
)
def test_a_folder_of_someone_else_is_left_alone(
    manifest: Path, codec_folder: Path, tmp_path: Path, theirs: str
) -> None:
    tiles, codec = open_tiles(manifest), load_codec(codec_folder)
    (tmp_path / theirs).write_bytes(b'{"a": "journal of something else"}\n')
    for force in (False, True):
        with pytest.raises(UsageError, match="not empty") as caught:
            encode_tiles(tiles, codec, tmp_path, OPTIONS, force=force)
        assert theirs in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [theirs]
    assert (tmp_path / theirs).read_bytes() == b'{"a": "journal of something else"}\n'


@pytest.mark.parametrize("force", [False, True])
def test_wherever_a_run_is_killed_the_next_one_knows_the_folder(
    manifest: Path,
    codec_folder: Path,
    tmp_path: Path,
    expected: dict[str, bytes],
    force: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed before the first file is opened, before the second, and so on, each time in what the
    run before left.
    """
    tiles, codec, out = open_tiles(manifest), load_codec(codec_folder), tmp_path / "latents"
    if force:
        encode_tiles(tiles, codec, out, EncodeOptions(views=1, batch_size=3))
    original, left = Path.open, 0

    def counted(path: Path, *rest: Any, **more: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise Stop
        return original(path, *rest, **more)

    for number in range(12):
        left = number
        with monkeypatch.context() as patch, pytest.raises(Stop):
            patch.setattr(Path, "open", counted)
            encode_tiles(tiles, codec, out, OPTIONS, force=force)
    encode_tiles(tiles, codec, out, OPTIONS, force=force)
    assert contents(out) == expected


def test_after_a_new_split_only_the_scaling_is_measured_again(
    manifest: Path, codec_folder: Path, tmp_path: Path
) -> None:
    codec, out = load_codec(codec_folder), tmp_path / "latents"
    first = encode_tiles(open_tiles(manifest), codec, out, OPTIONS).latents
    root = str(manifest.parents[1] / "data")
    assert (
        histoprep(
            [
                "--quiet",
                "manifest",
                root,
                "--workspace",
                str(tmp_path / "again"),
                "--split",
                "0.5/0.5",
                "--seed",
                "3",
            ]
        )
        == 0
    )
    other = open_tiles(tmp_path / "again" / "manifest.parquet")
    result = encode_tiles(other, codec, out, OPTIONS)
    assert result.num_encoded == 0 and result.latents.statistics["mean"] != first.statistics["mean"]
    result.latents.match(other)


def test_the_codecs_own_scaling(manifest: Path, codec_folder: Path, tmp_path: Path) -> None:
    codec = load_codec(codec_folder)
    latents = encode_tiles(
        open_tiles(manifest), codec, tmp_path, EncodeOptions(scaling="codec")
    ).latents
    assert latents.scaling.shift == (0.0,) * 4 and np.allclose(latents.scaling.scale, 1 / 0.18215)
    assert latents.statistics["std"] != list(latents.scaling.scale)


def test_one_flipped_bit_is_found(manifest: Path, codec_folder: Path, tmp_path: Path) -> None:
    tiles, codec = open_tiles(manifest), load_codec(codec_folder)
    encode_tiles(tiles, codec, tmp_path, OPTIONS)
    data = bytearray((tmp_path / "latents.npy").read_bytes())
    data[len(data) // 2] ^= 4
    (tmp_path / "latents.npy").write_bytes(data)
    with pytest.raises(LatentSetError, match="bytes differ from their digest"):
        encode_tiles(tiles, codec, tmp_path, OPTIONS)


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    path = write_tiles(tmp_path / "data", NUM_TILES, SIZE)
    (tmp_path / "data" / "tile006.png").write_bytes(b"not an image")
    return path


def test_an_unreadable_tile_stops_or_is_skipped_and_counted(
    damaged: Path, codec_folder: Path, tmp_path: Path
) -> None:
    tiles, codec = open_tiles(damaged), load_codec(codec_folder)
    with pytest.raises(HistoprepError, match="tile006"):
        encode_tiles(tiles, codec, tmp_path / "stop", OPTIONS)
    result = encode_tiles(
        tiles, codec, tmp_path / "skip", EncodeOptions(batch_size=3, on_unreadable="skip")
    )
    assert result.skipped == ("tile006",) and result.latents.summary["skipped"] == ["tile006"]
    broken = int(np.flatnonzero(tiles.tile_ids == "tile006")[0])
    data = LatentDataset(result.latents, tiles, single_stream(np.arange(NUM_TILES)), 0)
    batch = data.batch(np.arange(NUM_TILES))
    assert broken not in batch["row"].tolist() and batch["num_skipped"].sum() == 1
    assert batch["row"][batch["num_skipped"] == 1].tolist() == [(broken + 1) % NUM_TILES]
    with pytest.raises(IncompleteError, match="no tile of stream"):
        LatentDataset(result.latents, tiles, single_stream(np.array([broken])), 0).batch(
            np.arange(1)
        )


@pytest.mark.parametrize(("fit", "windows", "corner"), [("crop", 1, (8, 8)), ("tile", 4, (0, 0))])
def test_larger_tiles_are_refused_cropped_or_cut(
    manifest: Path,
    codec_folder: Path,
    tmp_path: Path,
    fit: str,
    windows: int,
    corner: tuple[int, int],
) -> None:
    tiles, codec = open_tiles(manifest), load_codec(codec_folder)
    with pytest.raises(UsageError, match="not of the training size") as refused:
        encode_tiles(tiles, codec, tmp_path, EncodeOptions(image_size=16))
    assert "set --image-size to the size of the tiles, or --fit to crop or tile" in str(
        refused.value
    )
    with pytest.raises(UsageError, match="with a smaller --image-size"):
        encode_tiles(tiles, codec, tmp_path, EncodeOptions(image_size=64, fit=fit))  # type: ignore[arg-type]
    latents = encode_tiles(tiles, codec, tmp_path, EncodeOptions(image_size=16, fit=fit)).latents  # type: ignore[arg-type]
    first, count = latents.match(tiles)
    assert count.tolist() == [windows] * NUM_TILES and len(latents.array) == windows * NUM_TILES
    top, left = corner
    square = image_of(int(str(tiles.tile_ids[3])[-3:]), SIZE)[top : top + 16, left : left + 16]
    assert np.allclose(
        latents.raw(int(first[3]))[0],
        codec.encode(torch.from_numpy(to_float(square))[None]).mean[0],
        atol=2e-3,
    )
    drawn = LatentDataset(
        latents, tiles, single_stream(np.array([3])), 0, sample_posterior=False
    ).batch(np.arange(60))["latents"]
    assert len(drawn.flatten(1).unique(dim=0)) == windows


def test_mixed_sizes_ask_for_a_size(tmp_path: Path, codec_folder: Path) -> None:
    from histoprep.imageio import encode_rgb_png

    (tmp_path / "data").mkdir()
    for index in range(6):
        (tmp_path / "data" / f"t{index}.png").write_bytes(
            encode_rgb_png(image_of(index, 32 + 8 * (index % 2)))
        )
    assert histoprep(["--quiet", "manifest", str(tmp_path / "data")]) == 0
    with pytest.raises(UsageError, match="not square and of one size") as caught:
        encode_tiles(
            open_tiles(tmp_path / "data.histoprep" / "manifest.parquet"),
            load_codec(codec_folder),
            tmp_path / "out",
            OPTIONS,
        )
    assert "--image-size" in str(caught.value)


def test_a_second_writer_is_turned_away(manifest: Path, codec_folder: Path, tmp_path: Path) -> None:
    hold = (
        "import sys, time; from pathlib import Path; from histoprep.durable import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with pytest.raises(LockedError):
            encode_tiles(open_tiles(manifest), load_codec(codec_folder), tmp_path, OPTIONS)
    finally:
        holder.kill()
        holder.wait()


def test_a_full_disk_is_an_error_that_can_be_repaired(
    manifest: Path,
    codec_folder: Path,
    tmp_path: Path,
    expected: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import resource

    tiles, codec = open_tiles(manifest), load_codec(codec_folder)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        # Half of latents.npy: EFBIG stands in for ENOSPC, which needs a file system of its own.
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(expected["latents.npy"]) // 2, hard))
        with pytest.raises(OutputError, match="cannot write"):
            encode_tiles(tiles, codec, tmp_path, OPTIONS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    encode_tiles(tiles, codec, tmp_path, OPTIONS)
    assert contents(tmp_path) == expected


def test_the_report_tells_what_the_codec_costs(
    manifest: Path, codec_folder: Path, tmp_path: Path
) -> None:
    tiles, codec = open_tiles(manifest), load_codec(codec_folder)
    latents = encode_tiles(tiles, codec, tmp_path, OPTIONS).latents
    numbers = report_codec(latents, tiles, codec, num_tiles=5)
    assert (
        numbers == json.loads((tmp_path / "reconstruction.json").read_text())
        and numbers["num_tiles"] == 5
    )
    tile_id, found = next(iter(numbers["tiles"].items()))
    original = image_of(int(tile_id[-3:]), SIZE)
    decoded = to_uint8(
        codec.decode(codec.encode(torch.from_numpy(to_float(original))[None]).mean)[0].numpy()
    )
    error = np.mean((original.astype(float) - decoded) ** 2)
    assert abs(found["psnr_db"] - 10 * np.log10(255**2 / error)) < 0.05
    sheet = decode_rgb((tmp_path / "reconstruction.png").read_bytes())
    assert sheet.shape == (5 * SIZE + 4 * 4, 3 * SIZE + 2 * 4, 3)
    worst = min(numbers["tiles"], key=lambda item: numbers["tiles"][item]["psnr_db"])
    assert np.array_equal(sheet[:SIZE, :SIZE], image_of(int(worst[-3:]), SIZE))
    assert b"synthetic" in (tmp_path / "reconstruction.png").read_bytes()


@pytest.mark.parametrize("size", ["-8", "0"])
def test_a_size_below_one_pixel_is_refused(
    manifest: Path,
    codec_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    size: str,
) -> None:
    arguments = [
        "encode",
        "--manifest",
        str(manifest),
        "--codec",
        str(codec_folder),
        "--out",
        str(tmp_path / "out"),
        "--fit",
        "crop",
    ]
    assert run([*arguments, "--image-size", size]) == ExitCode.USAGE
    assert f"--image-size {size}" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_crops_below_the_window_of_ssim_are_reported_without_it(
    manifest: Path, codec_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "encode",
        "--manifest",
        str(manifest),
        "--codec",
        str(codec_folder),
        "--out",
        str(tmp_path / "out"),
        "--fit",
        "crop",
    ]
    assert (
        run([*arguments, "--num-workers", "0", "--image-size", "8", "--report", "3"]) == ExitCode.OK
    )
    printed = capsys.readouterr()
    assert (
        "PSNR" in printed.out
        and "SSIM" not in printed.out
        and "SSIM is left out: crops of 8 px" in printed.err
    )
    numbers = json.loads((tmp_path / "out" / "reconstruction.json").read_text())
    assert numbers["ssim"] is None and numbers["psnr_db"]["mean"] > 0
    assert [value["ssim"] for value in numbers["tiles"].values()] == [None] * 3


def test_the_command(
    manifest: Path, codec_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = [
        "encode",
        "--manifest",
        str(manifest),
        "--out",
        str(tmp_path / "out"),
        "--num-workers",
        "0",
        "--report",
        "4",
    ]
    assert run([*common, "--codec", str(codec_folder), "--views", "2"]) == ExitCode.OK
    printed = capsys.readouterr()
    assert "diffusion.flow_shift=" in printed.err
    assert "20 crops as 4 x 4 x 4 latents, 2 views" in printed.out and "PSNR" in printed.out
    assert run([*common, "--codec", str(codec_folder), "--views", "3", "--force"]) == ExitCode.USAGE
    assert run([*common, "--codec", str(tmp_path / "nothing")]) == ExitCode.USAGE
    assert "there is no codec here" in capsys.readouterr().err


def test_latents_are_never_written_into_the_data_set(
    manifest: Path, codec_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inside = manifest.parent.with_name("data") / "latents"
    assert (
        run(
            [
                "encode",
                "--manifest",
                str(manifest),
                "--codec",
                str(codec_folder),
                "--out",
                str(inside),
            ]
        )
        == ExitCode.USAGE
    )
    assert (
        "latents must not mix with the data set" in capsys.readouterr().err and not inside.exists()
    )


def test_the_command_lists_what_it_skipped(
    damaged: Path, codec_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "encode",
        "--manifest",
        str(damaged),
        "--codec",
        str(codec_folder),
        "--num-workers",
        "0",
        "--report",
        "2",
    ]
    assert run(arguments) == ExitCode.INTEGRITY
    assert run([*arguments, "--on-unreadable", "skip", "--force"]) == ExitCode.INCOMPLETE
    assert "not encoded: tile006" in capsys.readouterr().err
    assert (damaged.parent / "latents" / "latents.json").exists()


@pytest.mark.parametrize(("name", "channels"), [("taesd", 4), ("taesd3", 16)])
def test_real_tissue_through_real_tiny_codecs(
    shared_data: Path, tmp_path: Path, name: str, channels: int
) -> None:
    source = shared_data / "diffinfinite" / "inpainting"
    for image in sorted(source.glob("*.jpg"))[:3]:
        for path in (image, image.with_name(f"{image.stem}_mask.png")):
            (tmp_path / "data").mkdir(exist_ok=True)
            shutil.copyfile(path, tmp_path / "data" / path.name)
    assert histoprep(["--quiet", "manifest", str(tmp_path / "data"), "--split", "0.67/0.33"]) == 0
    tiles, codec = (
        open_tiles(tmp_path / "data.histoprep" / "manifest.parquet"),
        load_codec(shared_data / "taesd_diffusers" / name),
    )
    latents = encode_tiles(
        tiles, codec, tmp_path / "latents", EncodeOptions(image_size=128, fit="crop", batch_size=1)
    ).latents
    assert latents.shape == (channels, 16, 16) and not latents.has_std
    assert report_codec(latents, tiles, codec, num_tiles=2)["psnr_db"]["min"] > 17


def test_a_tile_is_read_once_for_all_its_crops(codec_folder: Path, tmp_path: Path) -> None:
    manifest = write_tiles(tmp_path / "data", 4, 2 * SIZE)
    opened: list[str] = []
    watching = True

    def spy(event: str, arguments: tuple[object, ...]) -> None:
        if watching and event == "open" and str(arguments[0]).endswith(".png"):
            opened.append(Path(str(arguments[0])).name)

    sys.addaudithook(spy)
    options = EncodeOptions(views=1, batch_size=3, image_size=SIZE, fit="tile")
    result = encode_tiles(
        open_tiles(manifest), load_codec(codec_folder), tmp_path / "latents", options
    )
    watching = False
    assert result.num_entries == 4 * 4
    assert opened and max(Counter(opened).values()) <= 2  # an image and its mask share a name
    assert len(opened) <= 8


def test_a_set_begun_with_longer_chunks_is_finished_as_it_is(
    manifest: Path, codec_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiles, codec = open_tiles(manifest), load_codec(codec_folder)
    monkeypatch.setattr(trainer.encode, "_CHUNK_BYTES", 12 * 2 * 2 * 2 * 4 * 4 * 4)
    encode_tiles(tiles, codec, tmp_path / "whole", OPTIONS)
    with pytest.raises(Stop):
        encode_tiles(tiles, codec, tmp_path / "stopped", OPTIONS, advance=stop_after(13))
    # Now chunks of 3 crops: what is there stays, and a whole set needs nothing more.
    monkeypatch.setattr(trainer.encode, "_CHUNK_ENTRIES", 3)
    assert encode_tiles(tiles, codec, tmp_path / "whole", OPTIONS).num_encoded == 0
    assert encode_tiles(tiles, codec, tmp_path / "stopped", OPTIONS).num_encoded == NUM_TILES - 12
    lines = (tmp_path / "stopped" / JOURNAL).read_text().splitlines()
    assert len(lines) == 1 + 1 + 3
    for name in ("latents.npy", "latents.json", "entries.parquet"):
        first, second = ((tmp_path / run / name).read_bytes() for run in ("whole", "stopped"))
        assert first == second, name
