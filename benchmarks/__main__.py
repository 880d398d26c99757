"""All gates in one run but those of `audit.py`.

    python -m benchmarks [--quick] [--only NAME ...] [--corpus DIR] [--write FILE]

Prints a table of ratios and leaves with 1 when a gate is missed. `--quick` takes small numbers, to
see that everything runs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import remap, shards, toolkit
from benchmarks.corpus import make_corpus
from benchmarks.measuring import Row, machine, markdown


def main() -> int:
    """Run the chosen gates and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--corpus", type=Path, help="where the corpus is or will be made; kept")
    parser.add_argument("--write", type=Path, help="write the table to this file")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = chosen.corpus or Path(scratch, "corpus")
        num_pairs = 400 if chosen.quick else 12_000
        make_corpus(folder, num_pairs)
        gates = _gates(folder, num_pairs, quick=chosen.quick)
        rows: list[Row] = []
        text = ""
        for name, measure in gates.items():
            if not chosen.only or name in chosen.only:
                print(f"measuring {name} ...", file=sys.stderr, flush=True)
                made = measure()
                rows += made if isinstance(made, list) else [made]
                text = f"{machine()}; {num_pairs:,} pairs\n\n{markdown(rows)}\n"
                # After every gate: a run that is stopped has measured something, too.
                if chosen.write:
                    chosen.write.write_text(text)
    print(text)
    return int(any(row.verdict == "MISSED" for row in rows))


def _gates(
    folder: Path, num_pairs: int, *, quick: bool
) -> dict[str, Callable[[], Row | list[Row]]]:
    some = 200 if quick else 2_000
    sizes = (200, 400) if quick else (1_000, 4_000, 16_000, 64_000)
    return {
        "images": lambda: toolkit.image_rows(folder, some),
        "remap": lambda: remap.rows(folder, some),
        "shards": lambda: shards.rows(folder, some),
        "latents": lambda: _latents(folder, some),
        "latency": lambda: toolkit.latency_row(folder, 64 if quick else 512),
        "listing": lambda: toolkit.listing_row(5_000 if quick else 246_750),
        "command": lambda: toolkit.command_rows(folder),
        "growth": lambda: toolkit.growth_row(
            lambda folder, size: make_corpus(folder, size, tile_px=128), sizes
        ),
    }


def _latents(folder: Path, num_samples: int) -> list[Row]:
    # Needs torch, which the other gates do without.
    from benchmarks import latents

    return latents.rows(folder, num_samples)


if __name__ == "__main__":
    sys.exit(main())
