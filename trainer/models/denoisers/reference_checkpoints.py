"""Published checkpoints of the reference network: which tensors are the network, which its average,
and what network they are of.

Checkpoints of that lineage are state dicts of the network, of what wraps it (`model.`, `module.`,
`_orig_mod.`), or a trainer's dict with the optimiser and an average of the weights (`ema_model.`)
beside them. Names inside the network are ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from trainer.models.denoisers.reference_unet import Config, ReferenceUNet

_FIRST = "init_conv.weight"
# What DistributedDataParallel and torch.compile put in front of names, at any depth.
_WRAPPERS = re.compile(r"(?<![^.])(module|_orig_mod)\.")
_NUM_NAMED = 5


class CheckpointMismatchError(ValueError):
    """The tensors are not those of a reference network; the text says which are missing, unexpected
    or of another shape.
    """


@dataclass(frozen=True)
class NetworkSize:
    """Which reference network some weights belong to."""

    config: Config
    num_classes: int
    channels: int

    def build(self) -> ReferenceUNet:
        """Return that network with random weights."""
        return self.config.build(self.num_classes, self.channels)

    def __str__(self) -> str:
        """Return it in one line."""
        config = self.config
        return (
            f"a reference network of {self.num_classes} classes and {self.channels} latent"
            f" channels with dim {config.dim}, dim_mults {config.dim_mults}, block_per_layer"
            f" {config.block_per_layer}"
        )


@dataclass(frozen=True)
class PublishedWeights:
    """What a checkpoint holds.

    Attributes:
        weights: The tensors of the network, float32.
        ema: Their average, None without one.
        network: The network that they belong to.
        prefixes: The names that weights and average stood under in the file.
        num_ignored: Tensors that belong to neither (schedule buffers, optimiser, codec).
        step: The trainer's count of steps, 0 when unknown.
    """

    weights: dict[str, Tensor]
    ema: dict[str, Tensor] | None
    network: NetworkSize
    prefixes: tuple[str, ...]
    num_ignored: int
    step: int = 0


def published_weights(loaded: Any, **choices: Any) -> PublishedWeights:
    """Return the network in what `torch.load` returned.

    Args:
        loaded: Nested mappings of tensors and other values.
        **choices: Fields of `Config` that shapes do not tell: resnet_block_groups, mask_query,
            class_embedding, dropout, null_class.

    Raises:
        CheckpointMismatchError: When there is no reference network in it, or one with missing,
            unexpected or misshapen tensors.
    """
    flat = dict(_tensors(loaded, ""))
    prefixes = sorted(
        name.removesuffix(_FIRST) for name in flat if f".{name}".endswith(f".{_FIRST}")
    )
    if not prefixes:
        names = ", ".join(list(flat)[:_NUM_NAMED]) or "no tensors at all"
        raise CheckpointMismatchError(f"no {_FIRST} in the file; it holds {names}")
    averaged = [prefix for prefix in prefixes if _is_averaged(prefix)]
    # The average's own copy of the raw weights comes last: the trainer's may be newer.
    raw = sorted(
        (prefix for prefix in prefixes if prefix not in averaged),
        key=lambda prefix: ("ema" in prefix, len(prefix)),
    )
    chosen = [*raw[:1], *averaged[:1]]
    parts = {choice: _below(flat, choice, prefixes) for choice in chosen}
    network = infer_network(parts[chosen[0]], **choices)
    checked = {prefix: _checked(part, network, prefix) for prefix, part in parts.items()}
    ema = checked[averaged[0]] if averaged else None
    weights = checked[raw[0]] if raw else checked[averaged[0]]
    num_used = sum(len(part) for part in parts.values())
    step = loaded.get("step", 0) if isinstance(loaded, Mapping) else 0
    return PublishedWeights(weights, ema, network, tuple(chosen), len(flat) - num_used, int(step))


def infer_network(state: Mapping[str, Tensor], **choices: Any) -> NetworkSize:
    """Return the network that the shapes of a state dict tell, with `choices` for the rest.

    Raises:
        CheckpointMismatchError: For tensors of no reference network, and for choices that do not
            fit it.
    """
    try:
        dim, channels = state[_FIRST].shape[:2]
        num_stages = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("downs."))
        num_layers = 1 + max(
            int(name.split(".")[2]) for name in state if name.startswith("downs.0.")
        )
        widths = [
            state[f"downs.{stage}.{num_layers - 1}.weight"].shape[0] for stage in range(num_stages)
        ]
        num_classes = state["classes_emb.weight"].shape[0]
        if any(width % dim for width in widths):
            raise CheckpointMismatchError(
                f"stages of {widths} channels; multiples of {dim} expected"
            )
        mults = tuple(width // dim for width in widths)
        # A stage is its blocks, attention and a change of size.
        config = Config(dim=dim, dim_mults=mults, block_per_layer=num_layers - 2, **choices)
        network = NetworkSize(config, num_classes, channels)
        with torch.device("meta"):
            network.build()
        return network
    except CheckpointMismatchError:
        raise
    except ValidationError as error:
        problems = "; ".join(problem["msg"] for problem in error.errors(include_url=False))
        raise CheckpointMismatchError(
            f"these are not the tensors of a reference network: {problems}"
        ) from error
    except (KeyError, ValueError, IndexError) as error:
        raise CheckpointMismatchError(
            f"these are not the tensors of a reference network: {error}"
        ) from error


def _below(flat: Mapping[str, Tensor], prefix: str, prefixes: list[str]) -> dict[str, Tensor]:
    """Return the tensors under `prefix` that are not under a longer one of `prefixes`."""
    others = tuple(other for other in prefixes if other != prefix and other.startswith(prefix))
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in flat.items()
        if name.startswith(prefix) and not (others and name.startswith(others))
    }


def _tensors(value: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """Yield all tensors of nested dicts under dotted names, without what wrappers put in front."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _tensors(
                inner, f"{prefix}{name}." if isinstance(inner, Mapping) else f"{prefix}{name}"
            )
    elif isinstance(value, Tensor):
        yield _WRAPPERS.sub("", prefix), value


def _is_averaged(prefix: str) -> bool:
    parts = prefix.split(".")
    return any("ema" in part.lower().split("_") for part in parts) and "online_model" not in parts


def _checked(state: Mapping[str, Tensor], network: NetworkSize, prefix: str) -> dict[str, Tensor]:
    with torch.device("meta"):
        expected = {
            name: tuple(tensor.shape) for name, tensor in network.build().state_dict().items()
        }
    problems = [
        ("missing", sorted(set(expected) - set(state))),
        ("unexpected", sorted(set(state) - set(expected))),
        (
            "of another shape",
            [
                f"{name} {tuple(state[name].shape)} instead of {shape}"
                for name, shape in expected.items()
                if name in state and tuple(state[name].shape) != shape
            ],
        ),
        (
            "not finite",
            sorted(
                name
                for name in expected
                if name in state and not bool(torch.isfinite(state[name]).all())
            ),
        ),
    ]
    differences = [
        f"{len(names)} {what}:"
        f" {', '.join(names[:_NUM_NAMED])}{', ...' if len(names) > _NUM_NAMED else ''}"
        for what, names in problems
        if names
    ]
    if differences:
        where = f" under {prefix!r}" if prefix else ""
        raise CheckpointMismatchError(
            f"the tensors{where} are not those of {network}: {'; '.join(differences)}"
        )
    return {name: state[name].detach().float().contiguous() for name in expected}
