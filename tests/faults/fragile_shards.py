"""Shards with a tile that ends the worker which packs it; in a module that worker processes can
import.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from histoprep import cli
from histoprep.shards import plan
from histoprep.shards.task import ShardTask


@dataclass(frozen=True)
class FragileShardTask(ShardTask):
    """Ends its process at the tile `victim`, as a decoder would."""

    victim: str = ""

    def _packed(self, *arguments: Any) -> Iterator[Any]:
        for argument in ShardTask._packed(self, *arguments):
            if argument.tile.tile_id == self.victim:
                os._exit(3)
            yield argument


def shard_with_killer(arguments: list[str]) -> None:
    """Be the command line; the last argument is the victim."""
    *given, victim = arguments
    plan.ShardTask = functools.partial(FragileShardTask, victim=victim)  # type: ignore[assignment,misc]
    cli.main(given)
