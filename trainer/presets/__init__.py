"""Presets: complete configurations under a name; `trainer fit --preset NAME`."""
