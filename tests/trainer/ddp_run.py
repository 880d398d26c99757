"""One run of the toy recipe, started as a program: Fabric starts it again for every further
process. The argument is the configuration as JSON.

It ends as a command does. A process that hangs writes where, and ends.
"""

from __future__ import annotations

import faulthandler
import json
import sys

import torch
import toy_recipe

from histoprep.command_line import leave
from trainer.config_layers import build_config
from trainer.engine.fit import fit
from trainer.errors import HistoprepError, Interrupted
from trainer.reporter import Reporter
from trainer.signals import stop_signals

_LIMIT_S = 400


def main() -> None:
    """Run; leave with the exit code of an error of ours."""
    faulthandler.dump_traceback_later(_LIMIT_S, exit=True)
    torch.set_num_threads(1)
    toy_recipe.register()
    try:
        with stop_signals():
            config = build_config(toy_recipe.Config, json.loads(sys.argv[1]))
            fit(config, reporter=Reporter(_say, _say))
    except (HistoprepError, Interrupted) as error:
        print(error, file=sys.stderr)
        leave(int(error.exit_code))
    leave(0)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
