"""Every rule of the audit: code, name, default severity, what it means, why it happens, what to do.

The only home of these facts. `histoprep rules` and `histoprep explain` print them, the
report and the README table are made from them, and a test holds `checks/` against them.
"""

from __future__ import annotations

from histoprep.findings import FixSafety, Rule, Scope, Severity

_ERROR, _WARNING, _INFO = Severity.ERROR, Severity.WARNING, Severity.INFO
_TILE, _SOURCE, _DATASET = Scope.TILE, Scope.SOURCE, Scope.DATASET
_SAFE, _UNSAFE, _NONE = FixSafety.SAFE, FixSafety.UNSAFE, FixSafety.NONE

_ALL = (
    # HP1: the listing alone.
    Rule(
        "HP101", "orphan-mask", _ERROR, _TILE,
        "A mask has no image of the same key.",
        "The image was moved, renamed, filtered out or never exported.",
        "Export the missing images again, or delete these masks; they are left out of the manifest.",
        _NONE,
    ),
    Rule(
        "HP102", "missing-mask", _INFO, _TILE,
        "An image has no mask, so it belongs to the unconditional pool.",
        "The tile was never annotated, or its mask is named differently.",
        "Nothing, if these tiles are meant to be unlabelled. Otherwise look at --mask-suffix and --layout.",
        _NONE,
    ),
    Rule(
        "HP103", "duplicate-key", _ERROR, _TILE,
        "Two files give one key; case, extension and Unicode form count as equal.",
        "The same tile was exported twice in two formats, or the folder was copied between systems that spell names differently.",
        "Keep one file of each pair; the first in byte order is used until then.",
        _UNSAFE,
    ),
    Rule(
        "HP104", "ambiguous-pair", _ERROR, _TILE,
        "One image matches several masks, or several images match one mask.",
        "Old and new masks lie side by side, or a tile was exported in two formats.",
        "Keep one mask for each image; the first in byte order is used until then.",
        _UNSAFE,
    ),
    Rule(
        "HP105", "unparsed-name", _WARNING, _TILE,
        "The --group-by pattern does not match, so the tile has no group.",
        "The name follows another convention than the rest, or the table has no row for it.",
        "Widen the pattern; with csv:COLUMN, add the missing rows or correct the names in them.",
        _NONE,
    ),
    Rule(
        "HP106", "unexpected-file", _INFO, _TILE,
        "A file or folder that is neither image, mask, dataset.csv nor label map; links that leave the data set and special files are named too.",
        "Notes, thumbnails, archives, links or leftovers of another tool.",
        "Nothing; these files are not read.",
        _NONE,
    ),
    Rule(
        "HP107", "csv-mismatch", _ERROR, _TILE,
        "dataset.csv names a file that is not there, or its labels differ from the mask.",
        "The table was written before files were moved or masks were edited.",
        "Write it again: histoprep manifest --map MAP --dataset-csv dataset.csv",
        _SAFE,
    ),
    Rule(
        "HP108", "count-mismatch", _ERROR, _DATASET,
        "A count differs from the declared expectation file.",
        "A copy or download is incomplete, or files were added.",
        "Copy the data set again, or correct the expectation file.",
        _NONE,
    ),
    # HP2: one look at each file.
    Rule(
        "HP201", "unreadable-file", _ERROR, _TILE,
        "The file or folder cannot be opened or decoded; subcodes say how.",
        "An interrupted copy, a full disk during export, a damaged device or missing permission.",
        "Restore these files from the source; they are left out of the manifest.",
        _NONE,
    ),
    Rule(
        "HP202", "truncated-jpeg", _ERROR, _TILE,
        "A JPEG opens, but its end marker is missing or its coefficients do not fill the picture.",
        "An interrupted copy or download; many viewers show such a file with a grey or repeated lower part.",
        "Restore these files from the source; they are left out of the manifest.",
        _NONE,
    ),
    Rule(
        "HP203", "extension-mismatch", _WARNING, _TILE,
        "The first bytes of the file say another format than its extension.",
        "The file was renamed instead of converted.",
        "Rename the file; for a mask check first that it was never saved with loss.",
        _SAFE,
    ),
    Rule(
        "HP205", "huge-image", _ERROR, _TILE,
        "The header declares more pixels than --max-pixels; the file was not decoded.",
        "A whole slide lies among the tiles, or the file is a decompression bomb.",
        "Cut it into tiles, or raise --max-pixels if it is meant to be that large.",
        _NONE,
    ),
    Rule(
        "HP206", "changed-while-reading", _ERROR, _TILE,
        "Size or time of the file changed between listing and reading.",
        "An export or copy is still running.",
        "Wait until it is done and audit again.",
        _SAFE,
    ),
    Rule(
        "HP207", "privacy-metadata", _WARNING, _TILE,
        "EXIF, text chunks or TIFF tags that may identify a patient, a person or a device.",
        "The scanner or the export wrote them.",
        "Strip them before the data set leaves the house; masks written by histoprep never carry them.",
        _SAFE,
    ),
    # HP3: the image.
    Rule(
        "HP301", "wrong-size", _ERROR, _TILE,
        "The image is not of the declared size (--tile-size), or else of that of at least half of the images.",
        "Tiles from the edge of a slide were not padded, or two exports were mixed.",
        "Crop or pad them, or train with an option that crops; see --tile-size.",
        _NONE,
    ),
    Rule(
        "HP302", "wrong-mode", _ERROR, _TILE,
        "The image is not 8-bit RGB.",
        "It was saved as grayscale, CMYK, with transparency, with 16 bits or with a palette.",
        "Convert it to 8-bit RGB at the source.",
        _NONE,
    ),
    Rule(
        "HP303", "blank-image", _WARNING, _TILE,
        "The tile is nearly constant, or more than 0.95 of it is glass.",
        "Tiles were cut without a tissue mask.",
        "Leave such tiles out of training; they teach a model to draw glass.",
        _NONE,
    ),
    Rule(
        "HP304", "blurry-image", _INFO, _TILE,
        "The focus score lies far below those of the other tiles of its source.",
        "The scanner missed the focus there, or the tissue folds.",
        "Look at the examples; leave them out if they are out of focus.",
        _NONE,
    ),
    Rule(
        "HP308", "compression-drift", _WARNING, _SOURCE,
        "JPEG quality or subsampling differs between sources, or predicts the image-level class.",
        "Sources were exported with different settings; a model can learn the settings instead of the tissue.",
        "Export all sources from the slides with the same settings.",
        _NONE,
    ),
    Rule(
        "HP309", "exif-orientation", _WARNING, _TILE,
        "The orientation tag is 2 to 8, so that some readers turn the image away from its mask.",
        "The image went through a photo application.",
        "Write the pixels in the stored order and drop the tag.",
        _SAFE,
    ),
    # HP4: the mask.
    Rule(
        "HP401", "size-mismatch", _ERROR, _TILE,
        "The mask is not of the size of its image.",
        "One of the two was resized or cropped, or they belong to different tiles.",
        "Export both at the same size; never resize a mask with interpolation.",
        _NONE,
    ),
    Rule(
        "HP402", "mask-wrong-mode", _ERROR, _TILE,
        "The mask is RGB, RGBA, float, or carries a colour table so that some readers return colours.",
        "A picture of the mask was saved instead of the labels, or a tool added a palette.",
        "Export the label ids as 8-bit grayscale PNG; palette masks become that with histoprep remap.",
        _NONE,
    ),
    Rule(
        "HP403", "lossy-mask", _ERROR, _SOURCE,
        "Masks are stored with loss, or were once saved as JPEG: 8x8 blocks show it, for a slide or folder as a whole.",
        "The export or a viewer saved label masks as pictures; every boundary then carries labels that nobody drew, also after a remap.",
        "Restore the masks from a lossless source, or mend them: histoprep repair",
        _UNSAFE,
    ),
    Rule(
        "HP404", "interpolated-mask", _ERROR, _SOURCE,
        "Nearly all boundaries of a slide or folder are ramps: between two labels lie values that stand for neither.",
        "Masks were resized or smoothed as pictures, or compressed with loss but without a block grid, as WebP does.",
        "Resize label masks with the nearest pixel only; restore them, or mend them: histoprep repair",
        _UNSAFE,
    ),
    Rule(
        "HP405", "mask-coarse-resolution", _INFO, _TILE,
        "The mask is uniform in k x k cells, k >= 8.",
        "It was drawn at a lower magnification and enlarged.",
        "Nothing, if that precision is enough; boundaries are off by up to k pixels.",
        _NONE,
    ),
    Rule(
        "HP406", "zero-mask", _INFO, _TILE,
        "Every pixel is label 0, so the tile belongs to the unconditional pool.",
        "Nothing was annotated there.",
        "Nothing, if label 0 means unknown.",
        _NONE,
    ),
    Rule(
        "HP407", "full-mask", _INFO, _TILE,
        "One label other than 0 covers the whole tile.",
        "The tile lies inside a large annotation.",
        "Nothing.",
        _NONE,
    ),
    Rule(
        "HP408", "speck-labels", _WARNING, _TILE,
        "Connected regions smaller than --min-area pixels.",
        "Stray clicks in the annotation tool, or values that grew from lossy compression or interpolation.",
        "Look at the examples; remove specks before training.",
        _NONE,
    ),
    Rule(
        "HP409", "hairline-labels", _WARNING, _TILE,
        "A label is present, but its largest inscribed radius is 2 pixels or less.",
        "A rim between two other labels from interpolation or lossy compression, or a line drawn by hand.",
        "Look at the examples; class lists use core presence, which such labels do not have.",
        _NONE,
    ),
    Rule(
        "HP410", "scaled-labels", _ERROR, _DATASET,
        "All values share a divisor that chance does not explain, such as 0 and 255, or 0, 20, 40 and 60.",
        "The mask was scaled for viewing.",
        "Divide by the factor named, at the source.",
        _NONE,
    ),
    Rule(
        "HP412", "sixteen-bit-mask", _WARNING, _TILE,
        "The mask has 16 bits although all values are below 256.",
        "The export used a wider type than needed; readers that keep the upper 8 bits see nothing but 0.",
        "histoprep remap writes 8-bit masks.",
        _SAFE,
    ),
    # HP5: the label map.
    Rule(
        "HP501", "unmapped-label", _ERROR, _DATASET,
        "A mask holds a value that the label map does not list.",
        "The map belongs to another version of the annotation, or the value is an artefact.",
        "Add the value to the map, or remap with --on-unmapped unknown.",
        _NONE,
    ),
    Rule(
        "HP502", "unused-label", _INFO, _DATASET,
        "A label of the map that no mask holds.",
        "The label is rare, or part of the data set is missing.",
        "Nothing.",
        _NONE,
    ),
    Rule(
        "HP503", "map-not-total", _ERROR, _DATASET,
        "A declared source label has no target class.",
        "A label was added to the list but not to the map.",
        "Give it a class in the map; histoprep map check FILE names it.",
        _NONE,
    ),
    Rule(
        "HP504", "map-collision", _ERROR, _DATASET,
        "A source label is listed twice, or two names share one id.",
        "The file was edited by hand.",
        "Keep one entry; histoprep map check FILE names the line.",
        _NONE,
    ),
    Rule(
        "HP505", "map-overflow", _ERROR, _DATASET,
        "A target class id does not fit into the 8 bits of the output.",
        "The id is above 255 or negative.",
        "Number the classes from 0.",
        _NONE,
    ),
    Rule(
        "HP506", "map-gap", _WARNING, _DATASET,
        "The target class ids are not 0 to K-1.",
        "A class was removed.",
        "Number the classes without a gap; a model would otherwise learn empty classes.",
        _NONE,
    ),
    Rule(
        "HP507", "class-vanishes", _WARNING, _DATASET,
        "A target class other than 0 that no label in the data reaches.",
        "The labels of that class are missing from this data set.",
        "Use a map without the class, or add data.",
        _NONE,
    ),
    Rule(
        "HP508", "already-remapped", _ERROR, _DATASET,
        "The masks fit the target ids of the map and not its source ids: remapping would apply it twice.",
        "This folder holds masks that were remapped before.",
        "Point histoprep at the original masks; if these classes are what the map lists as its labels, ignore this.",
        _NONE,
    ),
    # HP6: copies.
    Rule(
        "HP601", "exact-duplicate-file", _WARNING, _TILE,
        "Images with the same bytes.",
        "A tile was copied or exported twice.",
        "Keep one of each; the split keeps copies together.",
        _UNSAFE,
    ),
    Rule(
        "HP602", "exact-duplicate-pixels", _WARNING, _TILE,
        "Images with the same decoded pixels in files that differ.",
        "A tile was saved again without loss, or only its metadata changed.",
        "Keep one of each; the split keeps copies together.",
        _UNSAFE,
    ),
    Rule(
        "HP603", "near-duplicate", _INFO, _TILE,
        "Images whose perceptual hashes nearly agree, confirmed by correlation.",
        "Overlapping or re-compressed tiles.",
        "Give --group-by so that tiles of one slide stay in one split.",
        _NONE,
    ),
    Rule(
        "HP604", "conflicting-duplicate", _ERROR, _TILE,
        "The same image with different masks.",
        "Two annotators, two versions of the annotation, or a mask saved under the wrong name.",
        "Decide which mask is right and remove the other.",
        _NONE,
    ),
    # HP7: leaks.
    Rule(
        "HP701", "tile-in-both-splits", _ERROR, _TILE,
        "One tile stands in two splits.",
        "Folders were copied, or a split was made by hand.",
        "Split again: histoprep manifest --map MAP",
        _SAFE,
    ),
    Rule(
        "HP702", "group-in-both-splits", _ERROR, _SOURCE,
        "One slide, case or patient stands in two splits, so that test results are too good.",
        "The split was made by tile instead of by group.",
        "Split again by group: histoprep manifest --group-by PATTERN --map MAP",
        _SAFE,
    ),
    Rule(
        "HP703", "duplicate-across-splits", _ERROR, _TILE,
        "The same image stands in two splits.",
        "Copies were not removed before splitting.",
        "Split again: histoprep manifest keeps copies together.",
        _SAFE,
    ),
    Rule(
        "HP704", "pool-overlap", _ERROR, _TILE,
        "A tile stands in the conditional and in the unconditional pool.",
        "An --unlabelled folder holds copies of labelled tiles.",
        "Remove the copies from the unlabelled folder.",
        _SAFE,
    ),
    # HP8: the classes.
    Rule(
        "HP801", "missing-class-in-split", _ERROR, _DATASET,
        "A class other than 0 has no core-present tile in a split.",
        "The class is rare and the split did not look at it.",
        "Split again: histoprep manifest balances classes over splits.",
        _SAFE,
    ),
    Rule(
        "HP802", "rare-class", _WARNING, _DATASET,
        "A class other than 0 is core-present in fewer than 50 tiles or 3 groups; an info where no label map says what the classes are.",
        "The class is rare in the slides, or annotated rarely.",
        "Add data, or merge the class with another in the label map.",
        _NONE,
    ),
    Rule(
        "HP804", "spurious-class", _ERROR, _DATASET,
        "A class is present in more than 3 times as many tiles as it is core-present in, and in at least 5.",
        "Thin false rims: masks were saved with loss or resized with interpolation. A class that is thin by nature needs min_radius_px in the label map.",
        "Restore the masks that HP409 names from a lossless source, and resize masks with nearest neighbour only.",
        _NONE,
    ),
    Rule(
        "HP805", "class-from-one-group", _WARNING, _DATASET,
        "Over 80 % of a class other than 0 comes from one group.",
        "Only one slide or case shows it.",
        "Add groups; a model cannot tell this class from the look of that slide.",
        _NONE,
    ),
    Rule(
        "HP806", "split-shift", _WARNING, _DATASET,
        "The share of a class differs between splits by more than 5 points.",
        "The split did not look at classes.",
        "Split again: histoprep manifest balances classes over splits.",
        _SAFE,
    ),
    # HP9: what we wrote.
    Rule(
        "HP901", "manifest-schema", _ERROR, _DATASET,
        "The manifest lacks a column, has a wrong type, a null in a key or an unknown schema version.",
        "It was written by another program or version.",
        "Make it again: histoprep manifest --map MAP",
        _SAFE,
    ),
    Rule(
        "HP902", "manifest-stale", _ERROR, _TILE,
        "Size or digest of a file differs from the manifest.",
        "The file changed after the manifest was made.",
        "Make the manifest again, or restore the file.",
        _NONE,
    ),
    Rule(
        "HP903", "dangling-path", _ERROR, _TILE,
        "A path of the manifest does not exist.",
        "Files were moved or deleted after the manifest was made.",
        "Restore the files, or make the manifest again.",
        _NONE,
    ),
    Rule(
        "HP907", "latent-mismatch", _ERROR, _TILE,
        "A latent set does not belong to the manifest or the codec: other files, other masks, another training split, another label map.",
        "Tiles, label map or split changed after trainer encode.",
        "Run trainer encode again; after a new split alone it measures the scaling again and keeps the latents.",
        _SAFE,
    ),
)

RULES: dict[str, Rule] = {rule.code: rule for rule in _ALL}
