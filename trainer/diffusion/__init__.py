"""Diffusion on tensors: schedules, training objectives, guidance, samplers. Pure functions; no
files, no devices, no hidden randomness.
"""
