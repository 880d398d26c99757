"""A process that has imported everything and forks a command at a time: thousands of runs without
thousands of start-ups.

Commands are real processes with the real command line; they share one fork server for their
workers. One JSON line on stdin asks for a run; one on stdout gives the ids of it and of the fork
server, and, when it has ended, one its wait status. What a run had to import is imported here too
before the next one, by name alone: nothing runs and no thread starts here.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import sys
import threading
import time
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from histoprep.execution import workers as execution_workers

IMPORTED = (
    "histoprep.auditing",
    "histoprep.auditing.thumbnails",
    "histoprep.manifest.build",
    "histoprep.remapping",
    "matplotlib.figure",
    "pandas",
)


def _command(request: dict[str, Any]) -> None:
    """Become the process of one run: wait at the gate, then call `module:function` with the
    arguments.
    """
    os.setsid()
    for descriptor, path in ((0, os.devnull), (1, request["stdout"]), (2, request["stderr"])):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666), descriptor)
    # The fork server is the zygote's child, so the check whether it lives would fail here.
    forkserver._forkserver.ensure_running = lambda: None  # type: ignore[method-assign]
    forkserver.ensure_running = lambda: None
    forkserver._forkserver._forkserver_pid = None  # type: ignore[attr-defined]
    os.chdir(request["cwd"])
    # Held open for both, opening does not wait; reading does, and is no call that is traced.
    os.read(os.open(request["gate"], os.O_RDWR), 1)
    before = set(sys.modules)
    atexit.register(
        lambda: Path(request["learned"]).write_text("\n".join(set(sys.modules) - before), "utf-8")
    )
    module, _, name = request["call"].partition(":")
    code: object = 0
    try:
        code = getattr(importlib.import_module(module), name)(request["args"])
    except SystemExit as stopped:
        code = stopped.code
    # What the end of a process does, but for taking a few thousand modules apart, which takes
    # longer than the run.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def _check_fork_server() -> None:
    """Have it serve once: a run that is killed while it asks for a worker ends it, which anywhere
    else would be its own.
    """
    for _ in range(20):
        with contextlib.suppress(OSError, EOFError):
            process = execution_workers._Context().Process(target=int)
            process.start()
            process.join()
            return
        time.sleep(0.05)


def _learn(names: Path) -> None:
    for name in names.read_text("utf-8").split() if names.exists() else ():
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    names.unlink(missing_ok=True)


def main() -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    _check_fork_server()
    print("ready", flush=True)
    for line in sys.stdin:
        _check_fork_server()
        gc.freeze()
        pid = os.fork()
        if pid == 0:
            _command(json.loads(line))
        print(json.dumps([pid, forkserver._forkserver._forkserver_pid]), flush=True)  # type: ignore[attr-defined]
        print(json.dumps(os.waitpid(pid, 0)[1]), flush=True)
        _learn(Path(json.loads(line)["learned"]))


if __name__ == "__main__":
    main()
