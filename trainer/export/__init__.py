"""Trained networks for other programs: a diffusers folder of an image generator, programs of
torch.export for a segmenter, each usable without this package.
"""
