"""The property benchmark: data sets x splits x (features x heads, predictors) -> one folder of results.

The folder holds ``results.csv`` (a row per fit), ``table.md``, ``bars.png``, ``parity-*.png``, ``splits/``
(row numbers), ``fits/`` (each fit with its predictions) and ``features/`` (matrices, which may be deleted).
A fit is done once: who runs again into the same folder adds what is missing. A fit is known by the content of
its data set, the weights of its checkpoint and the versions of what computes its features or trains its
predictor, so that nothing stale is taken for done.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float32
from joblib import Parallel, delayed
from tqdm import tqdm

import molcmim
from molcmim import checkpoint, datasets, downstream, folders, predictors, report, smiles
from molcmim.atomic import atomic_path
from molcmim.datasets import DATASETS, Split
from molcmim.featurizer import EMBEDDINGS, Featurizer
from molcmim.predictors import PREDICTORS
from molcmim.splits import canonical

SEEDS = {"random": 5, "scaffold": 1, "cluster": 5}
"""Kind of split -> how many of it there are."""
END_TO_END = "end-to-end"
"""What stands for the head of a predictor, which has none of :data:`molcmim.downstream.HEADS`."""
CHUNK = 100
"""Molecules whose classical features one process computes at a time."""
LITTLE = 10_000
"""Molecules of all fits together below which starting processes takes longer than fitting."""


def of_spellings(part: str) -> tuple[str, int]:
    """Read the name of features: ``both:9`` is an embedding, averaged over nine spellings of each molecule."""
    name, colon, spellings = part.partition(":")
    if not colon:
        return part, 1
    if name not in EMBEDDINGS or not spellings.isdecimal() or int(spellings) < 1:
        raise ValueError(f"{part!r} is no embedding of several spellings, such as both:9")
    return name, int(spellings)


def _filename(name: str) -> str:
    return name.replace(":", "x")  # which Windows keeps for itself


class Table(NamedTuple):
    """A data set of the user's own, named after its file."""

    path: Path
    """Any format of :func:`molcmim.files.read_chunks`."""
    target: str
    """Column of the measured values, all of them known."""
    column: str | None = None
    """Column of the SMILES; default: found by its name."""
    unit: str = ""
    """Of the values."""


class Place(NamedTuple):
    """A data set, cut."""

    dataset: str
    """Name in :data:`molcmim.datasets.DATASETS`, or of a :class:`Table`."""
    split: str
    """Kind of split."""
    seed: int
    """Of the split, and of the heads."""


class Task(NamedTuple):
    """One fit to be done."""

    dataset: str
    """As in :class:`Place`."""
    split: str
    """As in :class:`Place`."""
    seed: int
    """As in :class:`Place`."""
    model: str
    """Name of the checkpoint's folder; empty for features that need none."""
    features: str
    """Name of the features, or of the predictor."""
    features_id: str
    """Hash of all that they depend on."""
    head: str
    """Name in :data:`molcmim.downstream.HEADS`, or :data:`END_TO_END`."""

    @property
    def matrices(self) -> tuple[str, str, str]:
        """What :meth:`Features.matrices` wants to know."""
        return self.dataset, self.model, self.features

    @property
    def file(self) -> str:
        """Name of the file that keeps the fit."""
        return _filename("-".join(str(field) for field in self if field != "") + ".json")


