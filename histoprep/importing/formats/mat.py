"""MATLAB files with maps of nuclei: Lizard (inst_map, class, id) and CoNSeP (inst_map, type_map).

A file belongs to the image of its name. Objects of such maps cannot overlap. `id` of Lizard says
which object each entry of `class` is about: objects are not numbered without gaps.

Sources: the read_me of Lizard (Graham et al. 2021, arXiv 2108.11195) and of CoNSeP (Graham et al.
2019, doi 10.1016/j.media.2019.101563).
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from histoprep.digests import digest
from histoprep.execution import Engine
from histoprep.execution.workers import wait_for
from histoprep.importing.canvas import label_instances
from histoprep.importing.extras import missing
from histoprep.importing.formats import Search, as_image
from histoprep.importing.images import safe_names
from histoprep.importing.legend import number_labels
from histoprep.importing.model import (
    MAX_LABEL,
    AnnotationCounts,
    Collection,
    Drawing,
    ImageSize,
    Item,
)
from histoprep.importing.reading import AnnotationError, read_bytes

LIZARD = ("Neutrophil", "Epithelial", "Lymphocyte", "Plasma", "Eosinophil", "Connective tissue")
CONSEP = (
    *("other", "inflammatory", "healthy epithelial", "dysplastic or malignant epithelial"),
    *("fibroblast", "muscle", "endothelial"),
)
_INSTANCES, _TYPES, _CLASS, _ID = "inst_map", "type_map", "class", "id"
_HDF5 = b"\x89HDF\r\n\x1a\n"
_HDF5_OFFSETS = (0, 512, 1024, 2048)


def read(
    source: Path, search: Search, *, classes: Sequence[str] = (), label_key: str | None = None
) -> Collection:
    """Return the images of a .mat file, or of all below a folder.

    Args:
        source: The file or folder.
        search: Where images are looked for.
        classes: Names of the labels, from 1 on; by default those of Lizard or CoNSeP, where the
            variables are theirs.
        label_key: Variable with the label of each pixel, where it has another name.

    Raises:
        UsageError: It is no such file; AnnotationError names the file and the variable.
    """
    files = search.files(source, ".mat")
    summaries = _summaries(files, label_key)
    values = sorted({value for each in summaries for value in each.labels})
    names = classes or _known_names(summaries, values)
    labels, numbers = number_labels(
        (value, names[value - 1] if value <= len(names) else f"label {value}", None)
        for value in (range(1, len(names) + 1) if names else values)
    )
    unnamed = [value for value in values if value not in numbers]
    if unnamed:
        raise AnnotationError(
            "labels that --classes does not name",
            path=next(each.path for each in summaries if set(unnamed) & each.labels),
            seen=", ".join(map(str, unnamed[:10])),
            expected=f"1 to {len(names)}",
        )
    index = search.index(source)
    found = [
        index.find_start(each.path.stem, beside=each.path.absolute().parent) for each in summaries
    ]
    paths = safe_names(
        str(image.relative_to(index.folder)) if isinstance(image, Path) else each.path.stem
        for image, each in zip(found, summaries, strict=True)
    )
    items = tuple(
        Item(name, each.path.name, as_image(image), partial(_draw, each, label_key), each.size)
        for name, each, image in zip(paths, summaries, found, strict=True)
    )
    return Collection(labels, items, tuple(files))


def _summaries(files: Sequence[Path], label_key: str | None) -> list[_Summary]:
    """Return what is known of each file; they are read in a process of their own, since SciPy ends
    the process that reads a damaged file.
    """
    summaries = []
    with Engine(1).executor(1) as pool:
        for path in files:
            if _is_hdf5(read_bytes(path)):
                _h5py(path)
            try:
                future = pool.submit(_summary, path, label_key)
                wait_for(future, pool)
                summaries.append(future.result())
            except BrokenProcessPool as error:
                raise AnnotationError(
                    "this .mat file is damaged: reading it ends the process that does",
                    path=path,
                    hint="restore it from a copy",
                ) from error
    return summaries


def _summary(path: Path, label_key: str | None) -> _Summary:
    # The maps of a whole data set do not fit into memory.
    return _Maps.of(path, label_key).summary()


@dataclass(frozen=True, slots=True)
class _Summary:
    """What is known of a file without its maps."""

    path: Path
    digest: str
    size: ImageSize
    labels: frozenset[int]
    keys: frozenset[str]


class _Maps:
    """The variables of one file that say what its pixels are."""

    def __init__(
        self, path: Path, content: str, variables: Mapping[str, np.ndarray], label_key: str | None
    ):
        self.path, self.digest = path, content
        self.variables = variables
        key = label_key or _TYPES
        self.types = self._map(key) if key in variables else None
        self.instances = self._map(_INSTANCES) if _INSTANCES in variables else None
        if self.types is None and (self.instances is None or label_key):
            wanted = label_key or f"{_INSTANCES} and {_CLASS}, or {_TYPES}"
            raise AnnotationError(
                "no map of labels in this file",
                path=path,
                seen=", ".join(sorted(variables)) or "no variables",
                expected=wanted,
                hint="name the variable with --label-key",
            )

    @classmethod
    def of(cls, path: Path, label_key: str | None) -> _Maps:
        data = read_bytes(path)
        return cls(path, digest(data), load(path, data), label_key)

    def summary(self) -> _Summary:
        array = self.instances if self.types is None else self.types
        assert array is not None
        size = ImageSize(*array.shape)
        return _Summary(
            self.path, self.digest, size, frozenset(self.labels()), frozenset(self.variables)
        )

    def _map(self, key: str) -> np.ndarray:
        array = self.variables[key]
        whole = array.ndim == 2 and array.dtype.kind in "uifb" and (array == np.floor(array)).all()
        if not whole or array.min(initial=0) < 0:
            raise AnnotationError(
                f"{key} is no map of labels",
                path=self.path,
                seen=f"{array.dtype} {list(array.shape)}",
                expected="whole numbers from 0 on, [height, width]",
            )
        return array.astype(np.int64)

    def objects(self) -> dict[int, int]:
        """Return the label of each object of `inst_map`, all 1 where the file has no classes."""
        assert self.instances is not None
        present = np.unique(self.instances[self.instances > 0]).tolist()
        if _CLASS not in self.variables:
            return dict.fromkeys(present, 1)
        classes = self._list(_CLASS)
        ids = self._list(_ID) if _ID in self.variables else list(range(1, len(classes) + 1))
        if len(ids) != len(classes):
            raise AnnotationError(
                "id and class differ in length",
                path=self.path,
                seen=f"{len(ids):,} ids, {len(classes):,} classes",
            )
        known = dict(zip(ids, classes, strict=True))
        lost = [number for number in present if number not in known]
        if lost:
            raise AnnotationError(
                "objects of inst_map without a class",
                path=self.path,
                seen=", ".join(map(str, lost[:10])),
                expected="an entry of id for each",
            )
        return known

    def _list(self, key: str) -> list[int]:
        return [int(value) for value in np.asarray(self.variables[key]).ravel()]

    def labels(self) -> set[int]:
        """Return the labels that the file has, without 0."""
        if self.types is not None:
            return {*np.unique(self.types).tolist()} - {0}
        return {*self.objects().values()} - {0}

    def drawing(self) -> Drawing:
        if self.types is None:
            assert self.instances is not None
            return label_instances(self.instances, self.objects(), f"object of {self.path.name}")
        labels = self.types.astype(np.uint16)
        if self.instances is None:
            number = len(self.labels())
            return Drawing(labels, AnnotationCounts(number, number))
        number = len(np.unique(self.instances[self.instances > 0]))
        kept = self.instances if self.instances.max(initial=0) <= MAX_LABEL else None
        return Drawing(labels, AnnotationCounts(number, number), None if kept is None else kept)


def _known_names(summaries: Sequence[_Summary], values: Sequence[int]) -> Sequence[str]:
    """Return the class names of the data set whose variables the files have; none otherwise."""
    keys = frozenset.intersection(*(each.keys for each in summaries))
    if {_TYPES, _INSTANCES, "inst_type"} <= keys:
        names: Sequence[str] = CONSEP
    elif {_INSTANCES, _CLASS, _ID} <= keys and _TYPES not in keys:
        names = LIZARD
    else:
        names = ()
    return names if all(value <= len(names) for value in values) else ()


def _draw(summary: _Summary, label_key: str | None, size: ImageSize) -> Drawing:
    data = read_bytes(summary.path)
    if digest(data) != summary.digest:
        raise AnnotationError("this file was changed meanwhile", path=summary.path)
    return _Maps.of(summary.path, label_key).drawing()


def load(path: Path, data: bytes) -> dict[str, np.ndarray]:
    """Return the arrays in a .mat file by name.

    Args:
        path: The file.
        data: Its bytes.

    Raises:
        AnnotationError: It is no such file, or cut off.
        UsageError: It is one of version 7.3 (HDF5), and h5py is not installed.
    """
    from scipy.io import loadmat

    if _is_hdf5(data):
        return _load_hdf5(path)
    try:
        content = loadmat(io.BytesIO(data))  # type: ignore[arg-type]
    except Exception as error:  # (SciPy checks little, and fails wherever the damage leads)
        raise AnnotationError(
            f"this is no .mat file, or cut off: {error}", path=path, seen=f"{len(data):,} bytes"
        ) from error
    return {
        name: value
        for name, value in content.items()
        if isinstance(value, np.ndarray) and value.dtype.kind in "uifb"
    }


def _is_hdf5(data: bytes) -> bool:
    return any(data[offset : offset + len(_HDF5)] == _HDF5 for offset in _HDF5_OFFSETS)


def _h5py(path: Path) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise missing(f"MATLAB 7.3 files such as {path}", "h5py") from error
    return h5py


def _load_hdf5(path: Path) -> dict[str, np.ndarray]:
    h5py = _h5py(path)
    try:
        with h5py.File(path) as file:
            found: dict[str, Any] = {
                name: entry[()] for name, entry in file.items() if isinstance(entry, h5py.Dataset)
            }
    except OSError as error:
        raise AnnotationError(f"damaged MATLAB 7.3 file: {error}", path=path) from error
    # MATLAB goes down the columns, HDF5 along the rows.
    return {name: np.asarray(array).T for name, array in found.items()}
