"""The benchmark of generation: a checkpoint, held-out molecules, its corpus -> one folder of figures and pictures.

The folder holds ``figures.csv``, ``figures.json`` and ``table.md`` (every figure with its standard error and number of
observations), pictures, and ``parts/``: what each part found. A part is done once: who runs again into the same folder
adds what is missing. A part is known by the checkpoint's weights, the molecules, and its settings.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import molcmim
from molcmim import checkpoint, files, generation, generation_plots, merit, smiles
from molcmim.atomic import atomic_path
from molcmim.data import TokenStore
from molcmim.decoding import parse_decoding
from molcmim.merit import Figure, Known
from molcmim.properties import properties
from molcmim.search import METHODS
from molcmim.space import Space
from molcmim.tokenizer import SPECIAL_TOKENS

FEWEST = 8
"""Held-out molecules that every part can be measured on: likelihood chooses by four, and then needs others."""
TARGET, MIN_SIMILARITY = 0.9, 0.4
"""The QED task of Jin et al. (arXiv 1812.01070): QED of 0.9 at a Tanimoto similarity of 0.4 to the seed."""


@dataclass(frozen=True)
class Sizes:
    """How much of everything is measured."""

    reconstructed: int = 1000
    """Held-out molecules that are encoded and decoded."""
    radii: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0)
    """Scaled radii that are drawn at."""
    seeds: int = 100
    """Held-out molecules that are drawn around."""
    draws: int = 10
    """Draws around each."""
    prior: int = 2000
    """Draws from the prior, and corpus molecules that they are compared with."""
    ways: int = 40
    """Pairs of held-out molecules that are interpolated between, by either kind of way."""
    steps: int = 11
    """Codes on a way."""
    likelihoods: int = 100
    """Held-out molecules whose likelihood is estimated."""
    samples: int = 64
    """Samples for each of them."""
    timed: int = 128
    """Codes that decoding is timed with."""
    turns: int = 3
    """How often."""
    qed_seeds: int = 0
    """Molecules of the QED task; 0: none of it."""
    qed_calls: int = 1000
    """Oracle calls for each."""
    qed_draws: int = 5
    """Codes that each method may decode for a call: half of the default, as decoding is what takes the time."""


QUICK = Sizes(100, (0.25, 0.5, 1.0, 2.0), 12, 5, 100, 4, 7, 10, 16, 24, 2)
"""Sizes that show in a minute whether everything works; their standard errors are large."""


class Bench:
    """Everything that a part may ask for, loaded when it does.

    Parameters
    ----------
    name
        Name or folder of the checkpoint.
    held_out
        File of molecules that it was not trained on.
    corpus
        The token store that it was trained on, or its files of canonical SMILES; none: nothing is compared with it.
    qed_seeds
        File of the QED task's molecules.
    sizes
        How much.
    folder
        Where results go.
    decoding
        How :data:`DECODED` parts choose a string, see :func:`molcmim.decoding.parse_decoding`.
    """

    def __init__(
        self,
        name: str | os.PathLike[str],
        held_out: str | os.PathLike[str],
        corpus: Sequence[str | os.PathLike[str]],
        qed_seeds: str | os.PathLike[str] | None,
        sizes: Sizes,
        folder: Path,
        decoding: str = "greedy",
    ) -> None:
        self.name, self.held_out_file, self.corpus_files, self.qed_file = name, held_out, corpus, qed_seeds
        self.sizes, self.folder, self.decoding = sizes, folder, decoding

    @cached_property
    def decoded_by(self) -> dict[str, Any]:
        """Arguments of the functions that generate."""
        return {"decoding": self.decoding, "checkpoint": self.space.featurizer}

    @cached_property
    def space(self) -> Space:
        """The checkpoint, on CPU or, if there is one, CUDA."""
        return Space(self.name)

    @cached_property
    def held_out(self) -> list[str]:
        """Held-out molecules that the model can read, canonical, each once, in an order drawn once."""
        rows = [molecule for chunk in files.read_chunks(self.held_out_file) for molecule in chunk.smiles]
        order = np.random.default_rng(0).permutation(len(rows))
        wanted = max(self.sizes.reconstructed, 2 * self.sizes.ways, self.sizes.seeds)
        canonical, _ = smiles.canonicalize([rows[i] for i in order[: 2 * wanted]])
        different = list(dict.fromkeys(molecule for molecule in canonical if molecule is not None))
        reasons = self.space.featurizer.reader().read(different).reasons
        found = [molecule for molecule, reason in zip(different, reasons, strict=True) if reason is None]
        if len(found) < FEWEST:
            raise ValueError(
                f"{self.held_out_file} holds {len(found)} different molecule(s) that the model can read; {FEWEST} are "
                "the least"
            )
        return found

    @cached_property
    def corpus(self) -> Known | None:
        """The corpus."""
        if not self.corpus_files:
            return None
        paths = map(Path, self.corpus_files)
        return Known(itertools.chain.from_iterable(corpus_chunks(p, self.space) for p in paths), self.sizes.prior)

    @cached_property
    def reference(self) -> Any:
        """Properties of corpus molecules; None without a corpus."""
        return properties(self.corpus.sample, merit.DISTRIBUTIONS) if self.corpus is not None else None


def corpus_chunks(path: Path, space: Space) -> Iterator[Sequence[str]]:
    """Canonical SMILES of a corpus, some thousand at a time.

    Parameters
    ----------
    path
        Token store, or a molecule file, see :func:`molcmim.files.read_chunks`.
    space
        Of the checkpoint, whose vocabulary the store must have.

    Raises
    ------
    ValueError
        For a store in another vocabulary or not in SMILES, or a file whose SMILES are not as RDKit writes them
        canonically (the first 1,000 are looked at).
    """
    if not path.is_dir():
        for chunk in files.read_chunks(path):
            if chunk.first_row == 0:
                some = chunk.smiles[:1000]
                canonical, _ = smiles.canonicalize(some)
                if differ := [a for a, b in zip(some, canonical, strict=True) if a != b]:
                    raise ValueError(
                        f"{path}: {len(differ)} of the first {len(some)} SMILES are not canonical, such as "
                        f"{differ[0]}; give the token store that `molcmim prepare` makes of it"
                    )
            yield chunk.smiles
        return
    store = TokenStore(path)
    if store.manifest.notation != "smiles" or store.manifest.vocab_hash != space.model.config.vocab_hash:
        raise ValueError(
            f"{path} is a store in {store.manifest.notation} of another vocabulary; give the corpus's files"
        )
    special = set(SPECIAL_TOKENS)
    spelled = {i: "" if token in special else token for token, i in space.tokenizer.get_vocab().items()}
    step = store.manifest.spellings
    for first in range(0, len(store), 10_000):
        rows = np.arange(first, min(first + 10_000, len(store))) * step
        bounds = zip(store.offsets[rows].tolist(), store.offsets[rows + 1].tolist(), strict=True)
        yield ["".join([spelled[i] for i in store.tokens[start:end].tolist()]) for start, end in bounds]


Part = Callable[[Bench], "tuple[list[Figure], Any]"]


def _reconstruction(bench: Bench) -> tuple[list[Figure], Any]:
    molecules = bench.held_out[: bench.sizes.reconstructed]
    return list(merit.reconstruction(generation.reconstruct(molecules, **bench.decoded_by))), None


def _radius(bench: Bench) -> tuple[list[Figure], Any]:
    figures: list[Figure] = []
    for radius in bench.sizes.radii:
        seeds = bench.held_out[: bench.sizes.seeds]
        frame = generation.sample(seeds, bench.sizes.draws, radius, **bench.decoded_by)
        figures += merit.around_seeds(frame, radius, bench.corpus)
    return figures, None


def _prior(bench: Bench) -> tuple[list[Figure], Any]:
    frame = generation.sample(None, bench.sizes.prior, **bench.decoded_by)
    figures, values = merit.of_prior(frame, bench.reference, bench.corpus)
    sets = {"prior": values.tolist()}
    if bench.reference is not None:
        sets["corpus"] = bench.reference.tolist()
    return figures, sets


def _interpolation(bench: Bench) -> tuple[list[Figure], Any]:
    figures: list[Figure] = []
    drawn = {}
    ends = bench.held_out[: 2 * bench.sizes.ways]
    for path in generation.PATHS:
        frames = [
            generation.interpolate(a, b, bench.sizes.steps, path=path, **bench.decoded_by)
            for a, b in zip(ends[::2], ends[1::2], strict=False)
        ]
        figures += merit.interpolation(frames, path)
        whole = pd.concat(frames)[["position", "similarity_a", "similarity_b", "valid"]]
        drawn[path] = whole.to_dict("list")
    return figures, drawn


def _likelihood(bench: Bench) -> tuple[list[Figure], Any]:
    n = bench.sizes.likelihoods
    tuning = min(max(4, n // 5), len(bench.held_out) // 2)
    molecules = bench.held_out[: n + tuning]
    return list(merit.likelihood(bench.space, molecules, bench.sizes.samples, np.random.default_rng(0), tuning)), None


def _throughput(bench: Bench) -> tuple[list[Figure], Any]:
    codes = bench.space.encode(bench.held_out[: bench.sizes.timed]).mu
    ways = {
        "cached": lambda: bench.space.decode(codes, "greedy", np.random.default_rng(0)),
        "uncached": lambda: merit.plain_greedy(bench.space, codes),
    }
    return list(merit.throughput(ways, len(codes), bench.sizes.turns, time.perf_counter)), None


PARTS: dict[str, Part] = {
    "reconstruction": _reconstruction,
    "radius": _radius,
    "prior": _prior,
    "interpolation": _interpolation,
    "likelihood": _likelihood,
    "throughput": _throughput,
}
"""Name -> what is measured, and what its picture needs."""
SEES = {
    "reconstruction": ("reconstructed",),
    "radius": ("radii", "seeds", "draws"),
    "prior": ("prior",),
    "interpolation": ("ways", "steps"),
    "likelihood": ("likelihoods", "samples"),
    "throughput": ("timed", "turns"),
}
"""Name -> the fields of :class:`Sizes` that it depends on."""
CORPUS = {"radius", "prior"}
"""Parts that look at the corpus."""
DECODED = {"reconstruction", "radius", "prior", "interpolation"}
"""Parts whose figures are of decoded strings. The others, like the QED task, decode greedily if at all."""


def run(
    name: str | os.PathLike[str],
    held_out: str | os.PathLike[str],
    output: str | os.PathLike[str],
    corpus: Sequence[str | os.PathLike[str]] = (),
    qed_seeds: str | os.PathLike[str] | None = None,
    sizes: Sizes | None = None,
    say: Callable[[str], None] = print,
    *,
    parts: Sequence[str] | None = None,
    decoding: str = "greedy",
) -> pd.DataFrame:
    """Measure what is missing, then write figures, table and pictures of all parts.

    Parameters
    ----------
    name
        Name or folder of the checkpoint.
    held_out
        Molecule file that it was not trained on.
    output
        Folder; created.
    corpus
        Token store it was trained on, or its files of canonical SMILES. Without, nothing is said of novelty and
        distances.
    qed_seeds
        Molecule file of the QED task, whose first `sizes.qed_seeds` are used.
    sizes
        How much of everything; default :class:`Sizes`.
    say
        Called with a line when a part is done.
    parts
        What to measure, names in :data:`PARTS`, and ``qed``; default all, and the QED task if `sizes` has seeds for it.
        Other parts that an earlier call has measured, with the same settings, are in the table, too.
    decoding
        See :class:`Bench`.

    Returns
    -------
    DataFrame
        What ``figures.csv`` holds: the fields of :class:`molcmim.merit.Figure`.

    Raises
    ------
    OSError, ValueError
        For files that cannot be read or lack molecules, or a checkpoint that is not there.
    """
    sizes = sizes or Sizes()
    parse_decoding(decoding)
    known = [*PARTS, "qed"]
    parts = known[: None if sizes.qed_seeds else -1] if parts is None else parts
    if unknown := set(parts) - set(known):
        raise ValueError(f"parts must be among {', '.join(known)}, got {', '.join(sorted(unknown))}")
    if "qed" in parts and (qed_seeds is None or not sizes.qed_seeds):
        raise ValueError("the QED task needs a file of seeds")
    folder = Path(output)
    (folder / "parts").mkdir(parents=True, exist_ok=True)
    weights = checkpoint.read_record(checkpoint.resolve(name))["weights_sha256"]
    bench = Bench(name, held_out, corpus, qed_seeds, sizes, folder, decoding)
    stamps = [_stamp(path) for path in corpus]
    figures: list[Figure] = []
    for part, measure in PARTS.items():
        facts = [molcmim.__version__, weights, _stamp(held_out), *(str(getattr(sizes, field)) for field in SEES[part])]
        facts += stamps if part in CORPUS else []
        facts += [decoding] if part in DECODED else []
        path = folder / "parts" / f"{part}-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]}.json"
        if not path.exists() and part not in parts:
            continue
        if not path.exists():
            started = time.perf_counter()
            found, drawn = measure(bench)
            record = {"seconds": time.perf_counter() - started, "figures": found, "drawn": drawn}
            with atomic_path(path) as partial:
                partial.write_text(json.dumps(record), encoding="utf-8")
            say(f"{part}: {record['seconds']:,.0f} s")
        record = json.loads(path.read_text(encoding="utf-8"))
        figures += [Figure(*row) for row in record["figures"]]
        _draw(part, pd.DataFrame(figures), record["drawn"], folder)
    if "qed" in parts:
        figures += _qed(bench, weights, say)
    return _write(figures, folder, bench)


def _stamp(path: str | os.PathLike[str]) -> str:
    """Tell a file or a store from another: where it lies, how large it is, when it was written."""
    path = Path(path)
    file = path / "manifest.json" if path.is_dir() else path
    if not file.exists():
        raise FileNotFoundError(f"{path}: no such file or token store")
    return f"{path.resolve()} {file.stat().st_size} {file.stat().st_mtime_ns}"


def _qed(bench: Bench, weights: str, say: Callable[[str], None]) -> list[Figure]:
    """Run the QED task by every method; a killed run goes on, see :func:`molcmim.optimization.optimize`."""
    rows = [molecule for chunk in files.read_chunks(str(bench.qed_file)) for molecule in chunk.smiles]
    rows, calls = rows[: bench.sizes.qed_seeds], bench.sizes.qed_calls
    draws = bench.sizes.qed_draws * calls
    if len(rows) < bench.sizes.qed_seeds:
        raise ValueError(
            f"{bench.qed_file} holds {len(rows)} molecules, fewer than the {bench.sizes.qed_seeds} asked for"
        )
    which = hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:12]
    figures: list[Figure] = []
    done: dict[str, pd.DataFrame] = {}
    for method in METHODS:
        started = time.perf_counter()
        done[method] = generation.optimize(
            rows, "qed", calls=calls, min_similarity=MIN_SIMILARITY, target=TARGET, method=method,
            max_draws=draws, checkpoint=bench.space.featurizer,
            log=bench.folder / "parts" / f"qed-{method}-{which}-{calls}-{draws}-{weights[:12]}.parquet",
        )  # fmt: skip
        figures += merit.success(done[method], method, calls, TARGET)
        if method != "cma":
            figures.append(merit.advantage(done["cma"], done[method], method, TARGET))
        say(f"qed, {method}: {time.perf_counter() - started:,.0f} s")
        generation_plots.successes(done, TARGET, calls, bench.folder / "qed.png")
    return figures


def _draw(part: str, figures: pd.DataFrame, drawn: Any, folder: Path) -> None:
    if part == "radius":
        generation_plots.similarity(figures[figures["part"] == "radius"], folder / "similarity.png")
    elif part == "prior":
        generation_plots.distributions(drawn, merit.DISTRIBUTIONS, folder / "prior.png")
    elif part == "interpolation":
        frames = {path: pd.DataFrame(columns) for path, columns in drawn.items()}
        generation_plots.interpolation(frames, folder / "interpolation.png")


def _write(figures: list[Figure], folder: Path, bench: Bench) -> pd.DataFrame:
    table = pd.DataFrame(figures)
    with atomic_path(folder / "figures.csv") as path:
        table.to_csv(path, index=False)
    facts = {
        "checkpoint": Path(bench.name).name,
        "molcmim": molcmim.__version__,
        "held_out": Path(bench.held_out_file).name,
        "corpus": [Path(path).name for path in bench.corpus_files],
        "decoding": bench.decoding,
        "sizes": dataclasses.asdict(bench.sizes),
        "figures": [
            {name: None if value != value else value for name, value in figure._asdict().items()}  # JSON has no NaN
            for figure in figures
        ],
    }
    with atomic_path(folder / "figures.json") as path:
        path.write_text(json.dumps(facts, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    with atomic_path(folder / "table.md") as path:
        path.write_text(markdown(figures), encoding="utf-8")
    return table


def markdown(figures: Sequence[Figure]) -> str:
    """Set figures as a Markdown table, a row each."""
    lines = ["| what | setting | figure | value ± standard error | n |", "| --- | --- | --- | --- | --- |"]
    for part, setting, name, value, se, n in figures:
        digits = 0 if math.isnan(value) or value == 0 else max(0, min(4, 3 - math.floor(math.log10(abs(value)))))
        error = "" if math.isnan(se) else f" ± {se:,.{digits}f}"
        lines.append(f"| {part} | {setting} | {name} | {value:,.{digits}f}{error} | {n:,} |")
    return "\n".join(lines) + "\n"
