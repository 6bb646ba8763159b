"""Property sets: molecules with measured values, their splits, and what is wrong with them. Knows no model.

A data set is a pandas frame with a column ``smiles`` and one column a target, rows in the file's order.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.request
import warnings
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Int64

from molcmim import smiles
from molcmim.atomic import atomic_path
from molcmim.files import read_chunks
from molcmim.smiles import BadMolecule, MoleculeError
from molcmim.values import frame_of


class PropertySet(NamedTuple):
    """What is known about a published set."""

    quantity: str
    """What was measured."""
    unit: str
    """Unit of y."""
    rows: int
    """Molecules in it."""
    file: str
    """MoleculeNet's name of the file; ``<name>.csv`` with the columns smiles and y is read as well."""
    target: str
    """Column of that file that holds the measured value."""
    url: str
    """Where MoleculeNet offers it."""
    sha256: str
    """:func:`content_hash` of the set."""
    source: str
    """Who measured or collected it."""


_BUCKET = "https://deepchemdata.s3-us-west-1.amazonaws.com/datasets/"

DATASETS: dict[str, PropertySet] = {
    "esol": PropertySet(
        quantity="aqueous solubility, log S",
        unit="log10(mol/L)",
        rows=1128,
        file="delaney-processed.csv",
        target="measured log solubility in mols per litre",
        url=_BUCKET + "delaney-processed.csv",
        sha256="bdd071506c8a7d849cf082187ae323f7394cb1f2b497c660f60450623f1b4359",
        source="Delaney, J. Chem. Inf. Comput. Sci. 2004, 44, 1000",
    ),
    "freesolv": PropertySet(
        quantity="hydration free energy",
        unit="kcal/mol",
        rows=642,
        file="SAMPL.csv",
        target="expt",
        url=_BUCKET + "SAMPL.csv",
        sha256="6a26378b63683e690cf98c1c671b53f29c251850e3707930d868b6802e3b0b6c",
        source="Mobley & Guthrie, J. Comput.-Aided Mol. Des. 2014, 28, 711",
    ),
    "lipophilicity": PropertySet(
        quantity="octanol/water distribution, log D at pH 7.4",
        unit="log10",
        rows=4200,
        file="Lipophilicity.csv",
        target="exp",
        url=_BUCKET + "Lipophilicity.csv",
        sha256="4d2918eb2f39ee40d83d01d04a50e7169420d17121ecbe0a35200d01deb5f7a2",
        source="AstraZeneca, deposited in ChEMBL (CHEMBL3301361)",
    ),
}


