"""Rows of a data set -> train, valid and test parts. Knows no file and no model."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Hashable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Int64

from molcmim import similarity, smiles

PART_OF = {"train": "train", "valid": "valid", "val": "valid", "validation": "valid", "test": "test"}
"""What a column of parts may hold, in any case."""
METHODS = ("random", "scaffold", "cluster", "stratified", "group")
CLUSTER = 0.4
"""Least Tanimoto similarity of a molecule to the first of its cluster."""
SIZES = (0.8, 0.1, 0.1)
"""Shares of the rows that are train, valid and test."""
LARGEST_BLOCK = 100
"""Neighbouring rows of which a stratified split gives each part its share, at most."""


class Split(NamedTuple):
    """Row numbers of the three parts; no row is in two of them, every row is in one."""

    train: Int64[np.ndarray, " n_train"]
    """What is fitted."""
    valid: Int64[np.ndarray, " n_valid"]
    """What chooses."""
    test: Int64[np.ndarray, " n_test"]
    """What is reported."""


def split(
    data: pd.DataFrame,
    method: str = "random",
    seed: int = 0,
    target: str = "y",
    groups: Sequence[Hashable] | None = None,
    sizes: tuple[float, float, float] = SIZES,
) -> Split:
    """Split a data set, 80/10/10 unless told otherwise.

    Parameters
    ----------
    data
        With a column ``smiles``.
    method : {"random", "scaffold", "cluster", "stratified", "group"}
        ``random``: numpy's ``RandomState(seed).permutation(n)``, cut at int(0.8 n) and int(0.9 n) (or as `sizes` say).
        ``scaffold``: molecules of one Bemis-Murcko scaffold (J. Med. Chem. 1996, 39, 2887; no chirality) stay
        together, the largest sets fill train, then valid, then test: what DeepChem's ScaffoldSplitter does.
        All acyclic molecules are one such set.
        ``cluster``: molecules of one cluster of fingerprints stay together, see :func:`clusters`.
        ``stratified``: of each ten rows of one class, or next to each other in value, one is drawn for valid and one
        for test (of other `sizes`: of as few rows as give whole numbers); classes are what `target` holds if it holds
        no floats.
        ``group``: rows of one value in `groups` stay together.
        Clusters and groups fill train, then valid, then test in an order that is drawn; those of more than half a
        valid part come first.
    seed
        Of what is drawn; ``scaffold`` draws nothing.
    target
        Column that ``stratified`` goes by.
    groups
        For ``group``, one value a row.
    sizes
        Shares of train, valid and test, which add to 1. That of test may be 0.

    Returns
    -------
    Split
        Row numbers, counted from 0.

    Raises
    ------
    MoleculeError
        Under ``scaffold`` and ``cluster``, if a SMILES cannot be read.
    ValueError
        For an unknown method, impossible sizes, or if a part would be empty that is to have a share.
    """
    n = len(data)
    if not (min(sizes[:2]) > 0 <= sizes[2] and abs(sum(sizes) - 1) < 1e-6):
        said = ", ".join(map(str, sizes))
        raise ValueError(f"sizes of train, valid and test must add to 1, train's and valid's above 0, got {said}")
    trained, seen = sizes[0], 1 - sizes[2]  # 1 - 0.1 is 0.9; 0.7 + 0.2 would be a little less
    if method == "random":
        order = np.random.RandomState(seed).permutation(n).tolist()
        parts = [order[: int(trained * n)], order[int(trained * n) : int(seen * n)], order[int(seen * n) :]]
    elif method == "scaffold":
        together = _together([smiles.murcko_scaffold(molecule) for molecule in canonical(list(data["smiles"]))])
        parts = _filled(sorted(together, key=lambda rows: (len(rows), rows[0]), reverse=True), trained * n, seen * n)
    elif method == "stratified":
        parts = _stratified_parts(data[target], seed, sizes)
    elif method in ("cluster", "group"):
        keys = clusters(list(data["smiles"])).tolist() if method == "cluster" else groups
        if keys is None or len(keys) != n:
            raise ValueError(f"a group split of {n} rows needs as many values of groups")
        together = _together(keys)
        drawn = [together[i] for i in np.random.RandomState(seed).permutation(len(together))]
        parts = _filled(sorted(drawn, key=lambda rows: len(rows) <= sizes[1] / 2 * n), trained * n, seen * n)
    else:
        raise ValueError(f"unknown split {method!r}; known are {', '.join(METHODS)}")
    found = Split(*(np.asarray(part, np.int64) for part in parts))
    if any(size > 0 and not len(part) for size, part in zip(sizes, found, strict=True)):
        rows = ", ".join(f"{part} {len(rows)}" for part, rows in found._asdict().items())
        raise ValueError(f"a {method} split of {n} rows leaves a part empty ({rows}); split it otherwise")
    return found


def split_by(table: pa.Table, column: str, rows: Int64[np.ndarray, " n"], path: str | os.PathLike[str]) -> Split:
    """Split as a column says, which holds train, valid (val, validation) or test in each of `rows`.

    There may be no test part.

    Returns
    -------
    Split
        Numbers of places in `rows`.

    Raises
    ------
    ValueError
        If there is no such column, it holds something else, or nothing is to be trained or to be chosen on.
    """
    fields = fields_of(table, column, path)
    labels = [PART_OF.get(str(fields[row]).strip().lower()) for row in rows]
    if None in labels:
        row = int(rows[labels.index(None)])
        raise ValueError(f"{path}: row {row}, {column}: {fields[row]!r} is none of {', '.join(PART_OF)}")
    found = Split(*(np.flatnonzero([label == part for label in labels]) for part in Split._fields))
    if not (len(found.train) and len(found.valid)):
        raise ValueError(f"{path}: {column} holds {len(found.train)} rows of train, {len(found.valid)} of valid")
    return found


def fields_of(table: pa.Table, column: str, path: str | os.PathLike[str]) -> list[Any]:
    """Read a column of a table; ValueError if there is none of this name."""
    if column not in table.column_names:
        raise ValueError(f"{path}: no column {column}; the columns present: {', '.join(table.column_names)}")
    found: list[Any] = table.column(column).to_pylist()
    return found


def clusters(molecules: Sequence[object]) -> Int64[np.ndarray, " n"]:
    """Find the cluster of each molecule, by Tanimoto similarity of Morgan fingerprints (radius 2, 2,048 bits).

    Sphere exclusion: a molecule begins a cluster if none of those that began one has a similarity of at least
    :data:`CLUSTER` to it; then each molecule joins the one that it is most similar to. Unlike Butina's method (J. Chem.
    Inf. Comput. Sci. 1999, 39, 747), which it stands for, it needs no matrix of all pairs.

    Raises
    ------
    MoleculeError
        If a SMILES cannot be read.
    """
    strings = canonical(molecules)
    bits = smiles.packed_bits(strings)
    return similarity.nearest(bits, bits[smiles.leaders(strings, CLUSTER)]).which


def canonical(molecules: Sequence[object]) -> list[str]:
    """Canonical SMILES of molecules; MoleculeError that names all that cannot be read."""
    found, reasons = smiles.canonicalize(molecules)
    smiles.refuse(molecules, reasons)
    return [s for s in found if s is not None]


def _together(keys: Sequence[Hashable]) -> list[list[int]]:
    """Rows of equal keys, in the order of their first."""
    rows_of: dict[Hashable, list[int]] = defaultdict(list)
    for row, key in enumerate(keys):
        rows_of[key].append(row)
    return list(rows_of.values())


def _filled(together: Sequence[list[int]], trained: float, seen: float) -> list[list[int]]:
    """Put each of the sets that must stay together into the first part that has room for it.

    There are at most `trained` rows in train, `seen` in train and valid.
    """
    parts: list[list[int]] = [[], [], []]
    for rows in together:
        if len(parts[0]) + len(rows) <= trained:
            parts[0] += rows
        elif len(parts[0]) + len(parts[1]) + len(rows) <= seen:
            parts[1] += rows
        else:
            parts[2] += rows
    return parts


def _stratified_parts(y: pd.Series, seed: int, sizes: Sequence[float]) -> list[list[int]]:
    draw = np.random.RandomState(seed)
    order = draw.permutation(len(y))
    order = order[np.argsort(y.to_numpy()[order], kind="stable")] if y.dtype.kind == "f" else order
    strata = np.zeros(len(y), int) if y.dtype.kind == "f" else pd.factorize(y)[0]
    shares = [Fraction(size).limit_denominator(LARGEST_BLOCK) for size in sizes[1:]]
    block = min(LARGEST_BLOCK, math.lcm(*(share.denominator for share in shares)))
    held_out, tested = (round(size * block) for size in (sizes[1], sizes[1] + sizes[2]))
    parts: list[list[int]] = [[], [], []]
    for stratum in np.unique(strata):
        rows = order[strata[order] == stratum]
        blocks = -(-len(rows) // block)
        place = np.concatenate([draw.permutation(block) for _ in range(blocks)])[: len(rows)]
        for part, inside in zip(
            parts, (place >= tested, place < held_out, (place >= held_out) & (place < tested)), strict=True
        ):
            part += rows[inside].tolist()
    return [sorted(part) for part in parts]
