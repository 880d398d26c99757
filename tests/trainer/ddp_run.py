"""One run of the toy recipe, started as a program: Fabric starts it again for every further
process. The argument is the configuration as JSON.
"""

from __future__ import annotations

import json
import sys

import torch
import toy_recipe

from trainer.config_layers import build_config
from trainer.engine.fit import fit
from trainer.errors import HistoprepError


def main() -> None:
    """Run; leave with the exit code of an error of ours."""
    torch.set_num_threads(1)
    toy_recipe.register()
    try:
        fit(build_config(toy_recipe.Config, json.loads(sys.argv[1])))
    except HistoprepError as error:
        print(error, file=sys.stderr)
        sys.exit(int(error.exit_code))


if __name__ == "__main__":
    main()
