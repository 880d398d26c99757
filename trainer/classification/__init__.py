"""A trained classifier at work: measured on the test split, asked about images, drawn."""
