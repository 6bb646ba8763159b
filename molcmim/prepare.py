"""Molecule files -> token store, streamed through worker processes. Makes no batches.

Every row is parsed, canonicalised, spelled at random `spellings` times, encoded and, if asked, described.
Chunks of rows are worked on in parallel and written in order, each with its own random stream, so that the
result does not depend on the number of workers, nor the memory on the size of the input.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from molcmim import files, folders, smiles
from molcmim.atomic import open_to_others
from molcmim.data import DESCRIPTORS, MANIFEST, OFFSETS, TOKENIZER, TOKENS, StoreManifest
from molcmim.embedding_files import NpyFile
from molcmim.tokenizer import (
    Codec,
    build_selfies_tokenizer,
    build_smiles_tokenizer,
    load_tokenizer,
    notation_of,
    smiles_to_selfies,
    vocab_hash,
)
from molcmim.workers import ordered_map

REJECTS = "rejects.csv"
CHUNK_ROWS = 2_000


class StoreRecipe(NamedTuple):
    """How a row becomes part of a store; the settings that shape the result."""

    spellings: int = 0
    """Random spellings stored beside the canonical one."""
    descriptors: bool = False
    """Whether `smiles.DESCRIPTOR_NAMES` are computed."""
    join_share: float = 0.0
    """Joined pairs per molecule: two molecules of one chunk, a dot between them, handled as one molecule."""
    max_length: int = 256
    """Longest encoding, `<s>` and `</s>` included; a longer random spelling gives way to the canonical."""
    standardize: bool = False
    """Whether `smiles.standardize` comes first."""
    seed: int = 0
    """Seed of spellings and pairs."""


class Chunk(NamedTuple):
    """What one chunk of rows adds to a store."""

    tokens: np.ndarray
    """Token ids, flat."""
    lengths: np.ndarray
    """int64 (n * (1 + spellings),)."""
    descriptors: np.ndarray
    """float32 (n, p)."""
    joined: int
    """How many of the n molecules are joined pairs (the last ones)."""
    rejects: list[tuple[int, Any, str]]
    """(row in the chunk, what was there, reason)."""


def prepare(
    inputs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    tokenizer: str | os.PathLike[str] = "smiles",
    recipe: StoreRecipe = StoreRecipe(),  # noqa: B008 - immutable
    column: str | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> StoreManifest:
    """Prepare a token store.

    Parameters
    ----------
    inputs
        Molecule files, as `molcmim.files` reads them.
    output
        Folder to create. It appears, complete, at the end: a killed preparation leaves only a hidden
        `.<name>.partial-*` beside it.
    tokenizer
        Name or path; its notation is the store's.
    recipe
        What is done with each row.
    column
        Name of the SMILES column, where the files have columns.
    workers
        Processes; default: the CPUs that this process may use.
    progress
        Whether to show a progress bar.

    Returns
    -------
    StoreManifest

    Raises
    ------
    FileExistsError
        If `output` exists.
    ValueError
        If no row of the input is a molecule, or the recipe is out of range.
    """
    output = Path(output)
    if output.exists():
        raise FileExistsError(f"{output} exists; remove it or name another folder")
    if not 0 <= recipe.join_share <= 1 or recipe.spellings < 0 or recipe.max_length < 3:
        raise ValueError(f"join_share must be in [0, 1], spellings >= 0 and max_length >= 3, got {recipe}")
    loaded = load_tokenizer(tokenizer)
    codec, notation = Codec.of(loaded), notation_of(loaded)
    work = functools.partial(_work, codec, notation, recipe)
    names = list(smiles.DESCRIPTOR_NAMES) if recipe.descriptors else []
    bar = tqdm(total=_count(inputs), unit=" molecules", unit_scale=True, disable=None if progress else True)
    tasks = _tasks(inputs, column)
    with bar, _folder(output) as folder, open(folder / REJECTS, "w", newline="", encoding="utf-8") as rejects:
        log = csv.writer(rejects)
        log.writerow(["file", "row", "text", "reason"])
        tokens = open(folder / TOKENS, "wb")  # noqa: SIM115 - entered below
        offsets = NpyFile(folder / OFFSETS, np.int64, ())
        values = NpyFile(folder / DESCRIPTORS, np.float32, (len(names),)) if names else contextlib.nullcontext()
        moments = _Moments(len(names))
        num_tokens = max_tokens = joined = rejected = 0
        reason = "none"
        with tokens, offsets, values:
            offsets.append(np.zeros(1, np.int64))
            for task, chunk in ordered_map(work, tasks, 0 if workers == 1 else workers):
                tokens.write(chunk.tokens.data)  # tofile hides why a disk takes no more
                offsets.append(num_tokens + np.cumsum(chunk.lengths))
                if isinstance(values, NpyFile):
                    values.append(chunk.descriptors)
                    moments.add(chunk.descriptors)
                for row, text, reason in chunk.rejects:
                    log.writerow([task.file, task.first_row + row + 1, text, reason])
                num_tokens += len(chunk.tokens)
                max_tokens = max(max_tokens, int(chunk.lengths.max(initial=0)))
                joined += chunk.joined
                rejected += len(chunk.rejects)
                bar.update(len(task.rows))
        manifest = StoreManifest(
            notation=notation,
            tokenizer=Path(tokenizer).name,
            vocab_hash=vocab_hash(loaded),
            num_molecules=(offsets.rows - 1) // (1 + recipe.spellings),
            spellings=1 + recipe.spellings,
            num_tokens=num_tokens,
            max_tokens=max_tokens,
            dtype=codec.dtype.name,
            joined=joined,
            rejected=rejected,
            descriptor_names=names,
            descriptor_mean=moments.mean.tolist(),
            descriptor_std=moments.std.tolist(),
            sources=[
                {"file": Path(path).name, "sha256": folders.sha256(path) if Path(path).is_file() else ""}
                for path in inputs  # what is piped can be read once only
            ],
            settings={**recipe._asdict(), "column": column, "chunk_rows": CHUNK_ROWS},
        )
        if not manifest.num_molecules:
            raise ValueError(f"no molecule in {', '.join(map(str, inputs))}; the last reject: {reason}")
        loaded.save_pretrained(folder / TOKENIZER)
        (folder / MANIFEST).write_text(manifest.dump())
    return manifest


def build_tokenizer(
    inputs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    notation: str = "smiles",
    min_count: int = 5,
    limit: int | None = None,
    column: str | None = None,
) -> int:
    """Build a tokenizer from molecule files, save it as the folder `output`, and return its number of tokens.

    `limit` is the number of molecules read (SELFIES: about 5,000 a second). Molecules that have no SELFIES
    are passed over.
    """
    if Path(output).is_file():
        raise FileExistsError(f"{output} is a file; name a folder")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    rows = (row for task in _tasks(inputs, column) for row in task.rows if isinstance(row, str))
    strings = itertools.islice(rows, limit)
    if notation == "smiles":
        tokenizer = build_smiles_tokenizer(strings, min_count)
    elif notation == "selfies":
        tokenizer = build_selfies_tokenizer(_selfies(strings), min_count)
    else:
        raise ValueError(f"notation must be 'smiles' or 'selfies', got {notation!r}")
    tokenizer.save_pretrained(output)
    return len(tokenizer)


def _selfies(strings: Iterable[str]) -> Iterator[str]:
    for string in strings:
        with contextlib.suppress(ValueError):
            yield smiles_to_selfies(string)


class _Task(NamedTuple):
    number: int
    file: str
    first_row: int
    rows: list[Any]


def _tasks(inputs: Sequence[str | os.PathLike[str]], column: str | None) -> Iterator[_Task]:
    """Cut each input into chunks of CHUNK_ROWS, whatever chunks its format is read in."""
    number = 0
    for path in inputs:
        rows = itertools.chain.from_iterable(chunk.smiles for chunk in files.read_chunks(path, column))
        first = 0
        while chunk := list(itertools.islice(rows, CHUNK_ROWS)):
            yield _Task(number, os.fspath(path), first, chunk)
            number, first = number + 1, first + len(chunk)


def _count(inputs: Sequence[str | os.PathLike[str]]) -> int | None:
    counts = [files.count_rows(path) for path in inputs]
    return None if None in counts else sum(filter(None, counts))


def _work(codec: Codec, notation: str, recipe: StoreRecipe, task: _Task) -> Chunk:
    """Turn one chunk of rows into its part of the store."""
    random = np.random.default_rng([recipe.seed, task.number])
    kept: list[_Molecule] = []
    rejects: list[tuple[int, Any, str]] = []

    def add(row: int, text: Any, seed: int) -> None:
        try:
            kept.append(_molecule(text, notation, recipe, codec, seed))
        except ValueError as error:
            rejects.append((row, text, str(error)))

    seeds = random.integers(0, 2**31 - 2, size=2 * len(task.rows)).tolist()
    for row, text in enumerate(task.rows):
        add(row, text, seeds[row])
    single, bad = len(kept), len(rejects)
    if single > 1 and recipe.join_share:
        pairs = int(recipe.join_share * single + random.random())
        left = random.choice(single, size=pairs, replace=False)
        right = (left + random.integers(1, single, size=pairs)) % single
        for pair, (a, b) in enumerate(zip(left, right, strict=True)):
            add(pair, f"{kept[a].smiles}.{kept[b].smiles}", seeds[len(task.rows) + pair])
    tokens, offsets = codec.encode([string for molecule in kept for string in molecule.strings])
    p = len(smiles.DESCRIPTOR_NAMES) if recipe.descriptors else 0
    described = np.array([molecule.descriptors for molecule in kept], np.float32).reshape(len(kept), p)
    return Chunk(tokens, np.diff(offsets), described, len(kept) - single, rejects[:bad])


class _Molecule(NamedTuple):
    smiles: str
    strings: list[str]
    descriptors: np.ndarray


def _molecule(text: Any, notation: str, recipe: StoreRecipe, codec: Codec, seed: int) -> _Molecule:
    mol = smiles.parse(text)
    if recipe.standardize:
        mol = smiles.standardize(mol)
    canonical = smiles.to_smiles(mol)
    strings = [canonical, *(smiles.random_spellings(mol, recipe.spellings, seed) if recipe.spellings else [])]
    if notation == "selfies":
        strings = [smiles_to_selfies(string) for string in strings]
    lengths = [codec.count(string) for string in strings]
    if lengths[0] > recipe.max_length:
        raise ValueError(f"{lengths[0]} tokens, more than the {recipe.max_length} that max_length allows")
    strings = [s if n <= recipe.max_length else strings[0] for s, n in zip(strings, lengths, strict=True)]
    values = smiles.descriptors(mol) if recipe.descriptors else np.zeros(0, np.float32)
    return _Molecule(canonical, strings, values)


@contextlib.contextmanager
def _folder(output: Path) -> Iterator[Path]:
    """Lend a folder beside `output` that becomes `output` if nothing is raised, and goes away otherwise."""
    output.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.partial-", dir=output.parent))
    try:
        yield folder
        open_to_others(folder)
        os.rename(folder, output)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


class _Moments:
    """Running mean and variance of columns (Chan, Golub & LeVeque 1979)."""

    def __init__(self, columns: int) -> None:
        self.n, self.mean, self.square = 0, np.zeros(columns), np.zeros(columns)

    def add(self, rows: np.ndarray) -> None:
        if not len(rows):
            return
        rows = rows.astype(np.float64)
        n, mean = len(rows), rows.mean(0)
        delta, total = mean - self.mean, self.n + n
        self.mean += delta * n / total
        self.square += ((rows - mean) ** 2).sum(0) + delta**2 * self.n * n / total
        self.n = total

    @property
    def std(self) -> np.ndarray:
        """Standard deviation of each column; 1 where it is constant."""
        std = np.sqrt(self.square / max(self.n, 1))
        return np.where(std > 0, std, 1.0)
