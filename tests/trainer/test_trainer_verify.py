"""`trainer verify`: every file of runs, latent sets and synthetic data sets is protected, and the
commands that use them notice.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_codecs import save_kl

from histoprep.checksums import IMAGE_STATES, STATES
from histoprep.cli import run as histoprep
from histoprep.errors import ExitCode, UsageError
from histoprep.verify import verify as toolkit_verify
from histoprep.verify import walk
from trainer.cli import run
from trainer.verify import verify

SETS = [
    "data.image_size=64",
    "data.num_workers=0",
    "model.dim=8",
    "batch_size=4",
    "duration.steps=4",
    "validation.num_tiles=4",
    "encoding.views=1",
    "data.flips=false",
    "data.turns=false",
]
EVERY = [
    "every.log=2",
    "every.validate=2",
    "every.checkpoint=2",
    "every.images=4",
    "sampling.num_images=2",
    "sampling.num_inference_steps=2",
]
FAST = ["--num-workers", "0", "--device", "cpu"]


class Made:
    """What the commands made, and the commands."""

    def __init__(self, home: Path, manifest: Path) -> None:
        self.home, self.codec = home, save_kl(home / "codec")
        self.encode = [
            "encode",
            "--manifest",
            str(manifest),
            "--codec",
            str(self.codec),
            "--out",
            str(home / "latents"),
            "--report",
            "2",
            *FAST,
        ]
        chosen = [part for item in [*SETS, *EVERY] for part in ("--set", item)]
        named = [
            "--manifest",
            str(manifest),
            "--latents",
            str(home / "latents"),
            "--out",
            str(home / "run"),
        ]
        self.fit = ["fit", "--force", "--preset", "ldm-tiny", *named, *chosen]
        drawn = [
            "--checkpoint",
            str(home / "run"),
            "--masks",
            str(manifest),
            "--out",
            str(home / "synthetic"),
            "--codec",
            str(self.codec),
        ]
        self.sample = [
            "sample",
            *drawn,
            "--steps",
            "2",
            "--limit",
            "6",
            "--batch-size",
            "2",
            "--device",
            "cpu",
        ]
        for command in (self.encode, self.fit, [*self.sample, "--real"]):
            assert run(["--quiet", *command]) == ExitCode.OK


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, demo_manifest: Path) -> Made:
    return Made(tmp_path_factory.mktemp("verify"), demo_manifest)


@pytest.fixture
def alone(made: Made, tmp_path: Path) -> Iterator[Made]:
    """Return the same; what a test does to it is undone."""
    shutil.copytree(made.home, tmp_path / "kept")
    yield made
    shutil.rmtree(made.home)
    shutil.copytree(tmp_path / "kept", made.home)


def flip(path: Path, place: float = 0.5) -> None:
    """Change one bit, and leave the modification time as it was."""
    status, data = path.stat(), bytearray(path.read_bytes())
    data[min(len(data) - 1, int(len(data) * place))] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


TREES = ("run", "latents", "synthetic")


def files_of(home: Path, tree: str) -> list[Path]:
    folders = [home / tree, *([home / "synthetic.histoprep"] if tree == "synthetic" else [])]
    return [path for folder in folders for path in walk(folder)]


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.slow
def test_untouched_trees_are_fine_and_every_file_of_them_is_read(made: Made, tree: str) -> None:
    found = verify(made.home / tree)
    assert (found.damages, found.notes) == ([], [] if tree != "synthetic" else found.notes)
    assert not any("no checksum" in note for note in found.notes), found.notes
    # Lists of checksums are no files of their own: each is checked with what it lists.
    assert found.num_files == len(
        [path for path in files_of(made.home, tree) if path.name != "SHA256SUMS"]
    )
    assert run(["--quiet", "verify", str(made.home / tree)]) == ExitCode.OK


@pytest.mark.parametrize("tree", TREES)
def test_one_flipped_bit_of_any_file_is_found_and_named(made: Made, tree: str) -> None:
    lists = [
        path
        for folder in (made.home / tree, made.home / f"{tree}.histoprep")
        for path in folder.rglob("checksums.json")
    ]
    files = [*files_of(made.home, tree), *lists]
    assert len(files) > 5 and lists
    for path in files:
        for place in (0.0, 0.5, 1.0):
            whole = path.read_bytes()
            flip(path, place)
            damages = {damage.path for damage in verify(made.home / tree).damages}
            path.write_bytes(whole)
            # A damaged digest of a file looks like a damaged file.
            named = (
                damages
                if path.name != "SHA256SUMS"
                else {str(Path(damage).with_name(path.name)) for damage in damages}
            )
            assert str(path) in named, (path, place)
    assert verify(made.home / tree).damages == []


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("run/config.yml", "sample"),
        ("run/config.yml", "fit"),
        ("run/model.json", "sample"),
        ("run/certificate.json", "fit"),
        ("run/finished.json", "fit"),
        ("run/checkpoints/best-*/ema.safetensors", "sample"),
        ("run/checkpoints/best-*/weights.safetensors", "sample"),
        ("run/checkpoints/best-*/state.json", "sample"),
        ("run/checkpoints/best-*/SHA256SUMS", "sample"),
        ("run/checksums.json", "sample"),
        ("latents/latents.json", "anew"),
        ("latents/entries.parquet", "anew"),
        ("latents/latents.npy", "anew"),
        ("latents/mask_values.bin", "anew"),
        ("latents/mask_lengths.bin", "anew"),
        ("latents/mask_counts.bin", "anew"),
        ("latents/journal.jsonl", "encode"),
        ("latents/latents.npy", "encode"),
        ("synthetic/images/**/*.png", "sample"),
        ("synthetic/masks/**/*.png", "sample"),
        ("synthetic.histoprep/sampling.json", "sample"),
        ("synthetic.histoprep/digests.jsonl", "sample"),
        ("synthetic.histoprep/split.csv", "sample"),
    ],
)
def test_commands_notice_what_they_use(
    alone: Made, capsys: pytest.CaptureFixture[str], name: str, command: str
) -> None:
    # Of the best checkpoints, the last is used.
    victim = max(alone.home.glob(name))
    flip(victim)
    anew = [*alone.fit[:-1], alone.fit[-1], "--out", str(alone.home / "other")]
    assert (
        run(
            {"sample": alone.sample, "fit": alone.fit, "encode": alone.encode, "anew": anew}[
                command
            ]
        )
        == ExitCode.INTEGRITY
    )
    output = capsys.readouterr().err
    assert victim.name in output or (victim.name == "SHA256SUMS" and str(victim.parent) in output)


@pytest.mark.parametrize(
    ("name", "old", "new", "command"),
    [
        ("run/config.yml", "prediction_type: v", "prediction_type: epsilon", "sample"),
        ("latents/latents.json", '"scale": [\n', '"scale": [\n      9.6,\n', "anew"),
    ],
)
def test_one_edited_value_is_an_error_and_no_other_result(
    alone: Made, capsys: pytest.CaptureFixture[str], name: str, old: str, new: str, command: str
) -> None:
    victim = alone.home / name
    text = victim.read_text()
    assert old in text
    victim.write_text(text.replace(old, new))
    assert (
        run(
            alone.sample
            if command == "sample"
            else [*alone.fit, "--out", str(alone.home / "other")]
        )
        == ExitCode.INTEGRITY
    )
    output = capsys.readouterr().err
    assert str(victim) in output and "expected" in output and "try:" in output
    assert [damage.path for damage in verify(victim.parent).damages] == [str(victim)]


def test_force_makes_changed_images_again(alone: Made) -> None:
    images = sorted((alone.home / "synthetic").rglob("*.png"))
    before = {path: path.read_bytes() for path in images}
    flip(images[1])
    flip(images[-1])
    assert run(["--quiet", *alone.sample]) == ExitCode.INTEGRITY
    assert run(["--quiet", *alone.sample, "--force"]) == ExitCode.OK
    assert {path: path.read_bytes() for path in images} == before
    assert verify(alone.home / "synthetic").damages == []


def test_a_image_flipped_behind_our_back_is_found_with_verify(alone: Made) -> None:
    from histoprep.checksums import Expected, FileStates, state_of
    from trainer.sampling.digest_journal import read_digests

    workspace = alone.home / "synthetic.histoprep"
    flip(next((alone.home / "synthetic/images").rglob("*.png")))
    listed = [Expected(*value) for value in read_digests(workspace).items()]
    # As if the file system said that nothing happened.
    states = {
        entry.name: state_of((alone.home / "synthetic" / entry.name).stat(), entry.checksum.digest)
        for entry in listed
    }
    FileStates.of(states).write(workspace / IMAGE_STATES)
    assert run(["--quiet", *alone.sample]) == ExitCode.OK
    assert run(["--quiet", *alone.sample, "--verify"]) == ExitCode.INTEGRITY


def test_resumed_trees_are_fine(alone: Made) -> None:
    # An image that is gone, a run that goes on, and a set whose report is drawn again.
    next((alone.home / "synthetic/images").rglob("*.png")).unlink()
    (alone.home / "run/finished.json").unlink()
    for command in (alone.sample, alone.fit, alone.encode):
        assert run(["--quiet", *command]) == ExitCode.OK
    for tree in TREES:
        assert verify(alone.home / tree).damages == []


def test_a_synthetic_set_that_grows_is_fine(alone: Made) -> None:
    more = [*alone.sample]
    more[more.index("--limit") + 1] = "9"
    assert run(["--quiet", *more]) == ExitCode.OK
    found = verify(alone.home / "synthetic")
    assert found.damages == [] and len(list((alone.home / "synthetic/images").rglob("*.png"))) == 9


@pytest.mark.slow
def test_trees_of_earlier_versions_are_used(alone: Made) -> None:
    for path in [
        *alone.home.rglob("checksums.json"),
        alone.home / "synthetic.histoprep/digests.jsonl",
        *alone.home.rglob(STATES),
    ]:
        path.unlink()
    for command in (alone.sample, alone.fit, [*alone.fit, "--out", str(alone.home / "other")]):
        assert run(["--quiet", *command]) == ExitCode.OK
    # What was used is protected from here on.
    flip(next((alone.home / "synthetic/images").rglob("*.png")))
    assert run(["--quiet", *alone.sample]) == ExitCode.INTEGRITY


def test_each_program_names_the_other_for_its_kinds(made: Made, demo_manifest: Path) -> None:
    kinds = {
        made.home / "run": "run",
        made.home / "latents": "latent set",
        made.home / "synthetic": "synthetic data set",
    }
    kinds |= {next((made.home / "run/checkpoints").iterdir()): "checkpoint"}
    for path, kind in kinds.items():
        assert verify(path).kind == kind
        with pytest.raises(UsageError) as caught:
            toolkit_verify(path)
        assert caught.value.hint == f"trainer verify {path}"
        assert histoprep(["--quiet", "verify", str(path)]) == ExitCode.USAGE
    with pytest.raises(UsageError) as caught:
        verify(demo_manifest.parent)
    assert caught.value.hint == f"histoprep verify {demo_manifest.parent}"
    with pytest.raises(UsageError) as caught:
        verify(made.codec)
    assert "latent set" in str(caught.value.expected)
