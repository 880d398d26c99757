"""What generated tiles are worth: distances to real ones with floors, whether they follow their
masks, copies of training tiles, and use as training data.

`sides.py` reads both sets, `features.py` what a network sees of them; `distances.py`,
`faithfulness.py`, `spread.py`, `copies.py` and `downstream.py` measure, `mismatch.py` finds what
every measure would see; `evaluate.py` runs all of it, `page.py` shows it.
"""
