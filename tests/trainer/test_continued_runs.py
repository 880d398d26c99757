"""Runs that go on: longer than they were planned, or as another run that begins with their
weights.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from coloured_blobs import make_blobs, write_manifest_of
from torch import Tensor, nn

from trainer.config_layers import load_config
from trainer.engine.checkpoints import find_checkpoint, load_run_config, load_weights
from trainer.engine.fit import fit
from trainer.engine.initial_weights import fit_classes
from trainer.errors import ConfigError, HistoprepError
from trainer.models.denoisers.mask_unet import Config as MaskUNetConfig
from trainer.models.denoisers.reference_unet import Config as ReferenceConfig
from trainer.recipes import segmenter
from trainer.reporter import Reporter
from trainer.stage import Classes

Make = Callable[..., Any]


def _notes() -> tuple[list[str], Reporter]:
    said: list[str] = []
    return said, Reporter(said.append, said.append)


def test_a_finished_run_with_an_endless_schedule_goes_on(toy_config: Make) -> None:
    short = toy_config("short", schedule__kind="constant")
    assert fit(short).stages[""]["step"] == 12
    longer = toy_config("short", schedule__kind="constant", duration={"steps": 24})
    assert fit(longer).stages[""]["step"] == 24
    whole = toy_config("whole", schedule__kind="constant", duration={"steps": 24})
    fit(whole)
    first, second = (
        safetensors.torch.load_file(
            Path(config.out) / "checkpoints" / "last-00000024" / "weights.safetensors"
        )
        for config in (longer, whole)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_schedule_that_ended_says_how_to_go_on(toy_config: Make) -> None:
    fit(toy_config())
    with pytest.raises(ConfigError, match="--init") as raised:
        fit(toy_config(duration={"steps": 24}))
    assert "one_cycle" in str(raised.value.hint)


def test_a_run_begins_with_the_averaged_weights_of_another(toy_config: Make) -> None:
    first = toy_config("first")
    fit(first)
    expected, _ = load_weights(first.out)
    said, reporter = _notes()
    second = toy_config("second", init=first.out, optimiser__lr=1e-12, plain=False)
    fit(second, reporter=reporter)
    own = load_weights(Path(second.out) / "checkpoints" / "last-00000012", ema=False)[0]
    for name, value in own.items():
        if name.startswith("1."):  # running statistics go on
            continue
        assert torch.allclose(value, expected[name], atol=1e-6), name
    assert any(str(find_checkpoint(Path(first.out))) in line for line in said)


def test_a_continued_run_resumes_without_the_run_it_came_from(toy_config: Make) -> None:
    first = toy_config("first")
    fit(first)
    config = toy_config("second", init=first.out, schedule__kind="constant")
    fit(config)
    Path(first.out).rename(Path(first.out).with_name("gone"))
    longer = config.model_copy(update={"duration": type(config.duration)(steps=16)})
    assert fit(longer).stages[""]["step"] == 16


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"plain": True}, "tensors missing|unknown|shape"), ({"init": "nowhere"}, "no such run|no")],
)
def test_weights_of_another_network_are_refused(
    toy_config: Make, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    fit(toy_config("first"))
    options = {"init": str(tmp_path / "first"), **changes}
    with pytest.raises(HistoprepError, match=words):
        fit(toy_config("second", **options))


DENOISERS = {
    "reference-unet": ReferenceConfig(dim=8, dim_mults=(1, 2), block_per_layer=1),
    "mask-unet": MaskUNetConfig(dim=8, dim_mults=(1, 2), block_per_layer=1),
}


def _network(kind: str, count: int, seed: int) -> Any:
    torch.manual_seed(seed)
    network = DENOISERS[kind].build(count, 4)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    return network.eval()


def _fit(kind: str, before: list[str | None], now: list[str | None]) -> tuple[Any, Any, list[str]]:
    old, new = _network(kind, len(before), 1), _network(kind, len(now), 2)
    classes = Classes(before, now, lambda count: DENOISERS[kind].build(count, 4), new.first_class)
    fitted, notes = fit_classes(old.state_dict(), new.state_dict(), classes)
    new.load_state_dict(fitted)
    return old, new, notes


def _predict(network: Any, mask: Tensor) -> Tensor:
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        result: Tensor = network(x, torch.tensor([10, 700]), mask)
    return result


@pytest.mark.parametrize("kind", DENOISERS)
def test_classes_are_matched_by_name(kind: str) -> None:
    """Classes that moved to other ids, with a new one and one less, mean what they meant."""
    before: list[str | None] = ["Unknown", "Tumour", "Stroma", "Necrosis"]
    now: list[str | None] = ["Unknown", "Stroma", "Fat", "Tumour", "Blood"]
    old, new, notes = _fit(kind, before, now)
    mask = torch.randint(0, 3, (2, 1, 64, 64), generator=torch.Generator().manual_seed(0))
    translated = torch.tensor([0, 3, 1])[mask]
    assert torch.allclose(_predict(old, mask), _predict(new, translated), atol=1e-5)
    assert notes == [
        "new classes begin at random: Fat, Blood",
        "classes that are no longer there: Necrosis",
        "classes whose id is another now: Stroma, Tumour",
    ]


@pytest.mark.parametrize("kind", DENOISERS)
def test_classes_without_a_common_name_are_matched_by_id(kind: str) -> None:
    old, new, notes = _fit(kind, ["0", "1", "2"], ["Unknown", "Tumour", "Stroma"])
    mask = torch.randint(0, 3, (2, 1, 64, 64), generator=torch.Generator().manual_seed(0))
    assert torch.equal(_predict(old, mask), _predict(new, mask))
    assert "by id" in notes[0]


def test_a_run_stops_early_and_is_finished(toy_config: Make) -> None:
    said, reporter = _notes()
    config = toy_config(
        duration={"steps": 40},
        early_stopping={"patience": 2, "min_delta": 1e9},
        schedule__kind="constant",
    )
    # Validated after 4 steps (the reference), 8 and 12 (no better by so much).
    result = fit(config, reporter=reporter)
    assert result.stages[""]["step"] == 12
    assert any("stopped early after step 12" in line for line in said)
    assert (Path(config.out) / "checkpoints" / "last-00000012").is_dir()
    assert fit(config, reporter=reporter).stages[""]["step"] == 12 and "is finished" in said[-1]
    # A run that was killed before it could say so ends at the same step.
    (Path(config.out) / "finished.json").unlink()
    assert fit(config).stages[""]["step"] == 12


def test_patience_survives_a_resumption(toy_config: Make) -> None:
    changes = {"early_stopping": {"patience": 3, "min_delta": 1e9}, "schedule__kind": "constant"}
    short = toy_config(duration={"steps": 10}, **changes)
    assert fit(short).stages[""]["step"] == 10
    longer = toy_config(duration={"steps": 40}, **changes)
    # Validated at 4, 8, 10 (the end) and 12: the fourth is the third in a row without improvement.
    assert fit(longer).stages[""]["step"] == 12


def test_a_metric_that_improves_is_not_stopped(toy_config: Make) -> None:
    config = toy_config(early_stopping={"patience": 1}, schedule__kind="constant")
    assert fit(config).stages[""]["step"] == 12
    from trainer.config import EarlyStopping
    from trainer.engine.patience import Patience

    for end, values in (("min", [3.0, 2.0, 2.5, 1.9]), ("max", [1.0, 2.0, 1.5, 2.1])):
        patience = Patience(EarlyStopping(patience=2), ("f1", end))
        for value in values:
            patience.note(value)
            assert not patience.is_over
        patience.note(float("nan"))
        patience.note(values[0])
        assert patience.is_over


def test_a_stage_without_validation_cannot_stop_early(toy_config: Make) -> None:
    with pytest.raises(ConfigError, match="early_stopping"):
        fit(toy_config(two_stages=True, early_stopping={"patience": 1}))


@pytest.mark.slow
def test_a_classifier_goes_on_with_other_classes(tmp_path: Path) -> None:
    """Both stages begin with their weights; a class that left and one that came are named."""
    first = make_blobs(tmp_path / "first", 45, 9)
    # "green" becomes "yellow"; ids of classes follow their names.
    for split in ("train", "test"):
        shutil.copytree(tmp_path / "first" / split, tmp_path / "second" / split)
        folder = tmp_path / "second" / split
        (folder / "green").rename(folder / "yellow")
    second = write_manifest_of(tmp_path / "second")
    sets = ["accelerator=cpu", "guidance.duration={epochs: 1}", "duration={epochs: 1}"]
    options: dict[str, Any] = {"preset": "diffmic-tiny", "sets": sets}
    fit(load_config(manifest=str(first), out=str(tmp_path / "run"), **options))
    said, reporter = _notes()
    run = str(tmp_path / "run")
    base = load_run_config(run)
    config = load_config(
        base=base, manifest=str(second), out=str(tmp_path / "next"), init=run, sets=sets
    )
    fit(config, reporter=reporter)
    for stage in ("guidance", "diffusion"):
        assert any(f"run/{stage}/checkpoints" in line for line in said), said
    assert said.count("new classes begin at random: yellow") == 2
    assert said.count("classes that are no longer there: green") == 2
    assert said.count("classes whose id is another now: red") == 2


def test_a_segmenter_keeps_its_classes_by_name() -> None:
    config = segmenter.Network(encoder="unet", width=8, num_stages=2)
    torch.manual_seed(0)
    old, new = (segmenter.build_segmenter(config, count) for count in (3, 4))
    classes = Classes(
        ["Unknown", "Tumour", "Stroma"],
        ["Unknown", "Stroma", "Fat", "Tumour"],
        lambda count: segmenter.build_segmenter(config, count),
    )
    fitted, _ = fit_classes(old.state_dict(), new.state_dict(), classes)
    new.load_state_dict(fitted)
    images = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        before, after = old.eval()(images), new.eval()(images)
    assert torch.allclose(before, after[:, [0, 3, 1]], atol=1e-6)
