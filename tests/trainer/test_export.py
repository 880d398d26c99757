"""Exports work in a process that has neither package, and give the very same numbers."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from local_hub import TOKEN, LocalHub, serving
from small_codecs import save_kl

from histoprep import checksums
from histoprep.errors import ExitCode
from histoprep.labels import identity_map, load_label_map
from trainer import presets
from trainer.classification.network import open_classifier
from trainer.cli import run as run_command
from trainer.config_layers import dump_config
from trainer.data.latent_scaling import LatentScaling
from trainer.diffusion.objectives import Objective
from trainer.diffusion.samplers import Solver, sample, scheduler_of
from trainer.engine.checkpoints import CheckpointFolder, Snapshot, load_run_config
from trainer.recipes import segmenter
from trainer.recipes.codecs import load_codec
from trainer.recipes.diffmic_config import Config as DiffmicConfig
from trainer.recipes.diffmic_inference import (
    build_classifier,
    build_denoiser,
    draw_starts,
    start_generator,
    uses_distinct_points,
)
from trainer.recipes.ldm import load_generator
from trainer.recipes.ldm_config import Config
from trainer.recipes.ldm_data import ModelFacts
from trainer.sampling.generator import SamplingOptions

torch.set_num_threads(1)
pytestmark = pytest.mark.timeout(300)
NUM_CLASSES = 4
MODELS = {
    "reference-unet": {"dim": 8, "dim_mults": [1, 2], "block_per_layer": 1},
    "mask-unet": {"dim": 8, "dim_mults": [1, 2], "block_per_layer": 1},
}
# A process in which both packages cannot be imported, as on another machine. It runs each script in
# a copy of itself, so that the libraries are imported once for all tests.
ELSEWHERE = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("trainer", "histoprep"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
import json, os, traceback
import numpy as np
import torch
torch.set_num_threads(1)
if sys.argv[1] == "diffusers":
    from diffusers import DiffusionPipeline
for line in sys.stdin:
    script, folder, *arguments = json.loads(line)
    process = os.fork()
    if process == 0:
        try:
            os.chdir(folder)
            sys.argv[1:] = arguments
            exec(script, {"__name__": "__main__", "np": np, "torch": torch, "sys": sys})
        except BaseException:
            traceback.print_exc(file=open("error.txt", "w"))
            os._exit(1)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
"""
PIPELINE = """
from diffusers import DiffusionPipeline
place, masks, out = sys.argv[1:]
pipeline = DiffusionPipeline.from_pretrained(place, custom_pipeline=place, trust_remote_code=True)
np.save(out, pipeline(np.load(masks), names=["a", "b"], seed=3, output_type="np").images)
"""
PROGRAM = """
place, images, out = sys.argv[1:]
program = torch.export.load(place).module()
np.save(out, program(torch.from_numpy(np.load(images))).numpy())
"""


