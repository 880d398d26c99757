"""HistoPrep: from a folder of histology tiles and masks to a data set one can trust."""

__version__ = "0.1.0"
