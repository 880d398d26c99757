"""The manifest: one row a valid tile, the contract between the toolkit and the trainer.

Its schema and readers are in `schemas/manifest.py`. `build.py` makes a manifest from the tiles
table, `check.py` compares one with the files and with itself, `diff.py` two with each other.
"""