class Elsewhere:
    """Runs scripts where neither package is; a process that imported `library`, for each."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._processes: dict[str, subprocess.Popen[str]] = {}

    def run(self, library: str, script: str, folder: Path, *arguments: Path) -> None:
        """Run a script in a folder; `sys.argv[1:]` are the arguments."""
        if library not in self._processes:
            home = {"HF_HOME": str(self._home), "HF_HUB_OFFLINE": "1"}
            self._processes[library] = subprocess.Popen(
                [sys.executable, "-c", ELSEWHERE, library],
                env={"PATH": "/usr/bin:/bin", **home},
                cwd=self._home,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        process = self._processes[library]
        assert process.stdin is not None and process.stdout is not None
        # Code that diffusers kept of an export before.
        shutil.rmtree(self._home / "modules", ignore_errors=True)
        print(json.dumps([script, *map(str, (folder, *arguments))]), file=process.stdin, flush=True)
        ended = process.stdout.readline().strip()
        error = folder / "error.txt"
        assert ended == "0", error.read_text()[-3000:] if error.exists() else ended

    def close(self) -> None:
        """End the processes."""
        for process in self._processes.values():
            process.communicate(timeout=60)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elsewhere]:
    place = Elsewhere(tmp_path_factory.mktemp("home"))
    yield place
    place.close()


def test_neither_package_is_elsewhere(elsewhere: Elsewhere, tmp_path: Path) -> None:
    for library in ("torch", "diffusers"):
        for package in ("trainer", "histoprep"):
            with pytest.raises(AssertionError, match=f"ModuleNotFoundError: {package}"):
                elsewhere.run(library, f"import {package}", tmp_path)
    # A program of torch.export is run where nobody imported diffusers.
    with pytest.raises(AssertionError, match="AssertionError"):
        elsewhere.run("torch", "assert 'diffusers' in sys.modules", tmp_path)


def _write_run(run: Path, config: Any, module: torch.nn.Module) -> None:
    run.mkdir()
    weights = module.state_dict()
    CheckpointFolder(run / "checkpoints").save_best(Snapshot({"weights": weights}, {"step": 7}))
    checksums.publish_file(run, "config.yml", dump_config(config))


def _ldm_run(run: Path, kind: str) -> None:
    codec_folder = run.with_name("codec")
    save_kl(codec_folder)
    codec = load_codec(codec_folder)
    config = Config.model_validate(
        {
            "recipe": "ldm",
            "manifest": "none",
            "out": str(run),
            "codec": str(codec_folder),
            "model": {"name": kind, **MODELS[kind]},
            "diffusion": {"prediction_type": "flow" if kind == "mask-unet" else "v"},
            "sampling": {
                "num_inference_steps": 4,
                "solver": "heun" if kind == "mask-unet" else "dpm++",
                "guidance_scale": 1.5,
            },
        }
    )
    torch.manual_seed(0)
    denoiser = config.model.build(NUM_CLASSES, codec.channels)
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    _write_run(run, config, denoiser)
    scaling = LatentScaling("measured", (0.1,) * codec.channels, (0.7,) * codec.channels)
    classes = identity_map(range(NUM_CLASSES))
    ModelFacts(classes, codec.channels, scaling, str(codec_folder), codec.digest).write(run)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.slow
def test_a_folder_of_diffusers_gives_the_same_pixels_elsewhere(
    elsewhere: Elsewhere, tmp_path: Path, kind: str
) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    _ldm_run(run, kind)
    assert run_command(["export", str(run), "--out", str(out)]) == ExitCode.OK
    generator = load_generator(run)
    side = generator.multiple_px * 2
    masks = np.random.default_rng(1).integers(0, NUM_CLASSES, (2, side, side)).astype(np.uint8)
    solver = Solver("heun" if kind == "mask-unet" else "dpm++", 4)
    expected = generator.generate(masks, ["a", "b"], SamplingOptions(1.5, solver, 3))
    np.save(tmp_path / "masks.npy", masks)
    elsewhere.run(
        "diffusers", PIPELINE, tmp_path, out, tmp_path / "masks.npy", tmp_path / "images.npy"
    )
    assert np.array_equal(np.load(tmp_path / "images.npy"), expected)
    assert expected.std() > 1


SCHEDULER = """
from diffusers import DiffusionPipeline
place, noise, out = sys.argv[1:]
pipeline = DiffusionPipeline.from_pretrained(place, custom_pipeline=place, trust_remote_code=True)
scheduler = pipeline.scheduler
scheduler.set_timesteps(4)
x = torch.from_numpy(np.load(noise))
for step in scheduler.timesteps:
    x = scheduler.step(torch.tanh(x), step, x, return_dict=False)[0]
