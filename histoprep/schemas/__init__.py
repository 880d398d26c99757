"""What our tables hold: their columns, kinds and versions, and their readers.

The contract between the stages, and between the toolkit and the trainer: whoever reads a table
takes it from here, and no stage is imported here.
"""
