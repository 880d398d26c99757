#!/bin/sh
# Where the time steps of diffusers' flow matching schedulers end when a shift is stated.
# Usage: sh findings/diffusers-flow-shift-twice.sh    (installs pinned packages into a temporary folder; exit code 0: still so, 1: it changed)
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check numpy==2.4.6 torch==2.13.0 diffusers==0.42.1
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'END'
import sys
from importlib.metadata import version

from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler

TOOL = f"diffusers {version('diffusers')}, torch {version('torch')}"
BEHAVIOUR = """with shift s stated, a noise level x becomes s x / (1 + (s - 1) x). The constructor shifts its least level, 1 of 1000, and set_timesteps takes that for the
  end of its even spacing and shifts it again: the last step of sampling starts from a level 3 (s) times as high as the least one of training. The other levels move with it"""
GUESS = "levels are spaced evenly from 1 to 1/1000 and each is shifted once"

SHIFT, STEPS, NUM_TRAIN = 3.0, 10, 1000


def shifted(level):
    return SHIFT * level / (1 + (SHIFT - 1) * level)


once = [shifted(1 - index / (STEPS - 1) * (1 - 1 / NUM_TRAIN)) for index in range(STEPS)]
seen = {}
for kind in (FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler):
    scheduler = kind(num_train_timesteps=NUM_TRAIN, shift=SHIFT)
    scheduler.set_timesteps(STEPS)
    levels = sorted({round(float(level), 5) for level in scheduler.sigmas if level > 0}, reverse=True)
    seen[kind.__name__] = {"levels": len(levels), "last": levels[-1], "last but one": levels[-2]}
for title, text in (("tool", TOOL), ("behaviour", BEHAVIOUR), ("guess that missed", f"{GUESS}: ..., {once[-2]:.5f}, {once[-1]:.5f}"), ("seen", str(seen))):
    print(f"{title}: {text}")
LEVELS = {"levels": STEPS, "last": round(shifted(shifted(1 / NUM_TRAIN)), 5), "last but one": 0.27805}
EXPECTED = {"FlowMatchEulerDiscreteScheduler": LEVELS, "FlowMatchHeunDiscreteScheduler": LEVELS}
if seen != EXPECTED:
    sys.exit(f"CHANGED: expected {EXPECTED}")
print("unchanged")
END