np.save(out, x.numpy())
"""


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.slow
def test_the_scheduler_of_an_export_takes_the_steps_of_the_solver(
    elsewhere: Elsewhere, tmp_path: Path, kind: str
) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    _ldm_run(run, kind)
    assert run_command(["export", str(run), "--out", str(out)]) == ExitCode.OK
    config = json.loads((out / "scheduler" / "scheduler_config.json").read_text())
    index = json.loads((out / "model_index.json").read_text())
    assert index["scheduler"] == ["diffusers", config["_class_name"]]
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "noise.npy", noise.numpy())
    elsewhere.run(
        "diffusers", SCHEDULER, tmp_path, out, tmp_path / "noise.npy", tmp_path / "latents.npy"
    )
    generator = load_generator(run)
    solver = Solver("heun" if kind == "mask-unet" else "dpm++", 4)
    expected = sample(lambda x, _: torch.tanh(x), noise, generator.objective, solver)
    np.testing.assert_allclose(np.load(tmp_path / "latents.npy"), expected.numpy(), rtol=0, atol=0)


ALIKE = [
    (Objective("v"), Solver("dpm++", 25), True),
    (Objective("epsilon"), Solver("dpm++", 10), True),
    (Objective("v"), Solver("dpm++", 10, spacing="log_snr"), False),
    (Objective("v"), Solver("ddim", 25), True),
    (Objective("flow"), Solver("heun", 10), True),
    (Objective("flow"), Solver("dpm++", 10), True),
    (Objective("flow"), Solver("euler", 10), False),
]


@pytest.mark.parametrize(("objective", "solver", "expected"), ALIKE)
def test_schedulers_are_exported_only_where_they_take_the_same_steps(
    objective: Objective, solver: Solver, expected: bool
) -> None:
    scheduler = scheduler_of(objective, solver)
    assert (scheduler is not None) == expected
    if scheduler is None:
        return
    noise = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    x = noise
    for step in scheduler.timesteps:
        x = scheduler.step(torch.sin(x), step, x, return_dict=False)[0]
    assert torch.equal(x, sample(lambda each, _: torch.sin(each), noise, objective, solver))


CLASSIFIER = """
import functools
# The lines of the card load the same file.
torch.export.load = functools.cache(torch.export.load)
place, images, draws, out = sys.argv[1:]
program = torch.export.load(place).module()
found = program(*(torch.from_numpy(np.load(path)) for path in (images, draws)))
np.savez(out, *(each.numpy() for each in found))
"""


# Steps are unrolled in the program; one shows the loop.
@pytest.mark.parametrize(("start", "steps"), [("gaussian_diagonal", 2), ("uniform_map", 1)])
@pytest.mark.slow
def test_a_classifier_is_a_program_elsewhere(
    elsewhere: Elsewhere, tmp_path: Path, start: str, steps: int
) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    values = yaml.safe_load((Path(presets.__file__).parent / "diffmic-tiny.yml").read_text())
    values |= {"manifest": "none", "out": str(run)}
    values["diffusion"] |= {"start": start, "num_inference_steps": steps, "num_samples": 2}
    values["guidance"]["num_regions"] = 2
    config = DiffmicConfig.model_validate(values)
    torch.manual_seed(0)
    names = ["normal", "tumour", "scar"]
    for stage, module in (
        ("guidance", build_classifier(config, 3)),
        ("diffusion", build_denoiser(config, 3)),
    ):
        weights = {"weights": module.state_dict()}
        CheckpointFolder(run / stage / "checkpoints").save_best(Snapshot(weights, {"step": 7}))
    checksums.publish_file(run, "config.yml", dump_config(config))
    split = {"classes": names, "manifest_digest": "none"}
    checksums.publish_json(run, "split.json", split)
    assert run_command(["export", str(run), "--out", str(out)]) == ExitCode.OK
    model = open_classifier(run, device="cpu")
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    expected = model.classify(images, 4)
    distinct = uses_distinct_points(model.denoiser, model.diffusion)
    generator = start_generator(config.seed, 4)
    draws = draw_starts(model.diffusion, 3, 3, generator, distinct)
    for name, values_of in (("images", images), ("draws", draws)):
        np.save(tmp_path / f"{name}.npy", values_of.numpy())
    inputs = (Path("classifier.pt2"), tmp_path / "images.npy", tmp_path / "draws.npy")
    # The lines of the card run as they are printed.
    text = (out / "README.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    as_printed = f"{code}assert scores.shape == (1, 3)\n"
    elsewhere.run("torch", CLASSIFIER + as_printed, out, *inputs, tmp_path / "found.npz")
    found = list(np.load(tmp_path / "found.npz").values())
    spread = expected.samples.std(dim=0, correction=0)
    for seen, wanted in zip(found, (expected.scores, spread, expected.guidance.fused), strict=True):
        np.testing.assert_allclose(seen, wanted.numpy(), atol=1e-6)
    assert json.loads((out / "classes.json").read_text()) == names
    assert yaml.safe_load(text.split("---")[1])["pipeline_tag"] == "image-classification"
    assert all(f"| {number} | {name} |" in text for number, name in enumerate(names))


def test_a_card_has_classes_and_front_matter(tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    _ldm_run(run, "mask-unet")
    assert run_command(["export", str(run), "--out", str(out)]) == ExitCode.OK
    text = (out / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert front["library_name"] == "diffusers"
    for cls in load_label_map(out / "label_map.yml").classes:
        assert f"| {cls.id} | {cls.name} |" in text
    index = json.loads((out / "model_index.json").read_text())
    assert index["sampling"]["solver"]["num_inference_steps"] == 4
    # Nothing is written over.
    assert run_command(["export", str(run), "--out", str(out)]) == ExitCode.USAGE


def _segmenter_run(run: Path) -> None:
    config = segmenter.Config.model_validate(
        {
            "recipe": "segmenter",
            "manifest": "none",
            "out": str(run),
            "data": {"image_size": 64},
            "network": {"encoder": "unet", "width": 8, "num_stages": 3},
        }
    )
    torch.manual_seed(0)
    _write_run(run, config, segmenter.build_segmenter(config.network, NUM_CLASSES))
    classes = identity_map(range(NUM_CLASSES))
    checksums.publish_json(run, segmenter.FACTS, {"label_map": classes.to_json()})


def test_a_segmenter_is_a_program_that_needs_no_package(
    elsewhere: Elsewhere, tmp_path: Path
) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    _segmenter_run(run)
    assert run_command(["export", str(run), "--out", str(out)]) == ExitCode.OK
    images = np.random.default_rng(2).uniform(-1, 1, (3, 3, 64, 64)).astype(np.float32)
    with torch.no_grad():
        expected = segmenter.load_segmenter(run)[0](torch.from_numpy(images)).numpy()
    np.save(tmp_path / "images.npy", images)
    place = out / "segmenter.pt2"
    elsewhere.run(
        "torch", PROGRAM, tmp_path, place, tmp_path / "images.npy", tmp_path / "scores.npy"
    )
    assert np.load(tmp_path / "scores.npy") == pytest.approx(expected, abs=1e-5)


def _push(
    hub: LocalHub, run: Path, out: Path, *options: str, token: str = TOKEN
) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does, with a hub on this machine."""
    home = out.parent / "hub-home"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "OMP_NUM_THREADS": "1",
        **({"HF_TOKEN": token} if token else {}),
    }
    command = [sys.executable, "-m", "trainer", "export", str(run), "--out", str(out), *options]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert TOKEN not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    return done


