"""The weights a run begins with when it continues another one (`init`): those of that run, class
tables matched by the names of the classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from histoprep.phrases import first_of
from trainer.config import RunConfig
from trainer.engine.checkpoints import find_checkpoint, load_weights
from trainer.errors import CheckpointError, ConfigError
from trainer.stage import Classes, Stage, StagePlan

_MAX_NAMED = 5


def initialise(stage: Stage, plan: StagePlan, config: RunConfig) -> list[str]:
    """Give the module of a stage the weights of the run `config.init`, and return what is to be
    said of it.

    Averaged weights are taken where there are any. A run of several stages initialises those that
    it has.

    Raises:
        ConfigError: When they are of another recipe or network; the text names the difference.
        CheckpointError: When there is no whole checkpoint.
    """
    assert config.init is not None
    place = Path(config.init)
    if plan.name and (place / plan.name).is_dir():
        place = place / plan.name
    checkpoint = find_checkpoint(place)
    weights, before = load_weights(checkpoint)
    if before.recipe != config.recipe:
        raise ConfigError(
            "init is a run of another recipe",
            path=config.init,
            seen=before.recipe,
            expected=config.recipe,
        )
    notes = [f"weights from {checkpoint}"]
    own = stage.module.state_dict()
    if plan.classes is not None:
        classes = plan.classes(stage, checkpoint)
        weights, more = fit_classes(weights, own, classes)
        notes += more
    _check_fit(own, weights, checkpoint)
    stage.module.load_state_dict(weights)
    stage.weights_from = dict.fromkeys(stage.weights_from, str(checkpoint))
    return notes


def fit_classes(
    weights: Mapping[str, Tensor], own: Mapping[str, Tensor], classes: Classes
) -> tuple[dict[str, Tensor], list[str]]:
    """Return weights whose class tables have the classes of this run, and what is to be said of it.

    A class that both runs know by name keeps its weights; a new class keeps the random ones of
    `own`. Where no name is the same, equal numbers of classes are matched by id.

    Args:
        weights: Tensors of the other run.
        own: Tensors of this run's network, freshly made.
        classes: Their classes.
    """
    before, now = list(classes.before), list(classes.now)
    source, notes = _match(before, now)
    if source == list(range(len(before))) and len(before) == len(now):
        return dict(weights), notes
    fitted = dict(weights)
    for name, axis in _class_axes(classes).items():
        if name not in weights or name not in own or weights[name].ndim != own[name].ndim:
            continue
        first = classes.first.get(name, 0)
        fitted[name] = _fit_table(weights[name], own[name], axis, first, source, len(before))
    return fitted, notes


def _match(
    before: Sequence[str | None], now: Sequence[str | None]
) -> tuple[list[int | None], list[str]]:
    """Return for each class id of now the id it had before, None for a new class."""
    ids = {name: index for index, name in enumerate(before) if name is not None}
    common = [name for name in now if name is not None and name in ids]
    if not common and len(before) == len(now):
        if list(before) == list(now):
            return list(range(len(now))), []
        note = (
            f"no class has the name it had: classes are taken by id ({before[0]} is {now[0]}, ...)"
        )
        return list(range(len(now))), [note]
    source = [ids.get(name) if name is not None else None for name in now]
    new = [str(name) for name in now if name is not None and name not in ids]
    gone = [name for name in ids if name not in now]
    moved = [name for name in common if ids[name] != list(now).index(name)]
    notes = []
    if new:
        notes.append(f"new classes begin at random: {first_of(new, limit=_MAX_NAMED)}")
    if gone:
        notes.append(f"classes that are no longer there: {first_of(gone, limit=_MAX_NAMED)}")
    if moved:
        notes.append(f"classes whose id is another now: {first_of(moved, limit=_MAX_NAMED)}")
    return source, notes


def _class_axes(classes: Classes) -> dict[str, int]:
    """Return the tensors with an axis that grows with the number of classes, and that axis."""
    number = len(classes.now)
    with torch.device("meta"):
        small, large = (
            {name: tensor.shape for name, tensor in classes.build(count).state_dict().items()}
            for count in (number, number + 1)
        )
    return {
        name: next(axis for axis, size in enumerate(shape) if size != large[name][axis])
        for name, shape in small.items()
        if shape != large[name]
    }


def _fit_table(
    table: Tensor, own: Tensor, axis: int, first: int, source: Sequence[int | None], num_before: int
) -> Tensor:
    """Return a table for the classes of now; what stands before and behind the classes is kept."""
    fitted = own.detach().clone().to(table.dtype)
    old, new = table.movedim(axis, 0), fitted.movedim(axis, 0)
    for index, place in enumerate(source):
        if place is not None:
            new[first + index] = old[first + place]
    new[:first] = old[:first]
    behind = old.shape[0] - first - num_before
    if behind > 0:
        new[first + len(source) :] = old[first + num_before :]
    return fitted


def _check_fit(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], checkpoint: Path) -> None:
    problems = [
        ("missing", [name for name in own if name not in weights]),
        ("unknown", [name for name in weights if name not in own]),
        (
            "of another shape",
            [
                f"{name} {tuple(weights[name].shape)} instead of {tuple(own[name].shape)}"
                for name in own
                if name in weights and weights[name].shape != own[name].shape
            ],
        ),
    ]
    seen = "; ".join(
        f"{len(names)} tensors {what}, such as {names[0]}" for what, names in problems if names
    )
    if seen:
        raise ConfigError(
            "the weights of init are of another network",
            path=checkpoint,
            seen=seen,
            hint="leave out --preset: then the run has the network of init",
        )
    broken = [name for name, value in weights.items() if not bool(value.isfinite().all())]
    if broken:
        raise CheckpointError(
            "init has weights that are not finite",
            path=checkpoint,
            seen=first_of(broken, limit=_MAX_NAMED),
        )
