"""Published checkpoints: every wrapping they come in gives the same function back; nothing in them
is executed; what is wrong is named.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from histoprep.errors import ExitCode, IntegrityError, UsageError
from histoprep.labels import identity_map
from trainer.cli import run
from trainer.engine.checkpoints import load_weights
from trainer.errors import CheckpointError
from trainer.import_checkpoint import CheckpointOptions, import_checkpoint
from trainer.models.denoisers.reference_unet import Config, ReferenceUNet
from trainer.recipes.codecs import load_codec
from trainer.verify import verify

torch.set_num_threads(1)

CONFIG = Config(dim=8, dim_mults=(1, 3), block_per_layer=3, null_class=0)
NUM_CLASSES = 6


def _state(seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return ReferenceUNet(CONFIG, NUM_CLASSES).state_dict()


def _under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in state.items()}


RAW, AVERAGE, STALE = _state(1), _state(2), _state(3)
BUFFERS = {"betas": torch.rand(1000), "sqrt_alphas_cumprod": torch.rand(1000)}
OPTIMISER = {
    "state": {0: {"step": torch.tensor(7.0), "exp_avg": torch.rand(3)}},
    "param_groups": [{"lr": 1e-4, "params": [0]}],
}

# What the file holds -> (is there an average, how many tensors belong to neither).
LAYOUTS = {
    "plain": (RAW, False, 0),
    "distributed": (_under("module.", RAW), False, 0),
    "compiled": (_under("_orig_mod.", RAW), False, 0),
    "both": (_under("module._orig_mod.", RAW), False, 0),
    "wrapped": ({**_under("model.", RAW), **BUFFERS}, False, 2),
    "state_dict": ({"state_dict": _under("model.", RAW), "epoch": 3}, False, 0),
    "average beside": ({"model": RAW, "ema_model": AVERAGE}, True, 0),
    "average in one dict": ({**_under("model.", RAW), **_under("ema_model.", AVERAGE)}, True, 0),
    "average alone": (
        {"ema": {**_under("online_model.", RAW), **_under("ema_model.", AVERAGE)}},
        True,
        0,
    ),
    "trainer": (
        {
            "step": 1234,
            "model": {**_under("model.", RAW), **BUFFERS, "vae.encoder.weight": torch.rand(2, 2)},
            "opt": OPTIMISER,
            "ema": {
                "initted": torch.tensor(True),
                "step": torch.tensor(1234),
                **_under("online_model.model.", STALE),
                **_under("ema_model.module.model.", AVERAGE),
            },
            "scaler": None,
            "version": "1.0",
        },
        True,
        3 + 2 + 2 + len(RAW),
    ),
}


@pytest.fixture(scope="module")
def batch() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    mask = torch.randint(0, 6, (2, 1, 64, 64), generator=generator)
    return torch.randn(2, 4, 8, 8, generator=generator), torch.tensor([10, 900]), mask


def _answer(state: dict[str, Tensor], batch: tuple[Tensor, ...]) -> Tensor:
    network = ReferenceUNet(CONFIG, NUM_CLASSES).eval()
    network.load_state_dict(state)
    with torch.no_grad():
        return network(*batch)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_function(tmp_path, batch, layout):
    content, has_average, left_alone = LAYOUTS[layout]
    torch.save(content, tmp_path / "published.pt")
    found = import_checkpoint(tmp_path / "published.pt", tmp_path / "run")
    assert found.published.num_ignored == left_alone
    assert found.not_loaded == ()
    raw, config = load_weights(tmp_path / "run", ema=False)
    averaged, _ = load_weights(tmp_path / "run")
    assert torch.equal(_answer(raw, batch), _answer(RAW, batch))
    assert torch.equal(_answer(averaged, batch), _answer(AVERAGE if has_average else RAW, batch))
    model = config.model
    assert (model.dim, model.dim_mults, model.block_per_layer, model.null_class) == (
        8,
        (1, 3),
        3,
        0,
    )
    assert found.published.step == (1234 if layout == "trainer" else 0)


def test_safetensors_and_half_precision(tmp_path, batch):
    safetensors.torch.save_file(
        {name: value.half() for name, value in RAW.items()}, tmp_path / "published.safetensors"
    )
    import_checkpoint(tmp_path / "published.safetensors", tmp_path / "run")
    weights, _ = load_weights(tmp_path / "run")
    assert {value.dtype for value in weights.values()} == {torch.float32}
    assert torch.allclose(_answer(weights, batch), _answer(RAW, batch), atol=2e-2)


class _Bomb:
    """What a malicious checkpoint holds: a program that runs when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self):
        return (Path.touch, (self.place,))


