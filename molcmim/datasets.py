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
from typing import NamedTuple

import numpy as np
import pandas as pd

from molcmim.atomic import atomic_path
from molcmim.files import read_chunks
from molcmim.splits import Split as Split  # both are part of this room, for whoever uses it
from molcmim.splits import canonical
from molcmim.splits import split as split
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


def audit(
    data: pd.DataFrame, parts: Split | None = None, target: str = "y", molecules: Sequence[str] | None = None
) -> Audit:
    """Find repeated molecules (same canonical isomeric SMILES), conflicting values, leakage between parts.

    Parameters
    ----------
    data
        With a column ``smiles``.
    parts
        A split of its rows.
    target
        Column of the values.
    molecules
        Canonical SMILES of the rows, if they are known.

    Raises
    ------
    MoleculeError
        If a SMILES cannot be read.
    """
    molecule = np.array(canonical(list(data["smiles"])) if molecules is None else molecules, object)
    y = data[target].to_numpy(np.float64)
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, string in enumerate(molecule):
        rows_of[string].append(row)
    repeated = []
    for string, rows in rows_of.items():
        if len(rows) > 1:
            known = y[rows][~np.isnan(y[rows])]
            repeated.append(Repeated(string, rows, float(np.ptp(known)) if len(known) else float("nan")))
    repeated.sort(key=lambda found: np.nan_to_num(found.spread, nan=-1.0), reverse=True)
    leaked = {}
    if parts is not None:
        for a, b in (("valid", "train"), ("test", "train"), ("test", "valid")):
            inside = set(molecule[getattr(parts, b)])
            leaked[f"{a} in {b}"] = sum(m in inside for m in molecule[getattr(parts, a)])
    return Audit(repeated, leaked)
