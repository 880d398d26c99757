"""A corrected copy of a data set, as a tree beside it; the work of `histoprep fix`.

`operations/` has a file for each kind of change; `files.py` lists the data set, `plan.py` decides,
`fixer.py` changes one file, `tables.py` the names in tables, `check.py` compares the tree with the
data set, and `job.py` writes it.
"""

from histoprep.fixing.check import options_there
from histoprep.fixing.job import run_fix, try_fix
from histoprep.fixing.operations import OPERATIONS, choose_operations
from histoprep.fixing.plan import FixOptions, FixPlan, plan_fix
from histoprep.fixing.result import FixCounts, FixResult

__all__ = [
    "OPERATIONS", "FixCounts", "FixOptions", "FixPlan", "FixResult", "choose_operations",
    "options_there", "plan_fix", "run_fix", "try_fix",
]  # fmt: skip
