"""The words that settings of the configuration, options of the command line and arguments of Python
functions can take; each list is here once.

What such a word does stands where it is used. Here nothing else is imported, so that help pages
need no torch.
"""

from __future__ import annotations

from typing import Literal

Split = Literal["train", "val", "test"]
"""A split of a manifest."""
Fit = Literal["refuse", "crop", "tile"]
"""What becomes of tiles that are not of the training size."""
OnUnreadable = Literal["stop", "skip"]
"""What becomes of a tile that cannot be read."""
LogLevel = Literal["info", "debug"]
"""How much training prints."""
OnNonfinite = Literal["stop", "skip"]
"""What becomes of a step whose loss is NaN or infinite."""
ScalingMethod = Literal["measured", "codec"]
"""Where the scaling of latents comes from."""
PredictionType = Literal["epsilon", "v", "flow", "mean_flow"]
"""What the network predicts."""
LossKind = Literal["l1", "l2"]
"""How far a prediction is from its target."""
ScheduleKind = Literal["cosine", "linear"]
"""How noise grows."""
SolverKind = Literal["dpm++", "ddim", "euler", "heun"]
"""How noise becomes latents, step by step."""
MaskQuery = Literal["binary", "class"]
"""Query of the attention of the reference network."""
ClassEmbedding = Literal["fraction", "max"]
"""How classes are reduced to the resolution of the class embedding."""
Spacing = Literal["time", "log_snr"]
"""How the steps of sampling are spread over the noise levels."""
Unlabelled = Literal["null", "class"]
"""What unlabelled pixels are to a denoiser."""
ImageRange = Literal["signed", "unit"]
"""Range of the images that a codec takes: [-1, 1], or [0, 1]."""
Lineage = Literal["diffinfinite", "skin-fork"]
"""Whose training a published checkpoint of the reference network comes from."""
Precision = Literal["fp32", "bf16", "fp16"]
"""The number format that the network computes in."""
