"""Does a mask belong to its image? Arrays in, numbers out.

Where a mask fits, the optical density of the image changes where the mask changes its class. Both
are shrunk to the same cells: the image to optical density -ln(intensity), the mask to the share of
each class. Neighbouring cells are subtracted (which takes away stain and light, and leaves what
changes), at that size and at 1/2, 1/4, ... of it, and the differences of the density are explained
by those of the classes (least squares). What they explain, as the log-likelihood it is worth, is
the *evidence* that the mask belongs there; it is compared with the evidence for the same mask
turned, moved or scaled, and for masks of other tiles.

`grids.py` shrinks, `evidence.py` weighs, `orientation.py` turns, `measure.py` does what is done for
every tile, `votes.py` decides for a source, and `search.py` looks for a move, a scale and the masks
of other tiles in what was read again.
"""
