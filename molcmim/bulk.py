"""A file of molecules -> a file of numbers for each, of any size: streamed, and resumed where a killed run stopped.

Rows are read in chunks. Worker processes judge and encode them ahead of the model; each chunk, with its embeddings or
predictions, becomes a shard in the folder `.<output>.partial` beside the output. When all are there they are merged
into the output, and the folder goes. A chunk's numbers depend on the chunk alone, so a resumed run ends with the same
bytes.
"""

from __future__ import annotations

import contextlib
import glob
import importlib.metadata
import json
import os
import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import filelock
import joblib
import numpy as np
import pyarrow as pa
from jaxtyping import Float32
from tqdm import tqdm

from molcmim import checkpoint, files, folders, tuned
from molcmim.atomic import atomic_path
from molcmim.embedding_files import OUTPUT_SUFFIXES, embedding_writer, read_metadata
from molcmim.featurizer import Featurizer
from molcmim.spelling import Spelled
from molcmim.workers import ordered_map

MANIFEST, SPOOL, LOCK, ERROR = "manifest.json", "input", "lock", "error"


class Summary(NamedTuple):
    """What became of a file."""

    rows: int
    """Rows of the input, and of the output."""
    bad: int
    """How many of them could not be read."""
    found: bool = False
    """Whether the output was there already, written by the same call."""

    def __str__(self) -> str:
        """Say it in a line."""
        already = " (was there already)" * self.found
        return f"{self.rows:,} rows, {self.bad:,} of them bad{already}{' (reasons are in the output)' * bool(self.bad)}"


class Work(NamedTuple):
    """What is done to the rows of a file."""

    read: Callable[[list[Any]], Any]
    """Molecules -> what `compute` takes, whose `reasons` say why a row is bad, None for a good one. Picklable."""
    compute: Callable[[Any], tuple[np.ndarray, Mapping[str, Any]]]
    """What `read` returns -> (rows, width), NaN for a bad row, and what stands in the columns of `words`."""
    width: int
    """Numbers a row."""
    columns: Sequence[str] | None
    """Their names; None: an embedding."""
    on_cpu: bool
    """Whether `compute` runs on the CPU."""
    settings: Mapping[str, Any]
    """What the numbers depend on beside the input; kept with the output."""
    words: Mapping[str, pa.DataType] = MappingProxyType({})
    """Names and types of columns that come before the numbers."""


def featurize_file(
    input: str | os.PathLike[str],
    output: str | os.PathLike[str],
    name_or_path: str | os.PathLike[str] = "molcmim-small",
    embedding: str = "mean",
    *,
    column: str | None = None,
    format: str | None = None,
    canonicalize: bool = True,
    standardize: bool = False,
    spellings: int = 1,
    chunk_rows: int = 10_000,
    workers: int | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    precision: str = "float32",
    restart: bool = False,
    progress: bool = True,
) -> Summary:
    """Embed every row of a file; rows stay in order, and all other columns are kept.

    A row that cannot be embedded stays, with NaN for an embedding and the reason in the column `error` (for .npy,
    which has no columns: in the metadata). :func:`molcmim.embedding_files.embedding_writer` says what the output looks
    like; its metadata name the input, the checkpoint, the settings, and the versions of what computed it.

    Parameters
    ----------
    input, column, format
        See :func:`molcmim.files.read_chunks`. Standard input is first copied to disk.
    output
        .parquet, .csv, .tsv or .npy.
    name_or_path, embedding, canonicalize, standardize, spellings, batch_size, device, precision
        See :class:`molcmim.Featurizer`.
    chunk_rows
        Rows that are worked on, and lost by a kill, at a time.
    workers
        Processes that read ahead of the model; 0: none. Default: one beside a model on the CPU, whose threads it
        would only get in the way of, and one per CPU beside a GPU.
    restart
        Begin anew, whatever an earlier run left.
    progress
        Show a progress bar, if standard error is a terminal.

    Raises
    ------
    FileExistsError
        If `output` exists (unless `restart`) and is not what this call has written already; then nothing is done.
    ValueError
        If an earlier, unfinished run for this output had another input or other settings; if the input cannot be
        read or has columns that the output adds.
    """
    featurizer = Featurizer.from_pretrained(name_or_path, device, precision)
    record = checkpoint.read_record(checkpoint.resolve(name_or_path))
    settings = {
        "checkpoint": Path(name_or_path).name,
        **_identity(record),
        "embedding": embedding,
        "dim": featurizer.dim(embedding),
        "precision": precision,
        "canonicalize": canonicalize,
        "standardize": standardize,
        "spellings": spellings,
    }
    work = Work(
        featurizer.read_with(canonicalize, standardize, spellings),
        lambda encoded: (featurizer.embed_encoded(encoded, embedding, batch_size), {}),
        featurizer.dim(embedding),
        checkpoint.descriptor_columns(name_or_path) if embedding == "descriptors" else None,
        featurizer.model.device.type == "cpu",
        settings,
    )
    return work_through(
        input, output, work, column=column, format=format, chunk_rows=chunk_rows, workers=workers, restart=restart,
        progress=progress,
    )  # fmt: skip


