"""Early stopping: how long the metric that selects checkpoints has not improved."""

from __future__ import annotations

import math
from typing import Any, Literal

from trainer.config import EarlyStopping
from trainer.errors import ConfigError


class Patience:
    """Counts the validations in a row without an improvement; part of every checkpoint, so that a
    resumed run stops where an uninterrupted one does.

    Args:
        settings: When to stop; None for never.
        best: The metric that selects checkpoints and its good end; None where there is none.

    Raises:
        ConfigError: When a stage without such a metric is to be stopped early.
    """

    def __init__(
        self, settings: EarlyStopping | None, best: tuple[str, Literal["min", "max"]] | None
    ) -> None:
        if settings is not None and best is None:
            raise ConfigError(
                "early_stopping needs a stage that is validated",
                seen="no metric that selects checkpoints",
                hint="--set early_stopping=null",
            )
        self._settings, self._best = settings, best
        self.num_waited = 0
        self._reference: float | None = None

    def note(self, value: float) -> None:
        """Take note of a validation."""
        assert self._best is not None
        min_delta = self._settings.min_delta if self._settings else 0.0
        sign = 1.0 if self._best[1] == "max" else -1.0
        is_better = not math.isnan(value) and (
            self._reference is None or sign * (value - self._reference) > min_delta
        )
        self.num_waited = 0 if is_better else self.num_waited + 1
        if is_better:
            self._reference = value

    @property
    def is_over(self) -> bool:
        """Return whether the stage is to end now."""
        return self._settings is not None and self.num_waited >= self._settings.patience

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"num_waited": self.num_waited, "reference": self._reference}

    def load(self, state: dict[str, Any] | None) -> None:
        """Go on from what a checkpoint kept; earlier versions kept nothing."""
        if state is not None:
            self.num_waited, self._reference = state["num_waited"], state["reference"]
