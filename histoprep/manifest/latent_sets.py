"""What a latent set says it was made from, held against a manifest: HP907.

The trainer writes latent sets (`trainer encode`) and reads the latents; here is only the table of
its tiles, `entries.parquet`, which tells whether the latents still belong to the tiles of a
manifest. One row a tile.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from histoprep import rule_ids
from histoprep.errors import IntegrityError
from histoprep.findings import Problem, problem
from histoprep.schemas.latents import ENTRIES, SUMMARY, mismatches, read_entries
from histoprep.schemas.manifest import Manifest


def latent_sets(folder: Path) -> list[Path]:
    """Return the finished latent sets of a workspace: those made beside the manifest, and those
    that training made for itself, in `latents/`.
    """
    return sorted(
        found.parent
        for pattern in (f"*/{SUMMARY}", f"latents/*/{SUMMARY}")
        for found in folder.glob(pattern)
    )


def check_latent_sets(manifest: Manifest, folder: Path) -> Iterator[Problem]:
    """Yield HP907 for each finished latent set in a folder that does not belong to the manifest."""
    for place in latent_sets(folder):
        try:
            problems = mismatches(*read_entries(place), manifest)
        except (IntegrityError, FileNotFoundError) as error:
            problems = [(ENTRIES, str(error).splitlines()[0])]
        if problems:
            yield problem(
                rule_ids.LATENT_MISMATCH,
                problems,
                denominator=max(len(manifest), len(problems)),
                unit="tiles",
                where=str(place.relative_to(folder)),
            )
