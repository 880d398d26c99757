"""Descriptions of a data set that travel with it: Croissant for machines, a card for people."""
