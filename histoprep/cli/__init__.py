"""The command line: parse, call, print, exit code. `program` is the console script."""

from __future__ import annotations

import gc
import os

from histoprep.command_line import CommandLine, leave
from histoprep.execution.signals import stop_signals
from histoprep.execution.workers import own_process

# Command -> (module, attribute, short help); modules are imported when their command is called.
COMMANDS = {
    "audit": ("audit", "audit", "Find what is wrong with a data set: causes, fixes, a report."),
    "repair": ("repair", "repair", "Repair masks that went through JPEG or interpolation."),
    "fix": ("fix", "fix", "Make a corrected copy of a data set, links where nothing changes."),
    "remap": ("remap", "remap", "Apply a label map to all masks, into a new tree."),
    "stats": ("stats", "stats", "Count classes: pixel shares, presence, weights, plot."),
    "manifest": (
        "manifest",
        "app",
        "Split without leaks and write the manifest; check, diff, show.",
    ),
    "shard": ("shard", "app", "Pack tiles into tar shards with an index; verify, info, preview."),
    "browse": (
        "browse",
        "browse",
        "Look at a data set in the web browser; tag and drop tiles.",
    ),
    "card": (
        "card",
        "card",
        "Describe a data set for others: Croissant and a Hugging Face dataset card.",
    ),
    "verify": (
        "verify",
        "verify",
        "Read what histoprep wrote again and compare it with its checksums.",
    ),
    "map": ("map", "app", "Check, compare, join and show label maps."),
    "import": (
        "import_",
        "app",
        "Make images and masks from annotation files, stacks or several masks of an image.",
    ),
    "export": (
        "export",
        "app",
        "Write tiles for other programs: COCO, YOLO, nnU-Net, FiftyOne.",
    ),
    "rules": ("rules", "rules", "List every rule of the audit."),
    "explain": ("rules", "explain", "Explain what a finding means, why it happens and what to do."),
    "collect": ("collect", "collect", "Merge the parts of an array job (--part i/n)."),
    "demo": (
        "demo",
        "demo",
        "Run the full pipeline on a small synthetic data set, from audit to generated tiles.",
    ),
    "doctor": ("doctor", "doctor", "Check that this machine has what HistoPrep needs."),
}

_HELP = """From a folder of histology tiles and masks to a data set that you can trust.

Examples:
    histoprep audit tiles --map my_map.yml
    histoprep audit --help
    histoprep demo
"""
_LINE = CommandLine("histoprep", _HELP, __name__, COMMANDS, stop_signals)
run = _LINE.run


def main(arguments: list[str] | None = None, *, called: str | None = None) -> None:
    """Run the command line and leave with its exit code; `called` is how the program was started,
    if not by its name.
    """
    # Arrow's own allocator keeps what it freed: 278 MB instead of 200 for an audit of 12,000 tiles.
    # Workers inherit this.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    own_process()
    _LINE.main(arguments, called=called)


def program(*, called: str | None = None) -> None:
    """Be a process that runs the command line and ends."""
    # Most of what is made is kept to the end, so that looking for what is not finds little.
    gc.set_threshold(50_000, 20, 20)
    try:
        main(called=called)
    except SystemExit as stopped:
        leave(int(stopped.code or 0))
