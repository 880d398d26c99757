"""The commands that advice ends in.

Advice ends in a command that does something about the finding, or says that no command can. What is
known only of the data set stands in it as ROOT, MAP (the label map) and MANIFEST; `placed` fills
that in, so that a command works when it is pasted.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

LEFT_OUT = "manifests leave these tiles out: histoprep manifest ROOT"
RESTORE = f"No command can restore these files: take them from the source; {LEFT_OUT}"
MAP_AS_IT_IS = "To write a label map from the values as they are: histoprep map init ROOT"
REPAIRED_SPECKS = (
    "A copy with the repaired masks, in which specks have the label around them: histoprep fix ROOT"
    " --out ROOT-specks --only repaired,specks"
)
# A word of its own: folders may be called so, too.
_PLACE = re.compile(r"(?<!\S)(ROOT|MAP|MANIFEST)((?:-[a-z]+(?:\.json)?)*)(?=$|[\s;,:)])")


def exclude(code: str) -> str:
    """Return the command that leaves out the tiles that findings of a rule name."""
    return f"histoprep manifest ROOT --exclude {code}"


def fix(choice: str) -> str:
    """Return the command that makes a corrected copy; `choice` says what is done, such as `--only
    plain`. Copies of several findings get folders of their own, so that each command works.
    """
    name = choice.removeprefix("--only ").replace("=", "-")
    return f"histoprep fix ROOT --out ROOT-{name} {choice}"


def placed(
    text: str, root: Path | str, label_map: str = "", manifest: Path | str | None = None
) -> str:
    """Return advice with the paths of a data set.

    Args:
        text: The advice.
        root: The data set.
        label_map: File of the label map; "" where there is none, and MAP stays.
        manifest: The manifest; None where there is none, and MANIFEST stays.
    """
    known = {"ROOT": str(root), "MAP": label_map, "MANIFEST": str(manifest or "")}

    def path(match: re.Match[str]) -> str:
        name = known[match[1]]
        return shlex.quote(name + match[2]) if name else match[0]

    return _PLACE.sub(path, text)