def load(name: str, folder: str | os.PathLike[str] | None = None) -> pd.DataFrame:
    """Load a published property set.

    Looked for in `folder`, if one is given, and nowhere else; without, in ``$MOLCMIM_DATA``, then in the cache
    (``$MOLCMIM_HOME/datasets``, else ``$XDG_CACHE_HOME/molcmim`` or ``~/.cache/molcmim``), and last at
    MoleculeNet, from where it goes into the cache once its content has been verified.

    Parameters
    ----------
    name : {"esol", "freesolv", "lipophilicity"}
        ESOL: 1,128 molecules, measured log10 of the aqueous solubility in mol/L. FreeSolv: 642, experimental
        hydration free energy in kcal/mol. Lipophilicity: 4,200, experimental logD (octanol/water) at pH 7.4.
    folder
        Holds ``esol.csv`` (``smiles,y``) or ``delaney-processed.csv`` (MoleculeNet's columns), and so on.

    Returns
    -------
    DataFrame
        Columns ``smiles`` (as in the file, without white space around) and ``y`` (float64).

    Raises
    ------
    FileNotFoundError
        If it is nowhere and cannot be downloaded; says where to put which file.
    ValueError
        For an unknown name, a file without the columns, a value that is no number, a damaged download.

    Warns
    -----
    UserWarning
        If a file that was found does not hold what was published; it is used all the same.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown data set {name!r}; known are {', '.join(DATASETS)}; load_csv reads any other")
    given = folder or os.environ.get("MOLCMIM_DATA")
    wanted = (f"{name}.csv", DATASETS[name].file)
    folders = [Path(place) for place in (given, None if folder else _cache()) if place]
    for path in (place / file for place in folders for file in wanted):
        if path.is_file():
            data = _read(path, DATASETS[name].target)
            if content_hash(data) != DATASETS[name].sha256:
                said = f"{len(data)} rows, of {DATASETS[name].rows} published"
                warnings.warn(f"{path} does not hold the published {name} ({said}); it is used as it is", stacklevel=2)
            return data
    if folder:
        raise FileNotFoundError(f"{name}: no {' or '.join(wanted)} in {Path(folder).absolute()}; put one there")
    return _download(name, folders)


def load_csv(
    path: str | os.PathLike[str],
    smiles_column: str | None = None,
    target_columns: str | Sequence[str] = "y",
    labels: bool = False,
) -> pd.DataFrame:
    """Load any table of molecules and measured values.

    Parameters
    ----------
    path
        Any format of :func:`molcmim.files.read_chunks`: csv, tsv, sdf, Parquet, gzip.
    smiles_column
        Default: found by its name.
    target_columns
        One column, which becomes ``y``, or several, which keep their names. An empty field is a missing label.
    labels
        Whether the targets are names of classes, any text.

    Returns
    -------
    DataFrame
        Columns ``smiles`` and the target or targets (float64, NaN where missing; labels: text, None where missing).

    Raises
    ------
    OSError, ValueError
        As :func:`molcmim.files.read_chunks`; ValueError also for a missing target column, and, as
        :class:`molcmim.values.BadValues`, for values that are no finite numbers.
    """
    return frame_of(list(read_chunks(path, smiles_column)), path, target_columns, labels)


def _read(path: Path, target: str, format: str | None = None) -> pd.DataFrame:
    chunks = list(read_chunks(path, format=format))
    frame = frame_of(chunks, path, "y" if "y" in chunks[0].table.column_names else target)
    if unknown := np.flatnonzero(frame["y"].isna()).tolist():
        raise ValueError(f"{path}: no value in row(s) {', '.join(map(str, unknown))}; restore the file")
    return frame


def content_hash(data: pd.DataFrame) -> str:
    """SHA-256 over ``smiles,y`` of every row: the same however the file that they came from was laid out."""
    lines = (f"{s},{float(y)!r}\n" for s, y in zip(data["smiles"], data["y"], strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _cache() -> Path:
    if home := os.environ.get("MOLCMIM_HOME"):
        return Path(home) / "datasets"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "molcmim"


def _download(name: str, looked_at: list[Path]) -> pd.DataFrame:
    known = DATASETS[name]
    target = _cache() / known.file
    try:
        with urllib.request.urlopen(known.url, timeout=30) as response:
            content = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise FileNotFoundError(
            f"{name} is not in {' or '.join(map(str, looked_at))}, and downloading {known.url} failed ({error}). "
            f"Put {known.file}, or {name}.csv with the columns smiles,y, into {target.parent}, or into a folder "
            "that you name by the argument or by MOLCMIM_DATA."
        ) from error
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(target) as unverified:
        unverified.write_bytes(content)
        try:
            data = _read(unverified, known.target, "csv")
            found = f"{len(data)} rows of SHA-256 {content_hash(data)[:12]}..."
        except (OSError, ValueError):
            data, found = None, f"{len(content):,} bytes that are no such table, {content[:40]!r}..."
        if data is None or content_hash(data) != known.sha256:
            raise ValueError(
                f"{known.url} did not give the published {name}: {found}, expected {known.rows} of "
                f"{known.sha256[:12]}...; nothing was kept. Try again, or put the file into {target.parent}"
            )
    return data


PART_OF = {"train": "train", "valid": "valid", "val": "valid", "validation": "valid", "test": "test"}
"""What a column of parts may hold, in any case."""


class Split(NamedTuple):
    """Row numbers of the three parts; no row is in two of them, every row is in one."""

    train: Int64[np.ndarray, " n_train"]
    """What is fitted."""
    valid: Int64[np.ndarray, " n_valid"]
    """What chooses."""
    test: Int64[np.ndarray, " n_test"]
    """What is reported."""


def split(data: pd.DataFrame, method: str = "random", seed: int = 0, target: str = "y") -> Split:
    """Split a data set 80/10/10.

    Parameters
    ----------
    data
        With a column ``smiles``.
    method : {"random", "scaffold", "stratified"}
        ``random``: numpy's ``RandomState(seed).permutation(n)``, cut at int(0.8 n) and int(0.9 n).
        ``scaffold``: molecules of one Bemis-Murcko scaffold (J. Med. Chem. 1996, 39, 2887; no chirality) stay
        together, the largest sets fill train, then valid, then test: what DeepChem's ScaffoldSplitter does.
        All acyclic molecules are one such set.
        ``stratified``: of each ten rows of one class, or next to each other in value, one is drawn for valid and one
        for test; classes are what `target` holds if it holds no floats.
    seed
        Of ``random`` and ``stratified``; ``scaffold`` has none.
    target
        Column that ``stratified`` goes by.

    Returns
    -------
    Split
        Row numbers, counted from 0.

    Raises
    ------
    MoleculeError
        Under ``scaffold``, if a SMILES cannot be read.
    ValueError
        For an unknown method, or if a part would be empty.
    """
    n = len(data)
    if method == "random":
        order = np.random.RandomState(seed).permutation(n).tolist()
        parts = [order[: int(0.8 * n)], order[int(0.8 * n) : int(0.9 * n)], order[int(0.9 * n) :]]
    elif method == "scaffold":
        parts = _scaffold_parts(list(data["smiles"]))
    elif method == "stratified":
        parts = _stratified_parts(data[target], seed)
    else:
        raise ValueError(f"unknown split {method!r}; known are random, scaffold, stratified")
    found = Split(*(np.asarray(part, np.int64) for part in parts))
    if not all(len(part) for part in found):
        sizes = ", ".join(f"{part} {len(rows)}" for part, rows in found._asdict().items())
        raise ValueError(f"a {method} split of {n} rows leaves a part empty ({sizes}); split it otherwise")
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
    if column not in table.column_names:
        raise ValueError(f"{path}: no column {column}; the columns present: {', '.join(table.column_names)}")
    fields = table.column(column).to_pylist()
    labels = [PART_OF.get(str(fields[row]).strip().lower()) for row in rows]
    if None in labels:
        row = int(rows[labels.index(None)])
        raise ValueError(f"{path}: row {row}, {column}: {fields[row]!r} is none of {', '.join(PART_OF)}")
    found = Split(*(np.flatnonzero([label == part for label in labels]) for part in Split._fields))
    if not (len(found.train) and len(found.valid)):
        raise ValueError(f"{path}: {column} holds {len(found.train)} rows of train, {len(found.valid)} of valid")
    return found


def _scaffold_parts(molecules: list[Any]) -> list[list[int]]:
    rows_of: dict[str, list[int]] = defaultdict(list)
    bad = []
    for row, molecule in enumerate(molecules):
        try:
            rows_of[smiles.murcko_scaffold(molecule)].append(row)
        except ValueError as error:
            bad.append(BadMolecule(row, molecule, str(error)))
    if bad:
        raise MoleculeError(bad)
    parts: list[list[int]] = [[], [], []]
    for rows in sorted(rows_of.values(), key=lambda rows: (len(rows), rows[0]), reverse=True):
        if len(parts[0]) + len(rows) <= 0.8 * len(molecules):
            parts[0] += rows
        elif len(parts[0]) + len(parts[1]) + len(rows) <= (0.8 + 0.1) * len(molecules):
            parts[1] += rows
        else:
            parts[2] += rows
    return parts


def _stratified_parts(y: pd.Series, seed: int) -> list[list[int]]:
    draw = np.random.RandomState(seed)
    order = draw.permutation(len(y))
    order = order[np.argsort(y.to_numpy()[order], kind="stable")] if y.dtype.kind == "f" else order
    strata = np.zeros(len(y), int) if y.dtype.kind == "f" else pd.factorize(y)[0]
    parts: list[list[int]] = [[], [], []]
    for stratum in np.unique(strata):
        rows = order[strata[order] == stratum]
        tens = -(-len(rows) // 10)
        place = np.concatenate([draw.permutation(10) for _ in range(tens)])[: len(rows)]
        for part, inside in zip(parts, (place > 1, place == 0, place == 1), strict=True):
            part += rows[inside].tolist()
    return [sorted(part) for part in parts]


def _canonical(molecules: Sequence[object]) -> list[str]:
    canonical, reasons = smiles.canonicalize(molecules)
    bad = [BadMolecule(row, molecules[row], reason) for row, reason in enumerate(reasons) if reason is not None]
    if bad:
        raise MoleculeError(bad)
    return [s for s in canonical if s is not None]


class Repeated(NamedTuple):
    """A molecule that stands in several rows."""

    smiles: str
    """Its canonical SMILES."""
    rows: list[int]
    """Where it stands."""
    spread: float
    """Largest minus smallest of its values; NaN if none is known."""


class Audit(NamedTuple):
    """What a data set's numbers should be read with."""

    repeated: list[Repeated]
    """Molecules in several rows, widest spread first."""
    leaked: dict[str, int]
    """Rows of one part whose molecule is also in another, as "test in train" -> how many; empty without split."""

    @property
    def duplicates(self) -> int:
        """Rows that repeat an earlier row's molecule."""
        return sum(len(molecule.rows) - 1 for molecule in self.repeated)

    @property
    def conflicts(self) -> list[Repeated]:
        """Those whose values differ."""
        return [molecule for molecule in self.repeated if molecule.spread > 0]

    def __str__(self) -> str:
        if not self.duplicates:
            return "no molecule stands in two rows"
        found = [f"{self.duplicates} row(s) repeat an earlier molecule"]
        if self.conflicts:
            widest = self.conflicts[0].spread
            found.append(f"{len(self.conflicts)} of these molecules have values that differ, by up to {widest:.2g}")
        for where, count in self.leaked.items():
            part, _, other = where.partition(" in ")
            found += [f"{count} row(s) of {part} hold molecules of {other}"] * bool(count)
        return "; ".join(found) + ", so errors there are too low" * any(self.leaked.values())


def audit(data: pd.DataFrame, parts: Split | None = None, target: str = "y") -> Audit:
    """Find repeated molecules (same canonical isomeric SMILES), conflicting values, leakage between parts.

    Parameters
    ----------
    data
        With a column ``smiles``.
    parts
        A split of its rows.
    target
        Column of the values.

    Raises
    ------
    MoleculeError
        If a SMILES cannot be read.
    """
    molecule = np.array(_canonical(list(data["smiles"])), object)
    y = data[target].to_numpy(np.float64)
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, canonical in enumerate(molecule):
        rows_of[canonical].append(row)
    repeated = []
    for canonical, rows in rows_of.items():
        if len(rows) > 1:
            known = y[rows][~np.isnan(y[rows])]
            repeated.append(Repeated(canonical, rows, float(np.ptp(known)) if len(known) else float("nan")))
    repeated.sort(key=lambda found: np.nan_to_num(found.spread, nan=-1.0), reverse=True)
    leaked = {}
    if parts is not None:
        for a, b in (("valid", "train"), ("test", "train"), ("test", "valid")):
            inside = set(molecule[getattr(parts, b)])
            leaked[f"{a} in {b}"] = sum(m in inside for m in molecule[getattr(parts, a)])
    return Audit(repeated, leaked)
