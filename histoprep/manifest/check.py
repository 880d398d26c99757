"""Is a manifest still true: columns, files, splits, pools and certificate, each derived again from
the rows.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from histoprep import rule_ids
from histoprep.digests import digest, file_digest
from histoprep.errors import IntegrityError
from histoprep.findings import Problem, problem
from histoprep.manifest.rows import Strata, is_conditional
from histoprep.names import to_name
from histoprep.remote import file_bytes, object_of
from histoprep.schemas.manifest import (
    COLUMNS,
    FOLD,
    Manifest,
    class_matrix,
    null_keys,
    open_manifest,
)
from histoprep.schemas.repaired import RepairedMasks, open_repaired
from histoprep.split.certificate import certify, certify_folds
from histoprep.split.units import (
    CONDITIONAL,
    NO_SPLIT,
    POOLS,
    SPLITS,
    SplitRows,
    name_keys,
    repeated,
)

_THREADS = 16
# A task for each file takes longer than looking at it.
_FILES_A_TASK = 256
# The least that these columns may hold, where they hold something.
_NUMBERS = {
    "width_px": 1,
    "height_px": 1,
    "image_bytes": 1,
    "mask_bytes": 1,
    "image_offset": 0,
    "image_length": 1,
    "mask_offset": 0,
    "mask_length": 1,
}
_KEY_COLUMNS = (
    "tile_id",
    "group",
    "split",
    "pool",
    "class_pixels",
    "classes",
    "label",
    "image_digest",
)
_FILE_COLUMNS = (
    "image_path",
    "image_bytes",
    "image_digest",
    "mask_path",
    "mask_bytes",
    "mask_digest",
)
_POINTS_TOLERANCE = 1e-6
_REMAKE = "make it again: histoprep manifest --map MAP"
_SHOWN = 3

Advance = Callable[[int], object]


def validate_manifest(
    path: str | Path,
    root: str | Path | None = None,
    *,
    digests: bool = False,
    files: bool = True,
    advance: Advance = lambda _: None,
) -> list[Problem]:
    """Return everything that is wrong with a manifest, in order of code; an empty list when it is
    true.

    HP901 for columns, keys and the certificate; HP902 and HP903 for files that changed, were
    repaired since or are gone; HP701 to HP704 for what crosses splits or pools.

    Args:
        path: Path of manifest.parquet.
        root: Folder that relative paths start from; None for that of the manifest.
        digests: Read every byte of the files, not only their sizes.
        files: Whether the files are looked at.
        advance: Called with numbers of files done.

    Raises:
        UsageError: There is no such file.
    """
    try:
        manifest = open_manifest(path)
    except IntegrityError as error:
        return [
            problem(
                rule_ids.MANIFEST_SCHEMA,
                [(str(path), f"{error.what}{f': {error.seen}' if error.seen else ''}")],
                denominator=1,
                unit="manifests",
            )
        ]
    findings = [*_check_values(manifest)]
    if not findings:
        findings += _check_leaks(manifest)
        problems = certificate_problems(manifest)
        if problems:
            findings.append(
                problem(
                    rule_ids.MANIFEST_SCHEMA,
                    [(str(path), reason) for reason in problems],
                    denominator=1,
                    unit="manifests",
                    subcode="certificate",
                )
            )
    if files:
        findings += _check_files(
            manifest, manifest.root if root is None else Path(root), digests, advance
        )
    return sorted(findings, key=lambda problem: (problem.code, problem.subcode))


def check_manifest(manifest: Manifest) -> None:
    """Refuse a manifest whose rows make no sense, whose certificate is another, or whose splits
    leak.

    Whatever reads the rows of a manifest that it did not make itself calls this first: shards,
    latents, training, sampling.

    Raises:
        IntegrityError: The manifest does not hold; with the first reason.
    """
    problem = next(_check_values(manifest), None)
    if problem is not None:
        wrong = "; ".join(
            f"{name}: {detail}" if name != str(manifest.path) else detail
            for name, detail in _first(problem)
        )
        raise IntegrityError(
            "the rows of this manifest make no sense", path=manifest.path, seen=wrong, hint=_REMAKE
        )
    problems = [
        *certificate_problems(manifest),
        *(f"{name}: tile id occurs twice" for name in _repeated_ids(manifest)),
    ]
    if problems:
        raise IntegrityError(
            "the certificate of the split does not hold",
            path=manifest.path,
            seen="; ".join(problems[:_SHOWN]),
            hint=_REMAKE,
        )


def _first(problem: Problem) -> list[tuple[str, str]]:
    return list(zip(problem.paths, problem.details, strict=True))[:_SHOWN]


def _repeated_ids(manifest: Manifest) -> list[str]:
    """Return the first tile ids that occur twice."""
    keys = np.concatenate(
        [
            name_keys(batch["tile_id"].to_pylist(), 0, "tile")
            for batch in manifest.iter_batches(["tile_id"])
        ]
    )
    return [name for name, _ in _crossing(manifest, keys, np.arange(len(keys)), None, "tile_id")][
        :_SHOWN
    ]


def certificate_problems(manifest: Manifest) -> list[str]:
    """Return where the header's certificate differs from one computed from the rows, and what
    crosses splits.
    """
    rows, splits = split_rows(manifest)
    actual = certify(rows, splits, manifest.recipe["fractions"])
    stated = manifest.certificate
    problems = [
        f"{actual[name]} {name.replace('_', ' ')}"
        for name in ("shared_groups", "shared_duplicates")
        if actual[name]
    ]
    for split in sorted({*actual["splits"], *stated.get("splits", {})}):
        seen, said = actual["splits"].get(split, {}), stated.get("splits", {}).get(split, {})
        differing = [key for key in sorted({*seen, *said}) if seen.get(key) != said.get(key)]
        problems += [
            f"{split} has {seen.get(key)} {key}, certified {said.get(key)}" for key in differing
        ]
    if manifest.num_folds:
        problems += _fold_problems(manifest, rows)
    if not _same_worst(actual["worst_class"], stated.get("worst_class")):
        problems.append(
            f"worst class is {actual['worst_class']}, certified {stated.get('worst_class')}"
        )
    return problems


def _fold_problems(manifest: Manifest, rows: SplitRows) -> Iterator[str]:
    """Yield where the folds are not what the certificate says, and what crosses them."""
    column = manifest.read((FOLD.name,))[FOLD.name]
    folds = pc.fill_null(column, NO_SPLIT).to_numpy().astype(np.int8)
    names = manifest.recipe["folds"]["names"]
    if folds.max(initial=NO_SPLIT) >= len(names):
        yield f"there is a fold {folds.max()}, certified {len(names)} folds from 0"
        return
    actual, stated = certify_folds(rows, folds, names), manifest.certificate.get("folds", {})
    for name in ("shared_groups", "shared_duplicates"):
        if actual[name]:
            yield f"{actual[name]} {name.replace('_', ' ')} between folds"
    if actual["folds"] != stated.get("folds"):
        yield f"folds have {actual['folds']}, certified {stated.get('folds')}"


def _same_worst(actual: dict[str, Any] | None, stated: dict[str, Any] | None) -> bool:
    if actual is None or stated is None:
        return actual is stated
    result: bool = abs(actual["points"] - stated.get("points", -1.0)) <= _POINTS_TOLERANCE
    return result


def split_rows(manifest: Manifest) -> tuple[SplitRows, np.ndarray]:
    """Return the rows of a manifest as the split sees them, and their split codes (int8 [n])."""
    size = len(manifest)
    names, images, splits = (
        np.zeros(size, dtype=np.uint64),
        np.zeros(size, dtype=np.uint64),
        np.zeros(size, dtype=np.int8),
    )
    grouped, strata, kinds = (
        np.zeros(size, dtype=bool),
        np.zeros(size, dtype=np.int32),
        Strata(manifest.label_map),
    )
    ids = np.array([cls.id for cls in manifest.label_map.classes])
    end = 0
    for batch in manifest.iter_batches(_KEY_COLUMNS):
        start, end = end, end + batch.num_rows
        here = slice(start, end)
        group = name_keys(batch["group"].to_pylist(), 0, "group")
        grouped[here] = group != 0
        images[here] = name_keys(batch["image_digest"].to_pylist(), 0, "image")
        names[here] = np.where(grouped[here], group, images[here])
        strata[here] = kinds.codes(
            _codes(batch["pool"], POOLS) == 0, _core(batch["classes"], ids), batch["label"]
        )
        splits[here] = _codes(batch["split"], SPLITS)
    copy_rows, copy_keys = repeated(images)
    return SplitRows(names, grouped, copy_rows, copy_keys, strata, *kinds.profiles()), splits


def _codes(column: pa.ChunkedArray, names: tuple[str, ...]) -> np.ndarray:
    """Return the index of each text in `names`, -1 for another (int8)."""
    result: np.ndarray = (
        pc.fill_null(pc.index_in(column, pa.array(names)), -1).to_numpy().astype(np.int8)
    )
    return result


def _core(column: pa.ChunkedArray, ids: np.ndarray) -> np.ndarray:
    """Return a `classes` column as bool [rows, classes]."""
    rows = np.repeat(
        np.arange(len(column)), pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    )
    values = pc.list_flatten(column).to_numpy()
    place = np.minimum(np.searchsorted(ids, values), len(ids) - 1)
    known = ids[place] == values
    core = np.zeros((len(column), len(ids)), dtype=bool)
    core[rows[known], place[known]] = True
    return core


def _check_values(manifest: Manifest) -> Iterator[Problem]:
    """Yield HP901 for no rows, nulls in keys, unknown names and class ids, NUL in names, and
    numbers that cannot be.
    """
    wrong: list[tuple[str, str]] = []
    ids = pa.array([cls.id for cls in manifest.label_map.classes], pa.uint8())
    for batch in manifest.iter_batches(COLUMNS):
        wrong += [(str(manifest.path), f"null in {name}") for name in null_keys(batch)]
        for name, allowed in (("split", SPLITS), ("pool", POOLS)):
            strange = pc.and_(
                pc.is_valid(batch[name]), pc.invert(pc.is_in(batch[name], pa.array(allowed)))
            )
            wrong += [
                (row["tile_id"], f"{name} is {row[name]!r}")
                for row in batch.select(["tile_id", name]).filter(strange).to_pylist()
            ]
        if not pc.all(pc.is_in(pc.list_flatten(batch["classes"]), ids), min_count=0).as_py():
            wrong.append((str(manifest.path), "a class id that the label map does not have"))
        for name in ("tile_id", "image_path", "mask_path", "shard"):
            # No file has such a name; the system's calls would raise ValueError.
            with_nul = pc.fill_null(pc.match_substring(batch[name], "\0"), False)
            wrong += [
                (repr(row["tile_id"]), f"{name} holds a NUL character")
                for row in batch.filter(with_nul).select(["tile_id"]).to_pylist()
            ]
        for name, least in _NUMBERS.items():
            too_small = pc.fill_null(pc.less(batch[name], least), False)
            wrong += [
                (row["tile_id"], f"{name} is {row[name]}")
                for row in batch.filter(too_small).select(["tile_id", name]).to_pylist()
            ]
    if not len(manifest):
        wrong.append((str(manifest.path), "no rows"))
    if wrong:
        yield problem(
            rule_ids.MANIFEST_SCHEMA, sorted(set(wrong)), denominator=len(manifest), unit="tiles"
        )


def _check_leaks(manifest: Manifest) -> Iterator[Problem]:
    """Yield HP701 to HP704, and HP901 for a tile id that occurs twice in one split."""
    keys: dict[str, list[np.ndarray]] = {"tile_id": [], "group": [], "image_digest": []}
    splits, pools, mistaken = [], [], []
    foreground = np.array([cls.id != 0 for cls in manifest.label_map.classes], dtype=bool)
    threshold = float(manifest.recipe.get("conditional_threshold", 0.0))
    for batch in manifest.iter_batches(_KEY_COLUMNS):
        for name, pieces in keys.items():
            pieces.append(name_keys(batch[name].to_pylist(), 0, "tile"))
        splits.append(_codes(batch["split"], SPLITS))
        pools.append(_codes(batch["pool"], POOLS))
        conditional = is_conditional(class_matrix(batch["class_pixels"]), foreground, threshold)
        wrong = np.flatnonzero(conditional != (pools[-1] == POOLS.index(CONDITIONAL)))
        mistaken += [
            (
                batch["tile_id"][int(row)].as_py(),
                f"{batch['pool'][int(row)].as_py()}, against its class pixels",
            )
            for row in wrong
        ]
    columns = {
        name: np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.uint64)
        for name, pieces in keys.items()
    }
    split, pool = (
        np.concatenate(codes) if codes else np.zeros(0, dtype=np.int8) for codes in (splits, pools)
    )
    for rule, column, unit, by, names in (
        (rule_ids.TILE_IN_BOTH_SPLITS, "tile_id", "tiles", split, SPLITS),
        (rule_ids.GROUP_IN_BOTH_SPLITS, "group", "groups", split, SPLITS),
        (rule_ids.DUPLICATE_ACROSS_SPLITS, "image_digest", "images", split, SPLITS),
        (rule_ids.POOL_OVERLAP, "image_digest", "images", pool, POOLS),
    ):
        items = _crossing(manifest, columns[column], by, names, column)
        items += mistaken if rule == rule_ids.POOL_OVERLAP else []
        if items:
            yield problem(rule, items, denominator=len(np.unique(columns[column])), unit=unit)
    twice = _crossing(manifest, columns["tile_id"], np.arange(len(split)), None, "tile_id")
    if twice:
        items = [(name, "tile id occurs twice") for name, _ in twice]
        yield problem(
            rule_ids.MANIFEST_SCHEMA,
            items,
            denominator=len(split),
            unit="tiles",
            subcode="not-unique",
        )


def _crossing(
    manifest: Manifest,
    keys: np.ndarray,
    codes: np.ndarray,
    names: tuple[str, ...] | None,
    column: str,
) -> list[tuple[str, str]]:
    """Return (name, where it was seen) of the values of `column` with two codes; images are named
    by their tiles.
    """
    order = np.argsort(keys, kind="stable")
    ordered, seen = keys[order], codes[order]
    apart = (ordered[1:] == ordered[:-1]) & (ordered[1:] != 0) & (seen[1:] != seen[:-1])
    crossing = np.unique(ordered[1:][apart])
    if not len(crossing):
        return []
    splits: dict[str, set[str]] = {}
    shown: dict[str, str] = {}
    start = 0
    for batch in manifest.iter_batches(tuple(dict.fromkeys(("tile_id", column)))):
        for row in np.flatnonzero(np.isin(keys[start : start + batch.num_rows], crossing)).tolist():
            name = batch[column][row].as_py()
            shown.setdefault(
                name, batch["tile_id"][row].as_py() if column == "image_digest" else name
            )
            splits.setdefault(name, set()).add(names[codes[start + row]] if names else "")
        start += batch.num_rows
    return [(shown[name], f"in {' and '.join(sorted(where))}") for name, where in splits.items()]


class _File(NamedTuple):
    path: str
    size: int | None
    digest: str | None


def _check_files(
    manifest: Manifest, root: Path, digests: bool, advance: Advance
) -> Iterator[Problem]:
    """Yield HP902 and HP903; files are looked at by threads, since most of the time goes into
    waiting.
    """
    gone: list[tuple[str, str]] = []
    stale: list[tuple[str, str]] = []
    repaired = _repaired_beside(manifest)
    total = 0
    with ThreadPoolExecutor(_THREADS) as threads:
        for batch in manifest.iter_batches(_FILE_COLUMNS):
            columns = [batch[name].to_pylist() for name in _FILE_COLUMNS]
            files = [
                _File(*row)
                for part in (columns[:3], columns[3:])
                for row in zip(*part, strict=True)
                if row[0] is not None
            ]
            total += len(files)
            if repaired is not None:
                stale += [
                    (columns[3][row], "repaired after the manifest was made")
                    for row in repaired.damaged_rows(batch)
                ]
            pieces = [files[at : at + _FILES_A_TASK] for at in range(0, len(files), _FILES_A_TASK)]
            for verdicts in threads.map(
                lambda piece: [_look_at(manifest, root, file, digests) for file in piece], pieces
            ):
                for verdict in filter(None, verdicts):
                    (gone if verdict.gone else stale).append((verdict.path, verdict.detail))
            advance(batch.num_rows)
    for rule, items in ((rule_ids.MANIFEST_STALE, stale), (rule_ids.DANGLING_PATH, gone)):
        if items:
            yield problem(rule, items, denominator=total, unit="files")


def _repaired_beside(manifest: Manifest) -> RepairedMasks | None:
    """Return the repaired masks of the workspace that the manifest lies in, None without; of a
    repair that did not end nothing is said.
    """
    with contextlib.suppress(IntegrityError):
        return open_repaired(manifest.path.parent)
    return None


@dataclass(frozen=True, slots=True)
class _Verdict:
    path: str
    detail: str
    gone: bool


def _digest_of(path: str) -> str:
    """Return the digest of a file, which an object store may hold."""
    return file_digest(Path(path)) if object_of(path) is None else digest(file_bytes(path))


def _look_at(manifest: Manifest, root: Path, file: _File, digests: bool) -> _Verdict | None:
    path = os.path.join(root, to_name(manifest.path_of(file.path, root)))
    try:
        status = os.stat(path)
        # Never open a pipe: it would block for ever.
        if not stat.S_ISREG(status.st_mode):
            return _Verdict(file.path, "not a regular file", gone=True)
        if file.size is not None and status.st_size != file.size:
            return _Verdict(
                file.path, f"{status.st_size} bytes, manifest says {file.size}", gone=False
            )
        if digests and file.digest is not None and _digest_of(path) != file.digest:
            return _Verdict(
                file.path, "content differs from the digest of the manifest", gone=False
            )
    except ValueError as error:
        # NUL in a path.
        return _Verdict(file.path, str(error), gone=True)
    except OSError as error:
        return _Verdict(file.path, error.strerror or str(error), gone=True)
    return None