def predict_file(
    input: str | os.PathLike[str],
    output: str | os.PathLike[str],
    model: str | os.PathLike[str],
    *,
    column: str | None = None,
    format: str | None = None,
    chunk_rows: int = 2_000,
    workers: int | None = None,
    device: str | None = None,
    interval: float | None = None,
    restart: bool = False,
    progress: bool = True,
) -> Summary:
    """Predict every row of a file with a fine-tuned model; otherwise as :func:`featurize_file`.

    Parameters
    ----------
    model
        Folder that ``molcmim finetune`` or an estimator's `save` wrote. The output's columns are its
        :attr:`molcmim.tuned.PropertyModel.columns`, ``train_similarity`` and ``nearest_train``; of classes also the
        most probable labels.
    interval
        Share of the truth that intervals are to hold: their ends are two more columns a target, see
        :meth:`molcmim.tuned.PropertyModel.interval`.
    input, output, column, format, chunk_rows, workers, device, restart, progress
        As for :func:`featurize_file`, which also says what is raised.
    """
    loaded = tuned.PropertyModel.load(model, device)
    ends = [] if interval is None else tuned.interval_columns(loaded.task.targets)
    if interval is not None:
        loaded.interval(np.zeros((0, len(loaded.columns))), interval)  # refuses what it cannot give
    columns = [*loaded.columns, *ends, tuned.SIMILARITY]
    settings = {
        "model": Path(model).name,
        **_identity(tuned.read_record(Path(model))),
        "record_sha256": folders.sha256(Path(model) / tuned.RECORD),
        "columns": columns,
        "interval": interval,
    }

    labels = tuned.label_columns(loaded.task.kind, loaded.task.targets)
    words = dict.fromkeys(labels, pa.array(loaded.task.classes or [0, 1]).type) | {tuned.NEAREST: pa.string()}

    def compute(spelled: Spelled) -> tuple[Float32[np.ndarray, "n _"], dict[str, Any]]:
        outputs = loaded.outputs(spelled)
        bounds = [] if interval is None else [*loaded.interval(outputs, interval)]
        near, nearest = loaded.nearest_train(spelled)
        said = dict(zip(words, [*loaded.task.labels(outputs).T, nearest], strict=True))
        return np.column_stack([outputs, *bounds, near]).astype(np.float32), said

    work = Work(
        loaded.speller().read,
        compute,
        len(columns),
        columns,
        next(loaded.networks[0].parameters()).device.type == "cpu",
        settings,
        words,
    )
    return work_through(
        input, output, work, column=column, format=format, chunk_rows=chunk_rows, workers=workers, restart=restart,
        progress=progress,
    )  # fmt: skip


