"""The trainer's command line."""

from __future__ import annotations

import argparse
import sys

from trainer import __version__


def main() -> None:
    """Say which version is installed; training commands come with the next versions."""
    description = f"trainer {__version__}: this version has no training commands yet; the toolkit is `histoprep`."
    parser = argparse.ArgumentParser(prog="trainer", description=description)
    parser.add_argument("--version", action="version", version=f"trainer {__version__}")
    parser.parse_args()
    parser.print_help(sys.stderr)
    sys.exit(2)
