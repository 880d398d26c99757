"""A trained segmenter at work: its test, and masks for images."""
