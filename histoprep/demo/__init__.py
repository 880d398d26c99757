"""The whole way in one command: a data set, what is wrong with it, a model trained on it, and one
page that shows each stage.

`dataset` makes tiles with planted defects, `stages` is the list of commands, `ledger` knows which
of them are done, `page` draws what came out.
"""

from histoprep.demo.dataset import (
    GROUP_PATTERN,
    MARKER,
    UNMAPPED_VALUE,
    DemoPlan,
    Planted,
    make_clean_demo,
    make_demo,
)

__all__ = [
    "GROUP_PATTERN",
    "MARKER",
    "UNMAPPED_VALUE",
    "DemoPlan",
    "Planted",
    "make_clean_demo",
    "make_demo",
]
