"""Shards: tiles packed in plain tar files with an index, and tiles read back by row number, from
files or from shards.

`plan.py` says which tile goes where, `task.py` writes one shard, `write.py` all of them and the
index; `source.py` and `readers.py` read, and `verify.py` reads everything again. `layout.py` has
the names and the tar headers, `index.py` the index, `storage.py` folders and object stores.
"""

from histoprep.shards.readers import EncodedTile, TileError
from histoprep.shards.source import Tile, TileSource, open_tiles

__all__ = ["EncodedTile", "Tile", "TileError", "TileSource", "open_tiles"]
