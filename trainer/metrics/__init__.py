"""Measures of classifiers, codecs and samples; plain NumPy and torch."""