def _contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_an_export_is_pushed_to_the_hub_privately(tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    _ldm_run(run, "mask-unet")
    with serving() as hub:
        done = _push(hub, run, out, "--push", "me/tissue")
        assert done.returncode == ExitCode.OK, done.stderr[-3000:]
        assert hub.visible == {"me/tissue": False}
        assert hub.files["me/tissue"] == _contents(out)
        assert f"{hub.address}/me/tissue" in done.stdout
        # Of this machine, nothing goes along.
        places = (str(tmp_path).encode(), str(Path.home()).encode() + b"/")
        for name, content in hub.files["me/tissue"].items():
            assert not any(place in content for place in places), name


def test_nothing_is_pushed_where_everybody_would_see_it_unless_that_is_said(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    _segmenter_run(run)
    with serving() as hub:
        hub.visible["me/open"] = True
        refused = _push(hub, run, tmp_path / "a", "--push", "me/open")
        assert refused.returncode == ExitCode.USAGE and not hub.files
        assert "everybody can see" in refused.stderr and "--public" in refused.stderr
        public = _push(hub, run, tmp_path / "b", "--push", "me/new", "--public")
        assert public.returncode == ExitCode.OK, public.stderr[-3000:]
        assert hub.visible["me/new"] and "segmenter.pt2" in hub.files["me/new"]


def test_a_push_that_cannot_be_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    _segmenter_run(run)
    with serving() as hub:
        for options, token, said in (
            (("--push", "me/tissue"), "", "hf auth login"),
            (("--push", "tissue"), TOKEN, "no owner"),
            (("--push", "me/a b"), TOKEN, "not the name"),
            (("--public",), TOKEN, "add --push"),
        ):
            done = _push(hub, run, out, *options, token=token)
            assert done.returncode == ExitCode.USAGE, done.stderr[-3000:]
            assert said in done.stderr and not out.exists()


def test_a_hub_that_refuses_leaves_the_export_and_says_how_to_go_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    _segmenter_run(run)
    with serving() as hub:
        hub.refuses = 403
        out = tmp_path / "refused"
        refused = _push(hub, run, out, "--push", "me/tissue")
        wrong = _push(hub, run, tmp_path / "wrong", "--push", "me/tissue", token="hf_wrong")
    away = _push(hub, run, tmp_path / "away", "--push", "me/tissue")
    for done, said in ((refused, "403"), (wrong, "401"), (away, "refused")):
        assert done.returncode == ExitCode.OUTPUT, done.stderr[-3000:]
        assert said in done.stderr and "hf upload me/tissue" in done.stderr
    assert (out / "segmenter.pt2").is_file()


def test_a_recipe_without_an_export_is_refused(toy_config: Any, tmp_path: Path) -> None:
    from trainer.engine.fit import fit

    fit(toy_config())
    assert run_command(["export", str(tmp_path / "run"), "--out", "x"]) == ExitCode.USAGE


@pytest.mark.slow
def test_a_model_with_a_codec_of_patches_gives_the_same_pixels_elsewhere(
    elsewhere: Elsewhere, demo_manifest: Path, tmp_path: Path
) -> None:
    fit = ["fit", "--manifest", str(demo_manifest)]
    short = ["--set", "duration.steps=1", "--set", "batch_size=2"]
    codec, model, out = (tmp_path / name for name in ("codec", "ldm", "out"))
    patches = ["--preset", "codec-tiny", "--out", str(codec)]
    assert run_command([*fit, *short, *patches]) == ExitCode.OK
    ldm = ["--preset", "mask-unet-tiny", "--codec", str(codec), "--out", str(model), "--force"]
    assert run_command([*fit, *short, *ldm]) == ExitCode.OK
    assert run_command(["export", str(model), "--out", str(out)]) == ExitCode.OK
    masks = np.random.default_rng(1).integers(0, 3, (2, 64, 64)).astype(np.uint8)
    sampling = load_run_config(model).sampling
    solver = Solver(sampling.solver, sampling.num_inference_steps, sampling.eta, sampling.spacing)
    options = SamplingOptions(sampling.guidance_scale, solver, 3, sampling.guidance_interval)
    expected = load_generator(model).generate(masks, ["a", "b"], options)
    np.save(tmp_path / "masks.npy", masks)
    elsewhere.run(
        "diffusers", PIPELINE, tmp_path, out, tmp_path / "masks.npy", tmp_path / "images.npy"
    )
    assert np.array_equal(np.load(tmp_path / "images.npy"), expected)
