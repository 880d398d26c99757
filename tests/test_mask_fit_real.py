"""Masks of real colon tiles: right ones stay silent, altered ones are found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_checks_fit import moved

from histoprep import imageio
from histoprep.execution import Engine
from histoprep.fit.orientation import Orientation
from histoprep.schemas.workspace import Workspace
from histoprep.tiles.misfits import Misfit, MisfitKind, find_misfits
from histoprep.tiles.table import TileTable

NUM_TILES = 24
MOVE = (8, -8)


@pytest.fixture(scope="module")
def found(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Misfit]:
    root = tmp_path_factory.mktemp("real") / "set"
    masks = sorted((shared_data / "ebhi_seg/labels").glob("*/*.png"))[:: 734 // NUM_TILES]
    stored = [np.asarray(Image.open(path)).astype(np.uint8) for path in masks]
    altered = {
        "right": stored,
        "turned": [np.ascontiguousarray(labels.T) for labels in stored],
        "moved": [moved(*MOVE)(labels) for labels in stored],
        "list": [*stored[1:], stored[0]],
    }
    for folder, labels in altered.items():
        (root / folder).mkdir(parents=True)
        for index, (path, mask) in enumerate(zip(masks, labels, strict=True)):
            image = shared_data / "ebhi_seg/images" / path.parent.name / path.name
            (root / folder / f"{index:02}.png").write_bytes(image.read_bytes())
            encoded = imageio.encode_mask_png(mask)
            (root / folder / f"{index:02}_mask.png").write_bytes(encoded)
    workspace = Workspace.of(root)
    TileTable(workspace).build(Engine(1))
    return {misfit.source: misfit for misfit in find_misfits(workspace, Engine(1))}


def test_right_masks_stay_silent_and_others_are_found(found: dict[str, Misfit]) -> None:
    assert {source: misfit.kind for source, misfit in found.items()} == {
        "turned": MisfitKind.MISORIENTED,
        "moved": MisfitKind.SHIFTED,
        "list": MisfitKind.OTHER_TILES,
    }
    assert all(misfit.is_firm for misfit in found.values())


def test_what_has_to_be_done_is_measured(found: dict[str, Misfit]) -> None:
    assert found["turned"].orientation is Orientation.TRANSPOSE
    assert np.abs(np.subtract(found["moved"].move_px, MOVE)).max() <= 2
    for index, mask in enumerate(found["list"].masks):
        fitting = (index - 1) % len(found["list"].masks)
        assert mask.fitting_mask == f"list/{fitting:02}_mask.png"
