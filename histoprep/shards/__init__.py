"""Shards: tiles packed in plain tar files with an index, and tiles read back by row number, from
files or from shards.

`plan.py` says which tile goes where, `task.py` writes one shard, `write.py` all of them and the
index; `source.py` and `readers.py` read, and `verify.py` reads everything again. `layout.py` has
the names and the tar headers, `index.py` the index, `places.py` folders and object stores.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from histoprep.shards.readers import EncodedTile, TileError
from histoprep.shards.source import Tile, TileSource, open_tiles

if TYPE_CHECKING:
    from histoprep.shards.plan import ShardOptions
    from histoprep.shards.verify import verify_shards
    from histoprep.shards.write import ShardResult, write_shards

__all__ = [
    "EncodedTile",
    "ShardOptions",
    "ShardResult",
    "Tile",
    "TileError",
    "TileSource",
    "open_tiles",
    "verify_shards",
    "write_shards",
]

# Whoever only reads does not wait for what writes.
_LATER = {
    "ShardOptions": "plan",
    "ShardResult": "write",
    "write_shards": "write",
    "verify_shards": "verify",
}


def __getattr__(name: str) -> Any:
    """Return what writes or verifies shards, imported when first used."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