def work_through(
    input: str | os.PathLike[str],
    output: str | os.PathLike[str],
    work: Work,
    *,
    column: str | None,
    format: str | None,
    chunk_rows: int,
    workers: int | None,
    restart: bool,
    progress: bool,
) -> Summary:
    """Do the work to every row of a file, chunk by chunk; see :func:`featurize_file` for the rest."""
    output = Path(output)
    if output.suffix.lower() not in OUTPUT_SUFFIXES:
        raise ValueError(f"{output}: unknown suffix; the output may be {', '.join(OUTPUT_SUFFIXES)}")
    if output.exists() and Path(input).exists() and output.samefile(input):
        raise ValueError(f"{output} is the input; name another file")
    if output.is_dir() or (output.exists() and not restart and not read_metadata(output)):
        raise FileExistsError(f"{output} exists; remove it, name another file, or replace it by --restart")
    if not output.parent.is_dir():
        raise FileNotFoundError(f"no folder {output.parent} to write {output.name} in")
    if workers is None:
        workers = 1 if work.on_cpu else joblib.cpu_count()
    with _shard_folder(output, restart) as folder:
        source = Path(input)
        if os.fspath(input) == "-" or source.is_fifo():  # what can be read once only
            format = format or files.format_of(input)
            with contextlib.ExitStack() as stack:
                stdin = os.fspath(input) == "-"
                stream: Any = sys.stdin.buffer if stdin else stack.enter_context(open(source, "rb"))
                source = folder / (SPOOL + "".join(Path(input).suffixes[-2:]))  # .gz is known by it
                with atomic_path(source) as path, open(path, "wb") as file:
                    shutil.copyfileobj(stream, file)
        settings = {
            "input": Path(input).name,
            "input_sha256": folders.sha256(source),
            "column": column,
            "format": format,
            "chunk_rows": chunk_rows,
            **work.settings,
        }
        if output.exists() and not restart:
            return _finished(output, settings)
        _agree(folder, settings)
        bar = tqdm(
            total=files.count_rows(source, format),
            initial=len(_shards_in(folder)) * chunk_rows,
            unit=" molecules",
            unit_scale=True,
            disable=None if progress else True,  # None: where there is no terminal
        )
        shards: list[Path] = []
        read_from: set[str] = set()
        waiting: deque[tuple[Path, pa.Table]] = deque()

        def to_do() -> Iterator[list[Any]]:
            for chunk in files.read_chunks(source, column, format, chunk_rows):
                table = files.with_own_error(chunk.table)
                read_from.add(chunk.column)
                if not shards:
                    _check_columns(table.schema, output, work)
                shards.append(folder / f"{len(shards):06d}.arrow")
                if not shards[-1].exists():
                    waiting.append((shards[-1], table))
                    yield chunk.smiles

        with bar:
            for _, judged in ordered_map(work.read, to_do(), workers):
                shard, table = waiting.popleft()
                X, said = work.compute(judged)
                words = {name: pa.array(said[name], kind) for name, kind in work.words.items()}
                _write_shard(shard, table, judged.reasons, words, X)
                bar.update(len(X))
        return _merge(shards, output, {**settings, "read_from": next(iter(read_from), column)}, work.columns)


@contextlib.contextmanager
def _shard_folder(output: Path, restart: bool) -> Iterator[Path]:
    """Lend the folder for the shards of `output`; it stays behind if something is raised while it has any."""
    folder = output.with_name(f".{output.name}.partial")
    folder.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:  # the lock ends with this process, however it ends
            stack.enter_context(filelock.FileLock(folder / LOCK).acquire(blocking=False))
        except filelock.Timeout:
            raise FileExistsError(
                f"another process is writing {output} now; wait for it, or name another file"
            ) from None
        for path in folder.iterdir() if restart else ():
            if path.name != LOCK:
                path.unlink()
        for name in (output.name, f"{output.name}.json"):
            for path in output.parent.glob(f".{glob.escape(name)}.partial-*"):  # of a run that was killed at its end
                path.unlink()
        try:
            yield folder
        except BaseException:
            if not _shards_in(folder):
                shutil.rmtree(folder)
            raise
        shutil.rmtree(folder)


def _shards_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.arrow"))


