"""Compiles `histoprep/native/*.c` when a wheel is built, or the project is installed in place.

    python hatch_build.py

does so by hand. Without a C compiler, or if it fails, the wheel has no library: everything is
counted by numpy and OpenCV then, with the same results and more slowly.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent / "histoprep" / "native"
_LIBRARY = _FOLDER / "_native.library"
_FLAGS = ("-O3", "-std=c11", "-shared", "-fPIC", "-fvisibility=default")


def compile_library() -> Path | None:
    """Return the library, compiled for this machine; None where that is not possible."""
    if sys.byteorder != "little" or os.name != "posix":
        return None
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    if shutil.which(compiler[0]) is None:
        compiler = ["cc"]
    sources = sorted(map(str, _FOLDER.glob("*.c")))
    # Complete or not there at all: it may be in use.
    temporary = _LIBRARY.with_suffix(f".{os.getpid()}.tmp")
    try:
        subprocess.run(
            [*compiler, *_FLAGS, "-o", str(temporary), *sources, "-lm"],
            check=True,
            capture_output=True,
        )
        temporary.replace(_LIBRARY)
    except (OSError, subprocess.CalledProcessError) as error:
        output = getattr(error, "stderr", b"") or b""
        sys.stderr.write(f"histoprep: nothing is compiled ({error}) {output.decode()}\n")
        temporary.unlink(missing_ok=True)
        return None
    return _LIBRARY


try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:
    if __name__ != "__main__":
        raise
else:

    class NativeHook(BuildHookInterface[Any]):
        """Adds the library to a wheel, which is one for this platform and any Python then."""

        def initialize(self, version: str, build_data: dict[str, Any]) -> None:
            """Compile."""
            if self.target_name != "wheel" or (library := compile_library()) is None:
                return
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{_platform()}"
            if version != "editable":
                build_data["force_include"][str(library)] = f"histoprep/native/{library.name}"


def _platform() -> str:
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")


if __name__ == "__main__":
    built = compile_library()
    sys.stdout.write(f"{built or 'nothing was compiled'}\n")
    sys.exit(built is None)
