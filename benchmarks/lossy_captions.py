"""What is said of each table of `python -m benchmarks.lossy`, by its name."""

CAPTIONS = {
    "clean": """Clean sources of 36 masks. Any verdict is a false alarm.""",
    "others": (
        """False alarms on seeds and sizes that no threshold was chosen on, as drawn and after a many-to-one label map:
four draws of 36 masks a family, so eight sources."""
    ),
    "sparse": (
        """False alarms on masks that hold little, cut into sources of several sizes; no threshold was chosen on these draws."""
    ),
    "damaged": (
        """Damaged sources of 36 masks. A source counts when it has 30 masks with boundaries and when the damage changed a pixel
in more than half of its masks, compared with clean masks under the same label map; "pixels changed" spans the means of these sources.

Stripes after a label map stay unseen: all of their blocks are mixed, on the grid of the file and on every shifted one, so that only the
rim of the striped part tells them apart. At quality 75 and 90 that makes a block phase of 0.04 to 0.05 where 0.053 is asked of so many
blocks, and clean predictions of stride 8 reach 0.035. Their shapes say nothing either: the straight boundaries that JPEG leaves are
those that are drawn.

Labels one step apart, at quality 80 and 85, come back with straight boundaries in the middle of blocks that break off where a block
ends. At quality 92 four in five of such blocks and of curved ones are fixed points; but so are two in three of rectangles drawn at places
by 4 and two in five of checkerboards, which are clean. So after a label map they stay unseen, too."""
    ),
    "moved": (
        """Masks that were JPEG before they were cut into tiles, cropped or resized by the nearest pixel: 36 masks a source, drawn at
600 px, real ones continued by their mirror image. A source counts when 30 of its masks have boundaries and the damage changed a pixel in half
of them. Thresholds were chosen on draws of seeds 701 to 703 and 901; these are of 961, which nothing was chosen on.

Halved masks have blocks of 4 px, whose quality nothing names. Thin structures that were reduced by a fifth show such blocks, too, since every
fifth row and column is missing: in a seventh of their masks at most, so that three in ten are asked for where each shows little. What stays
unseen are labels one step apart, thin walls and layers, which ring too little."""
    ),
    "moved-clean": (
        """False alarms on the same cuts of clean masks, as drawn and after a many-to-one label map, of seed 961."""
    ),
    "mixed": (
        """Sources of 60 masks of which every tenth or third went through JPEG: which are listed. Thresholds were chosen on draws of seeds
901, 931 and 941; these are of 971, which nothing was chosen on."""
    ),
    "colour": """Masks in colour.""",
    "repair-jpeg": (
        """Repair of regions, 12 masks a source, as the command does it: what it refuses is counted, and all other
columns are of the masks that were repaired ("worse": with more wrong pixels than before); damage and repair in percent of all pixels. Hidden are wrong pixels left in 8x8 blocks
that came out of JPEG as one label, which repair never touches: the truth and that one label have the same JPEG image (checked), so that data
cannot tell them apart. "At most" is the factor that would be left if all else were repaired. The limits of what counts as a trace of a
label were chosen on these sources, so that what is refused here is no independent figure.

Two guesses at hidden pixels were tried at quality 75 and left out. Searching blocks of one label beside a boundary, too, takes a ninth of
what is left of "generated, labels 0-4" (0.28 to 0.25, 6 masks), and a boundary that goes on smoothly (sigma 3 px) wherever JPEG makes the same
of it takes a seventh (0.28 to 0.24); but boxes that were drawn on the 8 px grid lose their corners (0.30 to 0.40 and 0.42)."""
    ),
    "repair-ramps": """Repair of interpolated regions, 12 masks a source.""",
    "repair-many": """Repair of masks with many labels, 12 masks a source. Draws of seed 1117; the limits of what counts as a trace of a label were
chosen on those of seeds 801, 907 and 1013 and on the sources of repair-jpeg.""",
    "repair-thin": (
        """Repair of lines, specks and layers thinner than a core, 12 masks a source. Their labels have no place to be trusted at, so
they are tried where a repair without them is less likely than the damaged mask. A mask is refused whose repair stays less likely by a
twentieth, changes fewer pixels than it leaves undetermined, or takes away a label of the source that it does not explain. Before labels were
tried and masks refused, stripes came out twice as wrong, labels of radius >= 3 px were lost 37, 15 and 11 times at quality 75, 90 and 95, and
layers, thin walls, one class on its neighbour and borders of one pixel came out no better or worse.

Trying labels in every mask that leaves blocks unexplained, not only in unlikely ones, finds three more labels in vessels and
lets four false ones in; it was left out."""
    ),
}
