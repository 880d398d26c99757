"""Shapes in the signatures of tensor functions are checked in tests, and in tests alone.

The hook rewrites modules while they are imported, so it comes before anything of the trainer is.
Without it the annotations are text that nobody reads: training pays nothing for them.
"""

from __future__ import annotations

import os
import re
from typing import Any

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

MODULES = (
    "trainer.diffusion",
    "trainer.metrics",
    "trainer.models",
    "trainer.sampling.generator",
    "trainer.data.randomness",
    "trainer.data.run_lengths",
    "trainer.data.transforms",
)
OFF = "HISTOPREP_NO_SHAPE_CHECKS"

# A whole number will do where a fractional one is wanted.
_check_types = beartype(conf=BeartypeConf(is_pep484_tower=True))
_SHAPE = re.compile(r"\[(torch\.|np\.|numpy\.)?(Tensor|ndarray), ")


def check(function: Any) -> Any:
    """Return a function that checks its types, if any of them states a shape."""
    types = getattr(function, "__annotations__", {}).values()
    return _check_types(function) if any(_SHAPE.search(str(kind)) for kind in types) else function


def install() -> None:
    """Check calls to the functions in MODULES from now on."""
    if OFF not in os.environ:
        install_import_hook(MODULES, "shape_checks.check")