@pytest.mark.parametrize("is_old_format", [False, True])
def test_nothing_in_a_file_is_executed(tmp_path, batch, is_old_format):
    content = {"model": RAW, "callback": _Bomb(tmp_path / "owned"), "step": 7}
    torch.save(content, tmp_path / "published.pt", _use_new_zipfile_serialization=not is_old_format)
    found = import_checkpoint(tmp_path / "published.pt", tmp_path / "run")
    assert not (tmp_path / "owned").exists()
    assert "pathlib.PosixPath" in found.not_loaded and found.published.step == 7
    weights, _ = load_weights(tmp_path / "run")
    assert torch.equal(_answer(weights, batch), _answer(RAW, batch))


def test_a_genuine_checkpoint_holds_a_bound_method_of_its_scheduler(tmp_path, capsys):
    network = torch.nn.Linear(2, 2)
    optimiser = torch.optim.Adam(network.parameters())
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, total_steps=10)
    # Up to torch 2.0 the state of this scheduler held one of its methods.
    state = {**scheduler.state_dict(), "anneal_func": scheduler.get_lr}
    torch.save(
        {"step": 3, "model": RAW, "scheduler": state, "opt": optimiser.state_dict()},
        tmp_path / "published.pt",
    )
    place, out = str(tmp_path / "published.pt"), str(tmp_path / "run")
    assert run(["import", place, "--out", out]) == ExitCode.OK
    assert "OneCycleLR" in capsys.readouterr().out
    assert load_weights(out)[0].keys() == RAW.keys()


def test_a_program_of_torchscript_is_refused(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "program.pt"))
    with pytest.raises(CheckpointError, match="TorchScript"):
        import_checkpoint(tmp_path / "program.pt", tmp_path / "run")


def _broken(change: str) -> dict[str, Tensor]:
    state = dict(RAW)
    if change == "missing":
        del state["mid_attn.fn.fn.to_q.weight"]
    elif change == "unexpected":
        state["time_mlp.0.weights"] = torch.rand(8)
    elif change == "shape":
        state["final_conv.weight"] = torch.rand(8, 8, 1, 1)
    else:
        state["final_conv.bias"] = torch.full((4,), torch.nan)
    return state


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("missing", "1 missing: mid_attn.fn.fn.to_q.weight"),
        ("unexpected", "1 unexpected: time_mlp.0.weights"),
        (
            "shape",
            "1 of another shape: final_conv.weight \\(8, 8, 1, 1\\) instead of \\(4, 8, 1, 1\\)",
        ),
        ("not finite", "1 not finite: final_conv.bias"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, change, words):
    torch.save({"model": _under("model.", _broken(change))}, tmp_path / "published.pt")
    with pytest.raises(CheckpointError, match=words):
        import_checkpoint(tmp_path / "published.pt", tmp_path / "run")
    assert not (tmp_path / "run").exists()


# How a file that is not a checkpoint is written -> what is said of it.
FOREIGN = {
    "letter.txt": (
        lambda path: path.write_text("t"),
        "not a checkpoint, or is damaged.*bytes that make no sense",
    ),
    "text.pt": (
        lambda path: path.write_text("hello world"),
        "not a checkpoint, or is damaged.*bytes that make no sense",
    ),
    "sentence.pt": (
        lambda path: path.write_text("not a checkpoint"),
        "not a checkpoint, or is damaged.*bytes that make no sense",
    ),
    "empty.pt": (lambda path: path.write_bytes(b""), "seen: it is empty, or ends too early$"),
    "cut.pt": (
        lambda path: (torch.save(RAW, path), path.write_bytes(path.read_bytes()[:5000])),
        "not a checkpoint, or is damaged.*seen: .",
    ),
    "zip.pt": (
        lambda path: path.write_bytes(b"PK\x03\x04" + bytes(300)),
        "seen: PytorchStreamReader [^.]*$",
    ),
    "other.pt": (
        lambda path: torch.save({"encoder.weight": torch.rand(3)}, path),
        "not a checkpoint of the reference network",
    ),
    "text.safetensors": (
        lambda path: path.write_text("not a checkpoint"),
        "not a checkpoint, or is damaged.*header",
    ),
    "pickle.pt": (
        lambda path: path.write_bytes(pickle.dumps(Path(), protocol=2)),
        "not a checkpoint, or is damaged",
    ),
    "newer.pt": (
        lambda path: path.write_bytes(pickle.dumps(Path(), protocol=4)),
        "not a checkpoint, or is damaged",
    ),
    "folder.pt": (lambda path: path.mkdir(), "cannot read the checkpoint: Is a directory"),
    "absent.pt": (lambda path: None, "cannot read the checkpoint: No such file"),
}


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("name", FOREIGN)
def test_files_that_are_no_checkpoints(tmp_path, name):
    write, said = FOREIGN[name]
    write(tmp_path / name)
    with pytest.raises(CheckpointError, match=f"(?s){said}") as caught:
        import_checkpoint(tmp_path / name, tmp_path / "run")
    assert "\x1b" not in str(caught.value) and "can still be loaded" not in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 4


