"""Denoisers: networks that know a mask of classes, each in a module of its own with its `Config`.

`interface.py` says what a denoiser is, `registry.py` which there are, `masks.py` reduces masks to
the resolution of latents, and `footprint.py` counts parameters and memory.
`docs/adding-a-denoiser.md` shows how to add one.
"""
