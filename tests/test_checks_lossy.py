"""HP403 and HP404: sources of masks that were saved with loss or interpolated, and everything that
must stay silent.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import lossy_masks as made
import numpy as np
import pytest
from audit_cases import DataSet, Found, by_code, image_bytes
from PIL import Image

import histoprep
from histoprep.auditing import AuditOptions
from histoprep.choices import Severity
from histoprep.findings import Finding
from histoprep.repairing.record import damage_warnings, unrepaired
from histoprep.scanning import ScanOptions
from histoprep.schemas.workspace import Workspace
from histoprep.tiles import TileOptions
from histoprep.tiles.lossy_sources import lossy_sources
from histoprep.tiles.table import TableOptions

TRIGGERS = ("HP403", "HP404")
NUM_MASKS = 31
LOSSY = ("HP403", "HP404")


def fill(
    data: DataSet, folder: str, draw: Callable[[int], np.ndarray], number: int = NUM_MASKS
) -> None:
    """Write tiles of 128 px, all with one image, and their masks."""
    image = data.root / "shared.jpg"
    if not image.exists():
        data.image("shared.jpg")
    for index in range(number):
        data.write(f"{folder}/{index:02}.jpg", image.read_bytes())
        data.mask(f"{folder}/{index:02}_mask.png", draw(index))


def lossy(found: list[Finding] | tuple[Finding, ...]) -> Found:
    return by_code(finding for finding in found if finding.code in LOSSY)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    data = DataSet(tmp_path_factory.mktemp("lossy") / "set")
    fill(data, "clean", made.regions)
    fill(data, "nuclei", made.nuclei)
    fill(data, "boxes", made.boxes)
    fill(data, "coarse", made.enlarged)
    fill(data, "jpeg90", lambda seed: made.jpeg(made.regions(seed), 90))
    fill(data, "jpeg60", lambda seed: made.jpeg(made.regions(seed), 60))
    fill(data, "mapped", lambda seed: made.many_to_one(made.jpeg(made.regions(seed), 85)))
    fill(data, "resized", lambda seed: made.bilinear(made.regions(seed)))
    fill(data, "few", lambda seed: made.jpeg(made.regions(seed), 90), number=5)
    fill(
        data,
        "mixed",
        lambda seed: made.jpeg(made.regions(seed), 80) if seed % 2 else made.regions(seed),
        number=2 * NUM_MASKS,
    )
    for index in range(3):
        data.image(f"files/{index}.jpg")
        data.write(f"files/{index}_mask.jpg", image_bytes(made.regions(index), "JPEG", quality=80))
        data.image(f"webp/{index}.jpg")
        rgb = np.repeat(made.regions(index)[..., None], 3, axis=2)
        data.write(f"webp/{index}_mask.webp", image_bytes(rgb, "WEBP", quality=80))
        data.image(f"lossless/{index}.jpg")
        data.write(f"lossless/{index}_mask.webp", image_bytes(rgb, "WEBP", lossless=True))
        data.image(f"colours/{index}.jpg")
        coloured = Image.fromarray(
            np.random.default_rng(1)
            .integers(0, 256, (256, 3))
            .astype(np.uint8)[made.regions(index)]
        )
        with_loss = Image.open(made.stream(image_bytes(coloured, "JPEG", quality=90)))
        data.write(f"colours/{index}_mask.png", image_bytes(with_loss, "PNG"))
        data.image(f"painted/{index}.jpg")
        data.write(f"painted/{index}_mask.png", image_bytes(coloured, "PNG"))
    data.image("broken/0.jpg")
    data.write("broken/0_mask.jpg", image_bytes(made.regions(0), "JPEG")[:900])
    return data


@pytest.fixture(scope="module")
def findings(data: DataSet) -> tuple[Finding, ...]:
    return histoprep.audit(data.root, workers=2).findings


def test_each_source_gets_its_verdict_and_clean_ones_none(findings: tuple[Finding, ...]) -> None:
    found = lossy(findings)
    assert set(found) == {
        "HP403 jpeg-history in jpeg90",
        "HP403 jpeg-history in jpeg60",
        "HP403 jpeg-history in mapped",
        "HP403 jpeg-history in few",
        "HP403 jpeg-history in mixed",
        "HP403 jpeg-container in files",
        "HP403 webp-container in webp",
        "HP404 interpolated in resized",
    }
    assert set(found["HP403 jpeg-history in jpeg90"].values()) == {"JPEG quality 90"}
    assert set(found["HP403 jpeg-history in mapped"].values()) == {"quality unknown"}
    assert set(found["HP403 jpeg-container in files"].values()) == {"JPEG quality 80"}
    assert list(found["HP403 jpeg-history in mixed"]) == [
        f"mixed/{seed:02}_mask.png" for seed in range(1, 2 * NUM_MASKS, 2)
    ]
    assert len(found["HP404 interpolated in resized"]) == NUM_MASKS


def test_colours_that_jpeg_changed_are_refused_with_that_cause(
    findings: tuple[Finding, ...],
) -> None:
    refused = {finding.subcode: finding for finding in findings if finding.code == "HP402"}
    assert set(refused["smeared-colours"].paths) == {
        f"colours/{index}_mask.png" for index in range(3)
    }
    assert "JPEG" in refused["smeared-colours"].cause


def test_findings_say_why_and_what_to_do(findings: tuple[Finding, ...]) -> None:
    found_by = {finding.where: finding for finding in findings if finding.code in LOSSY}
    assert found_by["jpeg90"].severity is Severity.ERROR
    assert "JPEG of quality 90" in found_by["jpeg90"].cause
    assert "fewer 8x8 blocks" in found_by["jpeg90"].cause
    assert "repair them: histoprep repair /" in found_by["jpeg90"].suggestion
    assert "No command can help" in found_by["jpeg60"].suggestion
    assert "below quality 75" in found_by["jpeg60"].suggestion
    assert "from before the label map" in found_by["mapped"].suggestion
    assert found_by["few"].severity is Severity.WARNING
    assert found_by["few"].cause.startswith(
        "Perhaps: the masks were once saved as JPEG of quality 90"
    )
    assert "Based on 5 masks" in found_by["few"].cause
    assert "gradual" in found_by["resized"].cause


def test_shares_are_of_masks_where_the_file_tells_and_else_of_masks_with_boundaries(
    findings: tuple[Finding, ...], tmp_path: Path
) -> None:
    units = {finding.where: finding.unit for finding in findings if finding.code in LOSSY}
    assert {units[where] for where in ("files", "webp")} == {"masks"}
    assert {units[where] for where in ("jpeg90", "resized", "mixed")} == {"masks with boundaries"}
    flat = DataSet(tmp_path / "flat")
    flat.image("a.jpg")
    flat.write("a_mask.jpg", image_bytes(np.full((96, 96), 3, np.uint8), "JPEG"))
    [found] = [finding for finding in flat.audit().findings if finding.code == "HP403"]
    assert (found.count, found.denominator, found.unit) == (1, 1, "masks")


def test_specks_and_hairlines_point_to_the_cause(findings: tuple[Finding, ...]) -> None:
    found_by = by_code(finding for finding in findings if finding.code in ("HP408", "HP409"))
    assert set(found_by) == {
        "HP408 see-hp403",
        "HP409 see-hp403",
        "HP408 see-hp404",
        "HP409 see-hp404",
        "HP408",
        "HP409",
    }
    # Borders of one pixel are hairlines that somebody drew.
    assert {path.split("/")[0] for path in (*found_by["HP408"], *found_by["HP409"])} <= {
        "nuclei",
        "boxes",
        "clean",
        "coarse",
    }
    assert {path.split("/")[0] for path in found_by["HP409 see-hp404"]} == {"resized"}
    see = next(finding for finding in findings if finding.subcode == "see-hp403")
    assert "HP403" in see.cause


def test_sources_are_groups_where_there_are_some(tmp_path: Path) -> None:
    data = DataSet(tmp_path / "set")
    for slide, draw in (
        ("s1", made.regions),
        ("s2", lambda seed: made.jpeg(made.regions(seed), 75)),
    ):
        for index in range(NUM_MASKS):
            data.image(f"{slide}_{index:02}.png", np.full((8, 8, 3), 200, np.uint8))
            data.mask(f"{slide}_{index:02}_mask.png", draw(index))
    assert set(lossy(histoprep.audit(data.root, workers=1, group_by=r"s\d").findings)) == {
        "HP403 jpeg-history in s2"
    }
    (found,) = lossy_sources(Workspace.of(data.root).tiles)
    assert (found.source, found.code, found.num_masks, found.verdict.quality) == (
        "s2",
        "HP403",
        NUM_MASKS,
        75,
    )


def test_sources_of_one_verdict_are_one_finding(tmp_path: Path) -> None:
    data = DataSet(tmp_path / "set")
    qualities = {"s1": 75, "s2": 75, "s3": 90}
    for number, (slide, quality) in enumerate(qualities.items()):
        for index in range(NUM_MASKS - number):
            data.image(f"{slide}_{index:02}.png", np.full((8, 8, 3), 200, np.uint8))
            data.mask(f"{slide}_{index:02}_mask.png", made.jpeg(made.regions(index), quality))
    report = histoprep.audit(data.root, workers=1, group_by=r"s\d")
    found = {finding.where: finding for finding in report.findings if finding.code == "HP403"}
    assert set(found) == {"s1, s2", "s3"}
    both = found["s1, s2"]
    assert both.count == both.denominator == 2 * NUM_MASKS - 1
    assert "(in s1: " in both.cause and "(in s3: " not in found["s3"].cause


def test_a_quick_audit_knows_containers_alone(data: DataSet) -> None:
    found = lossy(data.audit(tile_options=TileOptions(headers_only=True)).findings)
    assert set(found) == {"HP403 jpeg-container in files", "HP403 webp-container in webp"}


@pytest.mark.slow
def test_published_masks_that_were_smoothed_are_found_and_real_ones_are_clean(
    shared_data: Path, tmp_path: Path
) -> None:
    def audited(folder: str, **scan: str) -> Found:
        options = AuditOptions(table=TableOptions(ScanOptions(**scan)))
        return lossy(
            histoprep.audit(
                shared_data / folder,
                workspace=tmp_path / f"{folder}{scan}",
                workers=2,
                options=options,
            ).findings
        )

    found = audited("ebhi_seg", masks="masks_raw")
    assert {key.split(" in ")[0] for key in found} == {"HP404 interpolated"}
    # Tiles without a gradual boundary are left out.
    assert 700 <= sum(map(len, found.values())) <= 734
    assert audited("diffinfinite") == {}
    assert audited("ebhi_seg", masks="labels") == {}


def test_small_groups_prove_together_what_none_of_them_can(tmp_path: Path) -> None:
    data = DataSet(tmp_path / "set")
    for folder, damaged in (("jpeg", True), ("clean", False)):
        for index in range(NUM_MASKS):
            labels = made.regions(index)
            data.image(
                f"{folder}/p{index // 3:02}_{index:02}.png", np.full((8, 8, 3), 200, np.uint8)
            )
            data.mask(
                f"{folder}/p{index // 3:02}_{index:02}_mask.png",
                made.jpeg(labels, 85) if damaged else labels,
            )
    findings = histoprep.audit(data.root, workers=1, group_by=r"/(p\d+)").findings
    assert set(lossy(findings)) == {"HP403 jpeg-history in jpeg"}
    (found_by,) = [finding for finding in findings if finding.code == "HP403"]
    assert (found_by.severity, found_by.count, found_by.denominator) == (
        Severity.ERROR,
        NUM_MASKS,
        NUM_MASKS,
    )
    # The groups that hold them are named.
    assert "are of 11 groups or folders: p00, p01" in found_by.cause
    # `remap` goes by the same.
    assert [len(paths) for paths in unrepaired(Workspace.of(data.root), None).values()] == [
        NUM_MASKS
    ]
    assert damage_warnings(Workspace.of(data.root)) == [
        f"{NUM_MASKS} masks of jpeg (HP403 jpeg-history, JPEG quality 85) went through JPEG or"
        " interpolation and are not repaired: their false labels count as true ones; histoprep"
        " repair, then the same command"
    ]


def test_a_small_damaged_group_among_clean_ones_is_a_warning(tmp_path: Path) -> None:
    data = DataSet(tmp_path / "set")
    for index in range(60):
        group, labels = index // 6, made.regions(index)
        data.image(f"p{group}_{index:02}.png", np.full((8, 8, 3), 200, np.uint8))
        data.mask(f"p{group}_{index:02}_mask.png", made.jpeg(labels, 85) if group == 4 else labels)
    (found_by,) = [
        finding
        for finding in histoprep.audit(data.root, workers=1, group_by=r"(p\d)_").findings
        if finding.code == "HP403"
    ]
    assert (found_by.severity, found_by.count) == (Severity.WARNING, 6)
    assert {path[:2] for paths in lossy([found_by]).values() for path in paths} == {"p4"}
