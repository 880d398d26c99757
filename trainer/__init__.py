"""The trainer of HistoPrep: diffusion models on data sets that histoprep prepared."""

from histoprep.version import __version__

__all__ = ["__version__"]
