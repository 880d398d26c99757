"""Importing GeoJSON of QuPath: holes, tiles of slides, spellings of versions, Java's own pixels."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from import_samples import centres_inside, make_qupath, make_qupath_tiles, save, tissue, wavy
from test_import import ledger_of, masks_of, run

from histoprep.errors import ExitCode
from histoprep.importing.model import ImageSize
from histoprep.importing.outlines import Rings
from histoprep.labels import load_label_map

FILL = """
import java.awt.*; import java.awt.geom.*; import java.awt.image.*; import java.util.*;
public class Fill {
  public static void main(String[] arguments) {
    Scanner in = new Scanner(System.in).useLocale(Locale.ROOT);
    int width = in.nextInt(), height = in.nextInt(), shapes = in.nextInt();
    for (int shape = 0; shape < shapes; shape++) {
      Path2D path = new Path2D.Double(Path2D.WIND_EVEN_ODD);
      int corners = in.nextInt();
      path.moveTo(in.nextDouble(), in.nextDouble());
      for (int n = 1; n < corners; n++) path.lineTo(in.nextDouble(), in.nextDouble());
      path.closePath();
      BufferedImage image = new BufferedImage(width, height, BufferedImage.TYPE_BYTE_GRAY);
      Graphics2D pen = image.createGraphics();
      pen.setClip(0, 0, width, height);
      pen.setColor(Color.WHITE);
      pen.fill(path);
      StringBuilder row = new StringBuilder();
      for (byte value : ((DataBufferByte) image.getRaster().getDataBuffer()).getData())
        row.append(value != 0 ? '1' : '0');
      System.out.println(row);
    }
  }
}
"""


def pixels_of(shape: Rings, size: ImageSize) -> np.ndarray:
    pixels = np.zeros(size, bool)
    patch = shape.fill(size)
    height, width = patch.pixels.shape
    pixels[patch.top : patch.top + height, patch.left : patch.left + width] = patch.pixels
    return pixels


@given(
    st.integers(0, 10_000), st.floats(-20, 60), st.floats(-20, 60), st.floats(1, 40), st.booleans()
)
@settings(max_examples=150)
def test_pixels_are_those_whose_centre_is_inside(
    seed: int, x: float, y: float, radius: float, hole: bool
) -> None:
    rings = [wavy(seed, (x, y), radius)]
    if hole:
        rings.append(wavy(seed + 1, (x, y), radius / 2))
    expected = centres_inside(rings, 40, 48)
    made = pixels_of(Rings((tuple(rings),)), ImageSize(40, 48))
    # A centre that lies on an outline may go to either side.
    differing = np.argwhere(made != expected) + 0.5
    assert all(_distance(point[::-1], rings) < 1e-6 for point in differing)


def _distance(point: np.ndarray, rings: list[np.ndarray]) -> float:
    nearest = np.inf
    for ring in rings:
        for a, b in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            along = np.clip(np.dot(point - a, b - a) / max(np.dot(b - a, b - a), 1e-12), 0, 1)
            nearest = min(nearest, float(np.hypot(*(a + along * (b - a) - point))))
    return nearest


@pytest.mark.slow
def test_corners_of_pixels_are_what_java_fills(tmp_path: Path) -> None:
    if shutil.which("javac") is None:
        pytest.skip("there is no Java compiler")
    (tmp_path / "Fill.java").write_text(FILL)
    subprocess.run(["javac", "Fill.java"], cwd=tmp_path, check=True)
    draw = np.random.default_rng(0)
    rings = [
        wavy(number, tuple(draw.uniform(20, 70, 2)), draw.uniform(4, 30), int(draw.integers(3, 40)))
        for number in range(100)
    ]
    shapes = "\n".join(f"{len(ring)} {' '.join(map(str, ring.ravel().tolist()))}" for ring in rings)
    filled = subprocess.run(
        ["java", "-Djava.awt.headless=true", "Fill"],
        cwd=tmp_path,
        input=f"96 96 {len(rings)}\n{shapes}",
        capture_output=True,
        text=True,
        check=True,
    )
    differing = total = 0
    for ring, line in zip(rings, filled.stdout.split(), strict=True):
        java = np.array(list(line)).reshape(96, 96) == "1"
        made = pixels_of(Rings(((ring,),)).moved((0.0, 0.0), 1.0, 0.5), ImageSize(96, 96))
        differing += int((java != made).sum())
        total += int(java.sum())
    # Java rounds coordinates to fractions of a pixel; centres would differ in 5 % of the pixels.
    assert total > 50_000
    assert differing < total / 4000


def test_the_rule_for_pixels_is_an_option(tmp_path: Path) -> None:
    save(tissue(1, 10, 10), tmp_path / "source" / "a.png")
    square = [[2.3, 2.3], [6.3, 2.3], [6.3, 6.3], [2.3, 6.3], [2.3, 2.3]]
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [square]}}
    (tmp_path / "source" / "a.geojson").write_text(json.dumps(feature))
    for rule, start in (("centre", 2), ("corner", 3)):
        out = tmp_path / rule
        command = ("import", "qupath", tmp_path / "source", "--pixels", rule, "--out", out)
        assert run(*command) == ExitCode.OK
        rows, columns = np.nonzero(masks_of(out)["a"])
        assert (rows.min(), columns.min(), len(rows)) == (start, start, 16)


def test_colours_and_names_of_every_version(tmp_path: Path) -> None:
    sample, out = make_qupath(tmp_path / "source"), tmp_path / "tree"
    assert run("import", *sample.arguments, "--out", out) == ExitCode.OK
    classes = yaml.safe_load((out / "label_map.yml").read_text())["classes"]
    colours = {entry["name"]: entry["colour"] for entry in classes.values()}
    # -13408615 is 0xff336699 as Java packs it.
    assert colours["Necrosis"] == "#336699"
    assert colours["Stroma"] == "#96c896"
    assert colours["Tumor"] == "#c80000"


SQUARE = [[2, 2], [8, 2], [8, 8], [2, 8], [2, 2]]


def polygon(name: str, ring: list[list[int]] = SQUARE) -> dict[str, Any]:
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"classification": {"name": name}},
    }


def test_classes_that_qupath_ignores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tissue(1, 20, 20), tmp_path / "source" / "a.png")
    all_of_it = [[0, 0], [20, 0], [20, 20], [0, 20], [0, 0]]
    far = [[10, 10], [14, 10], [14, 14], [10, 14], [10, 10]]
    features = [polygon("Region*", all_of_it), polygon("Tumor"), polygon("Ignore*", far)]
    (tmp_path / "source" / "a.geojson").write_text(json.dumps(features))
    out = tmp_path / "tree"
    assert run("import", "qupath", tmp_path / "source", "--out", out) == ExitCode.OK
    printed = capsys.readouterr().err
    assert "Region*: its objects are not drawn" in printed
    assert "Ignore*: its pixels belong to no class (label 255)" in printed
    assert "without an area" not in printed
    labels, pixels = np.unique(masks_of(out)["a"], return_counts=True)
    assert dict(zip(labels.tolist(), pixels.tolist(), strict=True)) == {0: 348, 1: 36, 255: 16}
    assert load_label_map(out / "label_map.yml").ignore == ((255, 255),)
    assert ledger_of(out)[0]["skipped_kinds"] == "Region* 1"
    # A class that is named is one like all others.
    out = tmp_path / "named"
    command = ("import", "qupath", tmp_path / "source", "--classes", "Region*,Tumor,Ignore*")
    assert run(*command, "--out", out) == ExitCode.OK
    assert np.unique(masks_of(out)["a"]).tolist() == [1, 2, 3]


def test_areas_in_a_collection(tmp_path: Path) -> None:
    save(tissue(1, 20, 20), tmp_path / "source" / "a.png")
    feature = polygon("Tumor")
    point = {"type": "Point", "coordinates": [1, 1]}
    feature["geometry"] = {"type": "GeometryCollection", "geometries": [point, feature["geometry"]]}
    (tmp_path / "source" / "a.geojson").write_text(json.dumps([feature]))
    out = tmp_path / "tree"
    assert run("import", "qupath", tmp_path / "source", "--out", out) == ExitCode.OK
    assert int((masks_of(out)["a"] == 1).sum()) == 36


@pytest.mark.parametrize("name", ["a.png", "a [d=1,x=0,y=0,w=20,h=20].png"])
def test_objects_without_areas_leave_every_mask_empty(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tissue(1, 20, 20), tmp_path / "source" / name)
    point = {"type": "Point", "coordinates": [1, 1]}
    collection = {"type": "GeometryCollection", "geometries": [point]}
    features = [{"type": "Feature", "geometry": shape} for shape in (point, None, collection)]
    (tmp_path / "source" / "a.geojson").write_text(json.dumps(features))
    command = ("import", "qupath", tmp_path / "source", "--out", tmp_path / "tree")
    assert run(*command) == ExitCode.INCOMPLETE
    printed = capsys.readouterr().err
    kinds = (
        "3 annotations without an area, in no mask: 1 GeometryCollection, 1 Point, 1 no geometry"
    )
    assert kinds in printed
    assert "no annotation covers a pixel" in printed


def test_objects_without_class_and_without_area(tmp_path: Path) -> None:
    save(tissue(1, 20, 20), tmp_path / "source" / "a.png")
    ring = [[2, 2], [8, 2], [8, 8], [2, 8], [2, 2]]
    features: list[dict[str, Any]] = [
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}},
        {"type": "Feature", "geometry": None, "properties": {}},
        {"type": "Feature", "geometry": {"type": "LineString", "coordinates": ring}},
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring[:2]]}},
        {"type": "Feature", "geometry": {"type": "MultiPolygon", "coordinates": []}},
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [[[50, 50], [60, 50], [60, 60]]]},
            "properties": {"classification": {"name": "Tumor"}},
        },
    ]
    # QuPath 0.1 wrote a list.
    (tmp_path / "source" / "a.geojson").write_text(json.dumps(features))
    out = tmp_path / "tree"
    assert run("import", "qupath", tmp_path / "source", "--out", out) == ExitCode.OK
    [row] = ledger_of(out)
    names = ("read", "drawn", "empty", "outside", "skipped_kinds")
    counts = [row[name] for name in names]
    assert counts == [6, 1, 1, 2, "LineString 1, no geometry 1"]
    assert yaml.safe_load((out / "label_map.yml").read_text())["sources"] == {
        0: "background",
        1: "Tumor",
        2: "Unclassified",
    }


@pytest.mark.parametrize("downsampling", [1.0, 2.0, 3.5])
def test_tiles_of_any_downsampling(tmp_path: Path, downsampling: float) -> None:
    sample, out = make_qupath_tiles(tmp_path / "source", downsampling), tmp_path / "tree"
    assert run("import", *sample.arguments, "--out", out) == ExitCode.OK
    made = masks_of(out)
    assert made.keys() == sample.masks.keys()
    for name, expected in sample.masks.items():
        assert (made[name] != expected).mean() < 1e-3


def test_a_name_may_go_on_after_that_of_its_image(tmp_path: Path) -> None:
    sample, out = make_qupath(tmp_path / "source"), tmp_path / "tree"
    for path in (tmp_path / "source" / "geojson").iterdir():
        path.rename(path.with_name(f"{path.stem}_nuclei.v2.geojson"))
    assert run("import", *sample.arguments, "--out", out) == ExitCode.OK
    np.testing.assert_array_equal(masks_of(out)["field_1"], sample.masks["field_1"])


def test_a_tile_of_another_size_than_its_name_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample, out = make_qupath_tiles(tmp_path / "source"), tmp_path / "tree"
    tile = sorted((tmp_path / "source" / "tiles").iterdir())[0]
    save(tissue(1, 90, 96), tile)
    assert run("import", *sample.arguments, "--out", out) == ExitCode.INCOMPLETE
    assert "expected 96 x 96 px, from w, h and d of its name" in capsys.readouterr().err


def ring_with(point: object) -> Callable[[dict[str, Any]], object]:
    return lambda content: content["features"][0]["geometry"].update(
        coordinates=[[[1, 1], point, [5, 5]]]
    )


BAD = {
    "no feature": (
        lambda content: content.update(type="Topology"),
        "this is no GeoJSON of features",
    ),
    "a point of one number": (
        ring_with([1]),
        "feature 0, geometry, coordinates, 0, 1: not a point",
    ),
    "a point of texts": (ring_with(["1", "2"]), "coordinates, 0, 1, 0: not a number"),
    "a number for a ring": (
        lambda content: content["features"][0]["geometry"].update(coordinates=[3]),
        "feature 0, geometry, coordinates, 0: not a list",
    ),
    "no coordinates": (
        lambda content: content["features"][0]["geometry"].pop("coordinates"),
        "feature 0, geometry: 'coordinates' is missing",
    ),
    "a feature that is none": (
        lambda content: content["features"].insert(0, "x"),
        "feature 0: not an object",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_is_named_and_nothing_is_written(
    tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = make_qupath(tmp_path / "source")
    change, message = BAD[case]
    path = tmp_path / "source" / "geojson" / "field_1.geojson"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    assert run("import", *sample.arguments, "--out", tmp_path / "tree") == ExitCode.USAGE
    errors = capsys.readouterr().err
    assert message in errors
    assert "field_1.geojson" in errors
    assert not (tmp_path / "tree").exists()


def test_classes_in_a_stated_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample, out = make_qupath(tmp_path / "source"), tmp_path / "tree"
    command = ("import", *sample.arguments, "--out", out)
    assert run(*command, "--classes", "Tumor,Stroma") == ExitCode.USAGE
    assert "does not list" in capsys.readouterr().err
    assert run(*command, "--classes", "Tumor,Stroma,Necrosis") == ExitCode.OK
    swapped = np.array([0, 3, 2, 1])
    for name, expected in sample.masks.items():
        np.testing.assert_array_equal(masks_of(out)[name], swapped[expected])
