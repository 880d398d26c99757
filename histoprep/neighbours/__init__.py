"""Which tiles touch, and which overlap, from their pixels alone: arrays in, pairs out.

`borders.py` reduces the four borders of a tile to 512 bytes and matches them; `landmarks.py` finds
places inside of a tile that look the same wherever the tile was cut, turned or flipped, and
`overlaps.py` matches these.
"""