@dataclass(frozen=True)
class Plan:
    """What is compared with what."""

    datasets: Sequence[str] = tuple(DATASETS)
    """Names of :data:`molcmim.datasets.DATASETS`."""
    splits: Sequence[str] = ("random", "scaffold")
    """Of :data:`SEEDS`."""
    features: Sequence[str] = (
        *("mean", "informative", "both"), *smiles.FINGERPRINTS, "rdkit2d+morgan", "both+rdkit2d",
    )  # fmt: skip
    """Embeddings (by default those that every checkpoint has), names of :data:`molcmim.smiles.FINGERPRINTS`, names of
    `extra`; several side by side with +, which then count alike. An embedding averaged over spellings is mean:9."""
    heads: Sequence[str] = tuple(downstream.HEADS)
    """Of :data:`molcmim.downstream.HEADS`."""
    checkpoints: Sequence[str] = ("molcmim-small",)
    """Names or folders; each takes part with every embedding."""
    data: str | os.PathLike[str] | None = None
    """Folder of the property sets, as in :func:`molcmim.datasets.load`."""
    extra: Sequence[str | os.PathLike[str]] = ()
    """Tables (.csv, .parquet) of other features: a column ``smiles``, the rest numbers. Named after the file."""
    seeds: int | None = None
    """How many random and cluster splits, if not 5."""
    predictors: Sequence[str] = ()
    """Of :data:`molcmim.predictors.PREDICTORS`."""
    tables: Sequence[Table] = ()
    """Data sets of the user's own, beside `datasets`."""

    def __post_init__(self) -> None:
        """Refuse what is not known before anything is computed.

        Raises
        ------
        ValueError
            Which lists what is known.
        ImportError
            If a predictor's packages are not installed; says how to.
        """
        parts = [part for name in self.features for part in name.split("+")]
        names_of = [of_spellings(part)[0] for part in parts]
        for what, names, known in (
            ("data set", self.datasets, DATASETS),
            ("split", self.splits, SEEDS),
            ("features", names_of, (*EMBEDDINGS, *smiles.FINGERPRINTS, *self.extra_files)),
            ("head", self.heads, downstream.HEADS),
        ):
            if unknown := [name for name in names if name not in known]:
                raise ValueError(f"unknown {what} {', '.join(unknown)}; known are {', '.join(known)}")
        if taken := self.extra_files.keys() & {*EMBEDDINGS, *smiles.FINGERPRINTS, *PREDICTORS}:
            raise ValueError(f"{', '.join(sorted(taken))} is a name of ours; rename that table of features")
        own = [table.path.stem for table in self.tables]
        if twice := [name for name in own if name in DATASETS or own.count(name) > 1]:
            raise ValueError(f"{twice[0]} is the name of more than one data set; rename the file")
        if len(self.folders) < len(self.checkpoints):
            raise ValueError(f"two of the checkpoints have one name: {', '.join(map(str, self.checkpoints))}")
        if not self.places or not ((self.features and self.heads) or self.predictors):
            raise ValueError("nothing to compare: name data sets and splits, and features with heads, or predictors")
        predictors.require(self.predictors)

    @property
    def extra_files(self) -> dict[str, Path]:
        """Name -> file of `extra`."""
        return {Path(path).stem: Path(path) for path in self.extra}

    @property
    def folders(self) -> dict[str, str]:
        """Name -> what finds it, of `checkpoints`."""
        return {Path(name).resolve().name: name for name in self.checkpoints}

    @property
    def places(self) -> list[Place]:
        """All splits of all data sets."""
        return [
            Place(dataset, kind, seed)
            for dataset in (*self.datasets, *(table.path.stem for table in self.tables))
            for kind in self.splits
            for seed in range(SEEDS[kind] if self.seeds is None or SEEDS[kind] == 1 else self.seeds)
        ]

    @property
    def units(self) -> dict[str, str]:
        """Name -> unit of every data set."""
        own = {table.path.stem: table.unit or f"units of {table.target}" for table in self.tables}
        return {**{name: DATASETS[name].unit for name in self.datasets}, **own}

    def load(self) -> dict[str, pd.DataFrame]:
        """Name -> data set, with columns ``smiles`` and ``y``.

        Raises
        ------
        OSError, ValueError
            As :func:`molcmim.datasets.load` and :func:`molcmim.datasets.load_csv`; or if a value is missing.
        """
        sets = {name: datasets.load(name, self.data) for name in self.datasets}
        for table in self.tables:
            sets[table.path.stem] = frame = datasets.load_csv(table.path, table.column, table.target)
            _, reasons = smiles.canonicalize(frame["smiles"])
            if bad := [(row, reason) for row, reason in enumerate(reasons) if reason is not None]:
                said = "; ".join(f"row {row}: {reason}" for row, reason in bad[:20])
                raise ValueError(f"{table.path}: {len(bad)} molecule(s) cannot be read, {said}: leave them out")
            if unknown := np.flatnonzero(frame["y"].isna()).tolist():
                rows = ", ".join(map(str, unknown[:20]))
                raise ValueError(f"{table.path}: no {table.target} in {len(unknown)} row(s), {rows}: leave them out")
        return sets

    def models(self, features: str) -> Iterable[str]:
        """Name the checkpoints that features are computed with, or a predictor starts from: ``[""]`` if none."""
        pretrained = {*EMBEDDINGS, *(name for name, known in PREDICTORS.items() if known.pretrained)}
        return self.folders if {of_spellings(part)[0] for part in features.split("+")} & pretrained else [""]


