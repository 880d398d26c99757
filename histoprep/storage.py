"""Where tiles are read from: a local folder, an object store, or whatever else fsspec knows; any
piece of a file is one range read.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from histoprep.errors import UsageError
from histoprep.extras import install_command
from histoprep.names import to_name

# Schemes that obstore reads; it takes keys and endpoints from the usual variables, such as
# AWS_ENDPOINT_URL.
_OBSTORE_SCHEMES = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "http", "https")
_EXTRA = install_command("cloud")
_ERRORS = {
    "NotFoundError": errno.ENOENT,
    "FileNotFoundError": errno.ENOENT,
    "PermissionDeniedError": errno.EACCES,
    "UnauthenticatedError": errno.EACCES,
    "InvalidPathError": errno.EINVAL,
}
_QUERY = re.compile(r"\?[^\s\"')]*=[^\s\"')]*")
_ATTEMPTS, _PAUSE_S, _RETRIES = 4, 0.2, 6
_LISTED_AT_ONCE = 1000
# Shards are few and read all the time; more than these are closed and opened again.
_MAX_OPEN = 256

T = TypeVar("T")


class Storage(Protocol):
    """A folder that files are read from, by name; picklable, and opened anew in every process."""

    def read(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """Return `length` bytes from `start`, or all from there; fewer where the file ends. Raises
        OSError with the system's reason.
        """

    def where(self, name: str) -> str:
        """Return the full path or address of a file, for messages."""


def is_address(text: str) -> bool:
    """Return whether this is an address such as s3://bucket/folder and not a path."""
    scheme, separator, _ = text.partition("://")
    return bool(separator) and scheme.replace("+", "").isalnum() and len(scheme) > 1


def is_object_address(text: str) -> bool:
    """Return whether this is the address of an object store or a web server."""
    return is_address(text) and text.partition("://")[0].lower() in _OBSTORE_SCHEMES


class ListedObject(NamedTuple):
    """An object as a listing has it; `name` is below the folder that was listed."""

    name: str
    num_bytes: int
    mtime_ns: int


def beside(tiles: str, name: str) -> Path:
    """Return the path of `name` in the folder of shards, or of a manifest or index; raises
    UsageError for an address.
    """
    if is_address(tiles):
        raise UsageError(
            f"{name} cannot be written beside an address",
            path=tiles,
            hint="say where it goes with --out",
        )
    path = Path(tiles)
    return (path if path.is_dir() else path.parent) / name


def open_storage(folder: str | Path) -> Storage:
    """Return the storage at a path or address; raises UsageError when the library for its scheme is
    missing.
    """
    text = str(folder)
    if not is_address(text) or text.startswith("file://"):
        return LocalFolder(text.removeprefix("file://"))
    if is_object_address(text):
        return ObjectStore(text.rstrip("/"))
    return OtherStore(text.rstrip("/"))


class _Descriptor:
    """An open file, closed when nobody reads from it any more."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)


@dataclass
class LocalFolder:
    """A folder of the file system. Small files are read whole; those read in pieces stay open."""

    folder: str
    _open: OrderedDict[str, _Descriptor] = field(
        default_factory=OrderedDict, repr=False, compare=False
    )

    def read(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """Return a piece of a file, or all of it; see `Storage.read`."""
        if length is None:
            with open(self.where(name), "rb", buffering=0) as stream:  # noqa: PTH123 (twice as fast as Path.open)
                stream.seek(start)
                return stream.readall()
        descriptor = self._open.get(name)
        if descriptor is None:
            descriptor = self._keep_open(name)
        # pread, not a map: a file that was cut short gives an error and not a signal.
        data = os.pread(descriptor.number, length, start)
        while 0 < len(data) < length:
            more = os.pread(descriptor.number, length - len(data), start + len(data))
            if not more:
                break
            data += more
        return data

    def where(self, name: str) -> str:
        """Return the path of a file."""
        return os.path.join(self.folder, to_name(name))

    def _keep_open(self, name: str) -> _Descriptor:
        if len(self._open) >= _MAX_OPEN:
            self._open.popitem(last=False)
        opened = self._open[name] = _Descriptor(
            os.open(self.where(name), os.O_RDONLY | os.O_CLOEXEC)
        )
        return opened

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without open files."""
        return {"folder": self.folder, "_open": OrderedDict()}


