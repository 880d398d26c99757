"""Small JSON files that steer later commands: written whole, with a digest of their content, read
back only if it still fits.

A digest finds damage and edits by hand; it is no protection against somebody who writes a new one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from histoprep.digests import digest_text
from histoprep.durable import write_json
from histoprep.errors import IntegrityError


def write_sealed_json(path: Path, content: dict[str, Any], *, kind: str, version: int) -> None:
    """Publish `content`, JSON values, durably in `path` with its kind, version and digest; raises
    OutputError.
    """
    write_json(
        path,
        {
            "kind": kind,
            "version": version,
            "content": content,
            "digest": _digest(kind, version, content),
        },
    )


def read_sealed_json(path: Path, *, kind: str, version: int, hint: str) -> dict[str, Any]:
    """Return the content of a file that `write_sealed_json` wrote.

    Raises FileNotFoundError, and IntegrityError, with `hint`, for damage, edits, another kind or
    version.
    """
    try:
        record = json.loads(path.read_text("utf-8", "surrogateescape"))
        found = (record["kind"], record["version"])
        content, seen = record["content"], record["digest"]
    except FileNotFoundError:
        raise
    except NotADirectoryError as error:
        # Whoever writes there says so.
        raise FileNotFoundError(error.errno, error.strerror, error.filename) from error
    except OSError as error:
        raise IntegrityError(
            f"cannot read this file: {error.strerror or error}", path=path, hint=hint
        ) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise IntegrityError(f"damaged {kind} file: {error!r}", path=path, hint=hint) from error
    if found != (kind, version):
        raise IntegrityError(
            f"not the {kind} file of this version",
            path=path,
            seen=f"{found[0]} {found[1]}",
            expected=f"{kind} {version}",
            hint=hint,
        )
    expected = _digest(kind, version, content)
    if seen != expected or not isinstance(content, dict):
        raise IntegrityError(
            f"the {kind} file was changed since it was written",
            path=path,
            seen=f"digest {seen}",
            expected=expected,
            hint=hint,
        )
    return content


def _digest(kind: str, version: int, content: Any) -> str:
    return digest_text(
        json.dumps(
            [kind, version, content], sort_keys=True, ensure_ascii=True, separators=(",", ":")
        )
    )