def run(plan: Plan, output: str | os.PathLike[str], jobs: int = -1, progress: bool | None = None) -> pd.DataFrame:
    """Do what is missing of a plan, then write the table and the pictures of all that the folder holds.

    Parameters
    ----------
    plan
        What to compare.
    output
        Folder; created.
    jobs
        Processes; -1 is one a core, but for little work one in all. The figures do not depend on it.
    progress
        Show a bar; default: if standard error is a terminal.

    Returns
    -------
    DataFrame
        What ``results.csv`` holds: a row per fit, errors in the data set's units.

    Raises
    ------
    OSError, ValueError
        As :func:`molcmim.datasets.load` and :func:`molcmim.checkpoint.load`; or for a table of `extra` that
        lacks molecules.
    RuntimeError
        If a predictor fails; what is done by then is kept.
    """
    folder = Path(output)
    for name in ("fits", "splits", "features"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    sets = plan.load()
    splits = {place: datasets.split(sets[place.dataset], place.split, place.seed) for place in plan.places}
    notes = _write_splits(plan, sets, splits, folder / "splits")
    features = Features(plan, sets, folder / "features", jobs)
    kinds = [(head, name) for head in plan.heads for name in plan.features]  # the quick ones first
    tasks = [
        Task(*place, model, name, features.identity(place.dataset, model, name), head)
        for head, name in [*kinds, *((END_TO_END, name) for name in plan.predictors)]
        for place in splits
        for model in plan.models(name)
    ]
    files = sorted((folder / "fits").glob("*.json"))
    kept = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in files}
    kept = {file: record for file, record in kept.items() if "content" in record}  # others cannot be told apart
    records = list(kept.values())
    for record in records:
        if record["content"] == features.content.get(record["dataset"]):
            record["unit"] = plan.units[record["dataset"]]
    missing = [task for task in tasks if task.file not in kept]
    # all before the first fit: a process pool must not be asked for while another hands out its tasks
    needed = dict.fromkeys(task.matrices for task in missing if task.head != END_TO_END)
    matrices = {key: features.matrices(*key) for key in needed}
    quick = all(task.head != END_TO_END for task in missing)
    if quick and sum(len(sets[task.dataset]) for task in missing) < LITTLE:
        jobs = 1
    done = Parallel(jobs, return_as="generator_unordered")(
        delayed(_predict)(task, sets[task.dataset], splits[Place(*task[:3])], plan.folders.get(task.model, ""))
        if task.head == END_TO_END
        else delayed(_fit)(task, matrices[task.matrices], sets[task.dataset], splits[Place(*task[:3])])
        for task in missing
    )
    hidden = None if progress is None else not progress
    for task, record in tqdm(done, "fitting", len(missing), unit=" fits", disable=hidden):
        record |= {"unit": plan.units[task.dataset], "content": features.content[task.dataset]}
        _write(folder / "fits" / task.file, json.dumps(record))
        records.append(record)
    return report.write(records, notes, folder)


def _fit(task: Task, X: Any, data: pd.DataFrame, parts: Split) -> tuple[Task, dict[str, Any]]:
    done = downstream.fit_head(task.head, X, data["y"].to_numpy(), parts, task.seed)
    return task, _record(task, done, sum(part.shape[1] for part in X))


def _predict(task: Task, data: pd.DataFrame, parts: Split, found_by: str) -> tuple[Task, dict[str, Any]]:
    done = predictors.fit(task.features, list(data["smiles"]), data["y"].to_numpy(), parts, task.seed, found_by)
    return task, _record(task, done, None)


def _record(task: Task, done: downstream.Fit, dims: int | None) -> dict[str, Any]:
    fields = dataclasses.asdict(done)
    fields = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in fields.items()}
    return {**task._asdict(), "dims": dims, **fields}


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _write_splits(
    plan: Plan, sets: Mapping[str, pd.DataFrame], splits: Mapping[Place, Split], folder: Path
) -> list[str]:
    """Write row numbers and leakage of every split; return what a reader should know of each data set."""
    notes = []
    for name, data in sets.items():
        leaks = []
        molecules = canonical(list(data["smiles"]))
        found = datasets.audit(data, molecules=molecules)
        for place in (place for place in splits if place.dataset == name):
            leaked = datasets.audit(data, splits[place], molecules=molecules).leaked
            rows = {part: numbers.tolist() for part, numbers in splits[place]._asdict().items()}
            _write(folder / f"{'-'.join(map(str, place))}.json", json.dumps({**rows, "leaked": leaked}))
            leaks.append(f"{place.split} {place.seed}: {leaked['test in train']}")
        what, published = f"in {plan.units[name]}", ""
        if known := DATASETS.get(name):
            what = f"{known.quantity} {what} ({known.source})"
            published = "" if datasets.content_hash(data) == known.sha256 else " **Not the published set.**"
        notes.append(
            f"{name}: {len(data)} molecules, {what}. {found}; "
            f"test rows whose molecule is in train: {', '.join(leaks)}.{published}"
        )
    return notes