def _identity(record: Mapping[str, Any]) -> dict[str, Any]:
    """Tell one set of weights, and one environment, from another."""
    return {
        "weights_sha256": record["weights_sha256"],
        "vocab_hash": record["vocab_hash"],
        "versions": {**checkpoint.versions(), "rdkit": importlib.metadata.version("rdkit")},
    }


def _agree(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings down, or compare them with those of the run that is to be resumed."""
    manifest = folder / MANIFEST
    if not _shards_in(folder):
        with atomic_path(manifest) as path:
            path.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    before = json.loads(manifest.read_text(encoding="utf-8"))
    changed = [
        f"{name}: {before.get(name)!r}, now {settings.get(name)!r}"
        for name in before.keys() | settings.keys()
        if before.get(name) != settings.get(name)
    ]
    if changed:
        raise ValueError(
            f"{folder} holds an unfinished run that differs in {'; '.join(sorted(changed))}. Give the same "
            "again to resume it, or restart to begin anew"
        )


def _finished(output: Path, settings: Mapping[str, Any]) -> Summary:
    """Say what became of a file whose output is there already; FileExistsError if it is another's."""
    held = read_metadata(output)
    if differ := [name for name in settings if held.get(name) != settings[name]]:
        said = f"{output} exists, of another call ({', '.join(differ)} differ)"
        raise FileExistsError(f"{said}; name another file, or replace it by --restart")
    return Summary(held["rows"], held["bad_rows"], found=True)


def _check_columns(schema: pa.Schema, output: Path, work: Work) -> None:
    suffix, columns = output.suffix.lower(), schema.names
    embedding = ["embedding"] if suffix == ".parquet" else [f"e{i}" for i in range(work.width)]
    added = {ERROR, *work.words, *(work.columns or embedding)}
    taken = [] if suffix == ".npy" else sorted(added & set(columns))
    if taken:
        raise ValueError(f"the input has columns that the output adds: {', '.join(taken)}; rename them first")
    lists = [field.name for field in schema if pa.types.is_nested(field.type)]
    if lists and suffix in (".csv", ".tsv"):
        raise ValueError(f"{output}: {suffix} has no room for the input's lists, {', '.join(lists)}; write .parquet")


def _write_shard(
    shard: Path, table: pa.Table, reasons: list[str | None], words: Mapping[str, pa.Array], X: np.ndarray
) -> None:
    """Write a chunk's rows with more columns: reasons, words and, the last, embeddings."""
    table = table.append_column(ERROR, pa.array(reasons, pa.string()))
    for name, column in words.items():
        table = table.append_column(name, column)
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(X.reshape(-1)), X.shape[1])
    table = table.append_column("embedding", embedding)
    with (
        atomic_path(shard) as path,
        pa.OSFile(str(path), "wb") as file,
        pa.ipc.new_file(file, table.schema) as writer,
    ):
        writer.write_table(table)


def _read_shard(shard: Path) -> tuple[pa.Table, np.ndarray]:
    """Rows, with reasons and words, and embeddings."""
    with pa.memory_map(str(shard)) as file:
        table = pa.ipc.open_file(file).read_all()
    *rows, last = range(table.num_columns)
    flat = table.column(last).combine_chunks().flatten().to_numpy()
    return table.select(rows), flat.reshape(len(table), -1)


def _merge(shards: list[Path], output: Path, settings: Mapping[str, Any], columns: Sequence[str] | None) -> Summary:
    """Write the shards, in order, into one file; memory holds one at a time."""
    rows = 0
    errors: dict[int, str] = {}
    for shard in shards:
        table, _ = _read_shard(shard)
        reasons = table.column(ERROR)
        if reasons.null_count < len(reasons):
            errors |= {rows + i: reason for i, reason in enumerate(reasons.to_pylist()) if reason}
        rows += len(table)
    metadata = {**settings, "rows": rows, "bad_rows": len(errors)}
    if output.suffix.lower() == ".npy":
        metadata["errors"] = errors
    with embedding_writer(output, metadata, columns) as write:
        for shard in shards:
            write(*_read_shard(shard))
    return Summary(rows, len(errors))
