"""From masks to images: `generator.py` is the network with its codec, `masks.py` where masks come
from, `dataset.py` what is written.

`trainer.sample` is the way in.
"""