class Features:
    """Feature matrices of data sets by name, each part of them computed once and kept as a file.

    Parameters
    ----------
    plan
        Where checkpoints and tables lie.
    sets
        Name -> data set.
    folder
        Where matrices are kept.
    jobs
        Processes for classical features.
    """

    def __init__(self, plan: Plan, sets: Mapping[str, pd.DataFrame], folder: Path, jobs: int) -> None:
        self.plan, self.sets, self.folder, self.jobs = plan, sets, folder, jobs
        self.content = {name: datasets.content_hash(data) for name, data in sets.items()}
        used = {model for name in (*plan.features, *plan.predictors) for model in plan.models(name) if model}
        self.described = {model: checkpoint.describe(plan.folders[model]) for model in used}
        self.load = functools.cache(lambda model: Featurizer.from_pretrained(plan.folders[model]))

    def identity(self, dataset: str, model: str, features: str) -> str:
        """Twelve hexadecimal digits that change with all that features, or a predictor's fits, depend on.

        With the data set, the checkpoint, and the versions of what computes.
        """
        facts = [self.content[dataset]]
        ours = [self.described[model]["weights_sha256"], molcmim.__version__] if model else []
        for part in features.split("+"):
            if part in PREDICTORS:
                facts += [part, predictors.identity(part), *ours]
            elif of_spellings(part)[0] in EMBEDDINGS:
                facts += [part, *ours]
            elif part in smiles.FINGERPRINTS:
                facts += [part, importlib.metadata.version("rdkit")]
            else:
                facts.append(folders.sha256(self.plan.extra_files[part]))
        return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]

    def matrices(self, dataset: str, model: str, features: str) -> list[Float32[np.ndarray, "n _"]]:
        """One data set's features; `features` may be several joined by +."""
        return [self._part(dataset, model, part) for part in features.split("+")]

    def _part(self, dataset: str, model: str, part: str) -> Float32[np.ndarray, "n d"]:
        molecules = self.sets[dataset]["smiles"]
        if part in self.plan.extra_files:
            return read_extra(self.plan.extra_files[part], molecules)
        name, spellings = of_spellings(part)
        if name in ("mean", "informative"):  # the halves of "both", which costs no more than the second of them
            dim = self.described[model]["embedding_dims"]["mean"]
            both = self._part(dataset, model, part.replace(name, "both"))
            return both[:, :dim] if name == "mean" else both[:, dim:]
        path = self.folder / _filename(f"{dataset}-{part}-{self.identity(dataset, model, part)}.npy")
        if path.exists():
            return np.load(path)
        if name in EMBEDDINGS:
            X = self.load(model).featurize(molecules, name, spellings=spellings)
        else:
            chunks = (molecules.iloc[start : start + CHUNK].tolist() for start in range(0, len(molecules), CHUNK))
            jobs = self.jobs if len(molecules) > CHUNK else 1
            X = np.concatenate(Parallel(jobs)(delayed(smiles.fingerprints)(chunk, part) for chunk in chunks))
        with atomic_path(path) as partial, open(partial, "wb") as file:
            np.save(file, X)
        return X


def read_extra(path: Path, molecules: Iterable[str]) -> Float32[np.ndarray, "n d"]:
    """Read features that someone else computed, and put them in the order of `molecules`.

    Parameters
    ----------
    path
        .csv or .parquet with a column ``smiles``; every other column of numbers or booleans is a feature, any other is
        ignored. Molecules are recognised by their canonical SMILES; of several rows with one, the first counts.
    molecules
        SMILES, all of them in the table.

    Raises
    ------
    ValueError
        If molecules, numbers, or the column ``smiles`` are missing.
    """
    table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    if "smiles" not in table:
        raise ValueError(f"{path}: no column smiles; the columns present: {', '.join(map(str, table))}")
    numbers = table.select_dtypes(["number", "bool"])
    if numbers.empty or not np.isfinite(numbers.to_numpy(np.float64)).all():
        raise ValueError(f"{path}: {'fields are empty or infinite' if len(numbers.columns) else 'no numeric column'}")
    canonical, _ = smiles.canonicalize(table["smiles"])
    row_of = {text: row for row, text in reversed(list(enumerate(canonical)))}
    wanted, _ = smiles.canonicalize(molecules)
    if missing := [text for text in wanted if text not in row_of]:
        raise ValueError(f"{path}: {len(missing)} molecules of the data set are not in it, such as {missing[0]}")
    return numbers.to_numpy(np.float32)[[row_of[text] for text in wanted]]