@dataclass
class ObjectStore:
    """A folder of S3, Google Cloud Storage, Azure or a web server, through obstore."""

    address: str
    _store: Any = field(default=None, repr=False, compare=False)
    _process: int = field(default=0, repr=False, compare=False)

    def read(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """Return a piece of an object, or all of it; see `Storage.read`."""
        if length is None:
            return self.fetch(name)[0][start:]
        return self._tried(
            name, lambda store: bytes(store.get_range(name, start=start, length=length))
        )

    def fetch(self, name: str) -> tuple[bytes, ListedObject]:
        """Return all bytes of an object, and what the store says of it at the same moment; raises
        OSError with the reason, as for a file where there is one.
        """

        def get(store: Any) -> tuple[bytes, ListedObject]:
            found = store.get(name)
            data, seen = bytes(found.bytes()), _listed_of(found.meta)
            if len(data) != seen.num_bytes:
                raise OSError(errno.EIO, f"{len(data):,} of {seen.num_bytes:,} bytes came", name)
            return data, seen

        return self._tried(name, get)

    def list(self) -> Iterator[ListedObject]:
        """Yield all objects of the folder, in no order; raises OSError."""
        stream = self._tried("", lambda store: store.list(chunk_size=_LISTED_AT_ONCE))
        while batch := self._tried("", lambda _: next(stream, None)):
            for meta in batch:
                yield _listed_of(meta)

    def _tried(self, name: str, work: Callable[[Any], T]) -> T:
        """Return what work on the store gives; what may pass, such as a body that was cut off, is
        tried again. obstore itself tries again what the store refuses for the moment.
        """
        store = self._opened()
        for left in reversed(range(_ATTEMPTS)):
            try:
                return work(store)
            except Exception as error:
                known = _as_os_error(error, self.where(name) if name else self.address)
                if not left or known.errno != errno.EIO:
                    raise known from error
                time.sleep(_PAUSE_S)
        raise AssertionError("every attempt returns or raises")

    def where(self, name: str) -> str:
        """Return the address of an object."""
        return f"{self.address}/{name}"

    def _opened(self) -> Any:
        # Its threads do not survive a fork.
        if self._store is None or self._process != os.getpid():
            try:
                from obstore.store import from_url
            except ImportError as error:
                raise UsageError(
                    "reading from an object store needs obstore", path=self.address, hint=_EXTRA
                ) from error
            plain = os.environ.get("AWS_ENDPOINT_URL", self.address).startswith("http://")
            patience: Any = {
                "backoff": {"max_backoff": timedelta(seconds=2)},
                "max_retries": _RETRIES,
                "retry_timeout": timedelta(seconds=60),
            }
            options: Any = {"allow_http": plain}
            self._store = from_url(self.address, client_options=options, retry_config=patience)
            self._process = os.getpid()
        return self._store

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the connection."""
        return {"address": self.address, "_store": None, "_process": 0}


def _listed_of(meta: Any) -> ListedObject:
    seconds = meta["last_modified"].replace(microsecond=0).timestamp()
    # The listing has fractions that the answer for one object lacks.
    return ListedObject(meta["path"], meta["size"], int(seconds) * 1_000_000_000)


def _as_os_error(error: Exception, where: str) -> OSError:
    """Return an error of obstore, which has its own for all that can go wrong, as one of the
    system; what is signed in addresses is left out.
    """
    if isinstance(error, OSError):
        return error
    kind = type(error).__name__
    number = _ERRORS.get(kind, errno.EIO)
    words = _QUERY.sub("?...", str(error).partition("\n")[0])
    return OSError(number, f"{kind}: {words}", where)


@dataclass
class OtherStore:
    """A folder of any file system of fsspec: hdfs, hf, ftp, memory and so on."""

    address: str
    _system: Any = field(default=None, repr=False, compare=False)
    _folder: str = field(default="", repr=False, compare=False)

    def read(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """Return a piece of a file, or all of it; see `Storage.read`."""
        if self._system is None:
            try:
                from fsspec.core import url_to_fs  # type: ignore[import-untyped]
            except ImportError as error:
                raise UsageError(
                    "reading from this address needs fsspec", path=self.address, hint=_EXTRA
                ) from error
            try:
                self._system, self._folder = url_to_fs(self.address)
            except (ImportError, ValueError) as error:
                raise UsageError(
                    f"fsspec cannot read this address: {error}", path=self.address
                ) from error
        end = None if length is None else start + length
        return bytes(
            self._system.cat_file(f"{self._folder.rstrip('/')}/{name}", start=start, end=end)
        )

    def where(self, name: str) -> str:
        """Return the address of a file."""
        return f"{self.address}/{name}"

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the connection."""
        return {"address": self.address, "_system": None, "_folder": ""}
