"""A trained classifier at work: measured on the test split, applied to images, drawn."""
