"""The losses since the last line of the log, kept on the device: read once every few steps, never
in one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from trainer.stage import StepOutput

Reduce = Callable[[Tensor], Tensor]


class LossWindow:
    """Collects what the steps give: losses, gradient norms, logged values, and losses by group.

    `breakdown` names the groups (see `Stage.breakdown`). All sums are float64 on `device`. `state`
    and `load` make it part of a checkpoint, so that a resumed run logs the same numbers.
    """

    def __init__(self, breakdown: Mapping[str, Sequence[str]], device: torch.device) -> None:
        self._breakdown = breakdown
        self._device = device
        self.num_skipped = 0
        self._losses: list[Tensor] = []
        self._norms: list[Tensor] = []
        self._sums: dict[str, Tensor] = {}
        # Losses by sample, one entry a step, of the steps that nobody has looked at yet.
        self._samples: list[list[Tensor]] = []
        self._step: dict[str, Tensor] = {}
        self._step_samples: list[Tensor] = []

    def add(self, output: StepOutput, share: float) -> None:
        """Take in one micro-batch, `share` of its step."""
        loss = output.loss.detach()
        self._step_samples.append(loss.reshape(-1))
        self._add_sum("loss", loss.double().mean() * share)
        for name, value in output.values.items():
            self._add_sum(f"value.{name}", value.detach().double().mean() * share)
        for name, index in output.groups.items():
            self._add_group(name, index, loss)

    def end_step(self, gradient_norm: Tensor, *, used: bool = True) -> None:
        """Close a step; one that was skipped (`used` False) leaves no trace but its count."""
        if used:
            self._losses.append(self._step.pop("loss"))
            self._norms.append(gradient_norm.detach().double())
            self._samples.append(self._step_samples)
            for name, value in self._step.items():
                self._sums[name] = self._sums.get(name, 0.0) + value
        else:
            self.num_skipped += 1
        self._step, self._step_samples = {}, []

    def samples_of(self, index: int) -> Tensor:
        """Return the losses by sample (by micro-batch, where the loss is a scalar) of unchecked
        step `index`.
        """
        return torch.cat(self._samples[index])

    def losses(self) -> Tensor:
        """Return loss and gradient norm of each step in the window: float64 [steps, 2]."""
        if not self._losses:
            return torch.zeros(0, 2, dtype=torch.float64, device=self._device)
        return torch.stack([torch.stack(self._losses), torch.stack(self._norms)], dim=1)

    def unchecked(self) -> Tensor:
        """Return the rows of `losses` of the steps since `forget_samples`."""
        return self.losses()[len(self._losses) - len(self._samples) :]

    def forget_samples(self) -> None:
        """Drop the losses by sample: the steps so far were found finite."""
        self._samples = []

    def read(self, total: Reduce, num_ranks: int) -> dict[str, float]:
        """Return the means over the window and begin anew; `total` adds a tensor up over all
        ranks.
        """
        count = max(1, len(self._losses))
        names = sorted(self._sums)
        own = self.losses().sum(dim=0) / count
        sums = [self._sums[name] for name in names]
        flat = total(torch.cat([own, *(total.reshape(-1) for total in sums)])).cpu()
        means = {"loss": float(flat[0]) / num_ranks, "gradient_norm": float(flat[1]) / num_ranks}
        rest = iter(torch.split(flat[2:], [total.numel() for total in sums]))
        for name in names:
            means |= self._describe(name, next(rest), count * num_ranks)
        self._clear()
        return means

    def state(self) -> dict[str, Tensor]:
        """Return the window as tensors, for a checkpoint."""
        return {
            "losses": self.losses(),
            "skipped": torch.tensor(self.num_skipped),
            **{f"sum.{name}": total for name, total in self._sums.items()},
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned."""
        self._clear()
        moved = {name: tensor.to(self._device) for name, tensor in state.items()}
        self._losses, self._norms = list(moved["losses"][:, 0]), list(moved["losses"][:, 1])
        self._sums = {
            name.removeprefix("sum."): tensor
            for name, tensor in moved.items()
            if name.startswith("sum.")
        }
        self.num_skipped = int(state["skipped"])

    def _clear(self) -> None:
        self._losses, self._norms, self._sums, self._samples = [], [], {}, []

    def _add_sum(self, name: str, value: Tensor) -> None:
        self._step[name] = self._step[name] + value if name in self._step else value

    def _add_group(self, name: str, index: Tensor, loss: Tensor) -> None:
        """Add losses to the sums and counts of their groups: float64 [2, groups]; -1 is no
        group.
        """
        size = len(self._breakdown[name])
        # One group more takes those without one.
        place = torch.where(index < 0, size, index)
        sums = torch.zeros(2, size + 1, dtype=torch.float64, device=loss.device)
        sums.index_add_(
            1, place, torch.stack([loss.double(), torch.ones_like(loss, dtype=torch.float64)])
        )
        self._add_sum(f"group.{name}", sums[:, :size])

    def _describe(self, name: str, summed: Tensor, count: int) -> dict[str, float]:
        kind, _, what = name.partition(".")
        if kind == "value":
            return {what: float(summed[0]) / count}
        sums, counts = summed.reshape(2, -1)
        labels = self._breakdown[what]
        return {
            f"loss_{what}_{label}": float(sums[at] / counts[at])
            for at, label in enumerate(labels)
            if counts[at] > 0
        }
