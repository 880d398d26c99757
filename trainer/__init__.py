"""The trainer of HistoPrep: diffusion models on data sets that histoprep prepared.

`load_run` returns a trained model: `ImageModel.sample` makes an image for a mask, and
`ImageClassifier.classify` names the class of an image. Each name is imported when it is first used,
so that `import trainer` is cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from histoprep.version import __version__

if TYPE_CHECKING:
    from trainer.functions import Classification, ImageClassifier, ImageModel, load_run

__all__ = ["Classification", "ImageClassifier", "ImageModel", "__version__", "load_run"]


def __getattr__(name: str) -> Any:
    """Return a public name, imported now."""
    if name in __all__:
        return getattr(import_module("trainer.functions"), name)
    raise AttributeError(f"module 'trainer' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__