def test_a_run_is_not_overwritten_and_classes_must_agree(tmp_path):
    torch.save(RAW, tmp_path / "published.pt")
    with pytest.raises(UsageError, match="6 classes"):
        import_checkpoint(
            tmp_path / "published.pt",
            tmp_path / "run",
            CheckpointOptions(label_map=identity_map(range(5))),
        )
    import_checkpoint(tmp_path / "published.pt", tmp_path / "run")
    with pytest.raises(UsageError, match="holds a run"):
        import_checkpoint(tmp_path / "published.pt", tmp_path / "run")


def test_an_imported_run_can_be_sampled_from(tmp_path, capsys):
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    from trainer.recipes.ldm import load_generator

    torch.manual_seed(0)
    autoencoder = AutoencoderKL(block_out_channels=(8, 8, 8, 8), norm_num_groups=4,
        latent_channels=4, down_block_types=("DownEncoderBlock2D",) * 4,
                                  up_block_types=("UpDecoderBlock2D",) * 4,
                                  layers_per_block=1)  # fmt: skip
    autoencoder.save_pretrained(tmp_path / "codec")
    torch.save({"model": RAW, "ema_model": AVERAGE}, tmp_path / "published.pt")
    options = [
        str(tmp_path / "published.pt"),
        "--out",
        str(tmp_path / "run"),
        "--codec",
        str(tmp_path / "codec"),
        "--latent-scale",
        "50",
    ]
    assert run(["import", *options]) == ExitCode.OK
    assert "averaged weights" in capsys.readouterr().out
    generator = load_generator(tmp_path / "run")
    assert generator.scaling.scale == (50.0,) * 4
    assert generator.codec.digest == load_codec(tmp_path / "codec").digest
    assert all(
        torch.equal(value, AVERAGE[name]) for name, value in generator.denoiser.state_dict().items()
    )
    assert run(["import", *options]) == ExitCode.USAGE
    found = verify(tmp_path / "run")
    assert (found.kind, found.damages, found.notes) == ("run", [], [])
    (tmp_path / "run/model.json").write_text(
        (tmp_path / "run/model.json").read_text().replace("50.0", "90.0")
    )
    with pytest.raises(IntegrityError, match="changed since it was written"):
        load_generator(tmp_path / "run")


@pytest.fixture
def small_codec(tmp_path):
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    torch.manual_seed(0)
    autoencoder = AutoencoderKL(block_out_channels=(8, 8, 8, 8), norm_num_groups=4,
        latent_channels=4, down_block_types=("DownEncoderBlock2D",) * 4,
                                  up_block_types=("UpDecoderBlock2D",) * 4,
                                  layers_per_block=1)  # fmt: skip
    autoencoder.save_pretrained(tmp_path / "codec")
    return autoencoder.eval()


@pytest.mark.slow
def test_a_lineage_sets_embedding_scale_and_range(tmp_path, small_codec):
    from trainer.recipes.ldm import load_generator

    torch.save(RAW, tmp_path / "published.pt")
    place, codec = str(tmp_path / "published.pt"), str(tmp_path / "codec")
    command = ["import", place, "--codec", codec, "--out"]
    assert run([*command, str(tmp_path / "one"), "--lineage", "diffinfinite"]) == ExitCode.OK
    assert run([*command, str(tmp_path / "two"), "--lineage", "skin-fork"]) == ExitCode.OK
    first, second = (load_generator(tmp_path / name) for name in ("one", "two"))
    assert first.scaling.scale == (50.0,) * 4 and first.codec.image_range == "unit"
    assert load_weights(tmp_path / "one")[1].model.class_embedding == "max"
    assert load_weights(tmp_path / "two")[1].model.class_embedding == "fraction"
    assert second.codec.image_range == "signed"
    scale = 1 / small_codec.config.scaling_factor
    assert second.scaling.scale == pytest.approx((scale,) * 4)

    # What an option says comes before the lineage.
    options = ["--lineage", "diffinfinite", "--latent-scale", "7", "--image-range", "signed"]
    assert run([*command, str(tmp_path / "three"), *options]) == ExitCode.OK
    three = load_generator(tmp_path / "three")
    assert three.scaling.scale == (7.0,) * 4 and three.codec.image_range == "signed"
    assert three.codec.digest != first.codec.digest
    # A codec that moved is still fed what the model was trained with.
    (tmp_path / "codec").rename(tmp_path / "moved")
    moved = load_generator(tmp_path / "one", codec=str(tmp_path / "moved"))
    assert moved.codec.digest == first.codec.digest


def test_a_codec_of_the_unit_range_is_fed_images_from_0_to_1(tmp_path, small_codec):
    codec = load_codec(f"{tmp_path / 'codec'}@unit")
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        expected = small_codec.encode((images + 1) / 2).latent_dist.mean
        decoded = small_codec.decode(expected).sample.clip(0, 1)
    assert torch.allclose(codec.encode(images).mean, expected, atol=1e-6)
    assert torch.allclose((codec.decode(expected) + 1) / 2, decoded, atol=1e-6)
