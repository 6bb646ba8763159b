"""Token store -> shuffled, padded batches. Knows ids, lengths and descriptors, but no molecules.

A store is a folder that `molcmim prepare` writes: `manifest.json`, `tokenizer/`, `tokens.bin` (every spelling's ids,
one after the other, `<s>` and `</s>` included), `offsets.npy` and, optionally, `descriptors.npy` (raw values).
Molecule i has `spellings` spellings, rows i * spellings to (i + 1) * spellings - 1; the first is canonical.

Shapes: b batch, t tokens, n molecules, p descriptors.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import torch

FORMAT_VERSION = 2
MANIFEST, TOKENS, OFFSETS, DESCRIPTORS = "manifest.json", "tokens.bin", "offsets.npy", "descriptors.npy"
TOKENIZER = "tokenizer"
MODES = ("canonical", "equivariant", "invariant")
PAD_ID = 0
PAD_MULTIPLE = 8
TOKENS_PER_BATCH = {"cpu": 4_096, "cuda": 262_144}
"""Tokens of a batch that is embedded, padding included: on a CPU as many as its caches like."""
CLIP = 10.0
"""Standardised descriptors are clipped to [-CLIP, CLIP]."""


class DescriptorScale(NamedTuple):
    """What raw descriptors are standardised by: the training store's statistics, for whatever is compared with it."""

    names: Sequence[str]
    """Of the p columns."""
    mean: Sequence[float]
    """(p,), in each descriptor's own unit."""
    std: Sequence[float]
    """(p,), 1 for a constant column."""


@dataclasses.dataclass(frozen=True)
class StoreManifest:
    """What a token store holds and how it was made (`manifest.json`).

    Parameters
    ----------
    notation
        "smiles" or "selfies".
    tokenizer, vocab_hash
        Name of the tokenizer, a copy of which is in the store, and `molcmim.tokenizer.vocab_hash` of it.
    num_molecules, spellings
        Molecules, joined ones included, and stored spellings of each (the canonical one and the random ones).
    num_tokens, max_tokens
        Tokens in all and in the longest spelling, `<s>` and `</s>` included.
    dtype
        NumPy name of the token type.
    joined, rejected
        Molecules made of two by a dot; rows of the input that are not in the store (see `rejects.csv`).
    descriptor_names, descriptor_mean, descriptor_std
        Columns of `descriptors.npy` and their statistics over this store; empty without descriptors. A
        constant column has standard deviation 1.
    sources
        File name and SHA-256 of each input.
    settings
        Arguments of the preparation that shape its result.
    """

    notation: str
    tokenizer: str
    vocab_hash: str
    num_molecules: int
    spellings: int
    num_tokens: int
    max_tokens: int
    dtype: str
    joined: int
    rejected: int
    descriptor_names: list[str]
    descriptor_mean: list[float]
    descriptor_std: list[float]
    sources: list[dict[str, str]]
    settings: dict[str, Any]
    format_version: int = FORMAT_VERSION

    @property
    def descriptor_scale(self) -> DescriptorScale:
        """Statistics of this store."""
        return DescriptorScale(self.descriptor_names, self.descriptor_mean, self.descriptor_std)

    @classmethod
    def load(cls, store: str | os.PathLike[str]) -> StoreManifest:
        """Read a store's manifest; FileNotFoundError or ValueError if it is none that this version reads."""
        path = Path(store) / MANIFEST
        if not path.is_file():
            raise FileNotFoundError(f"no token store at {store}: no {MANIFEST}; `molcmim prepare` makes one")
        try:
            entries = json.loads(path.read_text())
            found = entries.get("format_version")
            if found == FORMAT_VERSION:
                return cls(**entries)
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is damaged ({error}); prepare the store again") from None
        raise ValueError(f"{path} has store format {found}, not {FORMAT_VERSION}; prepare it again")

    def dump(self) -> str:
        """Return the JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"


class Tokens(NamedTuple):
    """Padded token ids of some spellings."""

    ids: np.ndarray
    """int64 (b, t), padded on the right with id 0."""
    lengths: np.ndarray
    """int64 (b,), `<s>` and `</s>` included."""


def gather(tokens: np.ndarray, offsets: np.ndarray, rows: np.ndarray, multiple: int = 1) -> Tokens:
    """Pad sequences that lie one after the other: row i is `tokens[offsets[i] : offsets[i + 1]]`."""
    rows = np.asarray(rows, dtype=np.int64)
    starts = offsets[rows]
    lengths = offsets[rows + 1] - starts
    width = -(-int(lengths.max(initial=1)) // multiple) * multiple
    position = np.arange(width)
    index = np.minimum(starts[:, None] + position, len(tokens) - 1)
    ids = tokens[index].astype(np.int64)
    ids[position >= lengths[:, None]] = PAD_ID
    return Tokens(ids, lengths)


def by_length(lengths: np.ndarray, budget: int) -> Iterator[np.ndarray]:
    """Yield batches of rows that, padded, have no more tokens than a budget, or one row; the longest come first.

    So what is too much for the memory shows at once.
    """
    order, done = np.argsort(-lengths, kind="stable"), 0
    while done < len(order):
        rows = order[done : done + max(1, budget // int(lengths[order[done]]))]
        yield rows
        done += len(rows)


class TokenStore:
    """A prepared corpus on disk, memory-mapped; cheap to open, to pickle and to share between processes.

    Parameters
    ----------
    path
        Folder that `molcmim prepare` wrote.

    Raises
    ------
    FileNotFoundError
        If there is no store.
    ValueError
        If a file of the store has another size than the manifest says.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.manifest = StoreManifest.load(path)
        m = self.manifest
        rows = m.num_molecules * m.spellings
        self.offsets = np.load(self.path / OFFSETS, mmap_mode="r")
        self.tokens = np.memmap(self.path / TOKENS, dtype=m.dtype, mode="r")
        self.raw_descriptors = np.load(self.path / DESCRIPTORS, mmap_mode="r") if m.descriptor_names else None
        for name, found, said in (
            (OFFSETS, self.offsets.shape, (rows + 1,)),
            (TOKENS, self.tokens.shape, (m.num_tokens,)),
            (DESCRIPTORS, getattr(self.raw_descriptors, "shape", None),
             (m.num_molecules, len(m.descriptor_names)) if m.descriptor_names else None),
        ):  # fmt: skip
            if found != said:
                raise ValueError(f"{self.path / name} has shape {found}, its manifest says {said}; prepare again")

    def __len__(self) -> int:
        """Molecules, not spellings."""
        return self.manifest.num_molecules

    def __repr__(self) -> str:
        m = self.manifest
        return (
            f"TokenStore({str(self.path)!r}: {len(self):,} molecules x {m.spellings} spellings, "
            f"{m.notation}, {m.num_tokens:,} tokens, longest {m.max_tokens}, "
            f"{len(m.descriptor_names)} descriptors)"
        )

    def __reduce__(self) -> tuple[type[TokenStore], tuple[Path]]:
        return TokenStore, (self.path,)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of every spelling, int32 (n * spellings,)."""
        return np.diff(self.offsets).astype(np.int32)

    def gather(self, rows: np.ndarray, multiple: int = 1) -> Tokens:
        """Read spellings.

        Parameters
        ----------
        rows : ndarray of int, shape (b,)
            Rows of the store: molecule * spellings + spelling.
        multiple
            The padded length is rounded up to a multiple of this.
        """
        return gather(self.tokens, self.offsets, rows, multiple)

    def descriptors(self, molecules: np.ndarray, scale: DescriptorScale | None = None) -> np.ndarray:
        """Read descriptors, standardised and clipped to [-10, 10].

        Parameters
        ----------
        molecules : ndarray of int, shape (b,)
            Molecules (not rows).
        scale
            Which of them, and what they are standardised by: the training store's. Default: this store's, all.

        Returns
        -------
        ndarray of float32, shape (b, p)

        Raises
        ------
        ValueError
            If the store has no descriptors, or lacks some of `scale`; the message names them.
        """
        if self.raw_descriptors is None:
            raise ValueError(f"{self.path} has no descriptors; prepare it again with --descriptors")
        by = scale or self.manifest.descriptor_scale
        column = {name: i for i, name in enumerate(self.manifest.descriptor_names)}
        if missing := [name for name in by.names if name not in column]:
            raise ValueError(f"{self.path} lacks the descriptors {', '.join(missing)}; prepare it again")
        values = self.raw_descriptors[molecules][:, [column[name] for name in by.names]]
        mean, std = np.asarray(by.mean, np.float32), np.asarray(by.std, np.float32)
        return np.clip((values - mean) / std, -CLIP, CLIP)


class BucketedBatches:
    """Batches of molecules of similar length: a map-style dataset whose items are whole batches.

    Item `step` is batch `step % len` of epoch `step // len`, for any step from 0 on, and a pure function of
    the arguments here: a run resumes at any step, with any number of loader workers. Use it as
    `DataLoader(batches, batch_size=None, sampler=range(first_step, last_step))`.

    An epoch shuffles the molecules, cuts them into windows of `window` batches, sorts each window by length,
    and shuffles the batches.

    Parameters
    ----------
    store
        Where the molecules come from.
    batch_size
        Molecules in a batch over all ranks; a multiple of `world`.
    seed
        Seed of the shuffles and of the drawn spellings.
    mode
        "canonical": the canonical spelling in and out. "equivariant": a drawn spelling in, the same out.
        "invariant": a drawn spelling in, the canonical one out. Drawn uniformly from all stored spellings, unless
        `canonical_share` says otherwise.
    views
        2 adds a second input, another spelling of the same molecule, for the two-view objectives.
    drop_last
        Leave out a random rest of the molecules, so that every batch is full; else one batch may be short.
    rank, world
        This process gets rows `rank::world` of every batch.
    window
        Batches sorted together.
    scale
        What the descriptors are standardised by (the training store's, for a validation store). Default: the
        store's own.
    canonical_share
        How often the drawn spelling is the canonical one; the random ones share the rest. Default: every stored
        spelling as often as any other.

    Raises
    ------
    ValueError
        If an argument is out of its range, two views are asked of a store with one spelling, or the store has
        fewer molecules than one batch and `drop_last` is set.
    """

    def __init__(
        self,
        store: TokenStore,
        batch_size: int,
        seed: int = 0,
        mode: str = "invariant",
        views: int = 1,
        drop_last: bool = True,
        rank: int = 0,
        world: int = 1,
        window: int = 64,
        scale: DescriptorScale | None = None,
        canonical_share: float | None = None,
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
        if batch_size < 1 or batch_size % world:
            raise ValueError(f"batch_size must be a positive multiple of world={world}, got {batch_size}")
        if not 0 <= rank < world:
            raise ValueError(f"rank must be in [0, world={world}), got {rank}")
        if canonical_share is not None and not 0 <= canonical_share <= 1:
            raise ValueError(f"canonical_share must be in [0, 1], got {canonical_share}")
        if canonical_share is not None and store.manifest.spellings < 2:
            raise ValueError(f"canonical_share needs random spellings, {store.path} has none; prepare with --spellings")
        if views not in (1, 2):
            raise ValueError(f"views must be 1 or 2, got {views}")
        if views == 2 and (mode == "canonical" or store.manifest.spellings < 2):
            spellings = store.manifest.spellings
            raise ValueError(
                f"two views need two spellings: {store.path} has {spellings} and mode is {mode!r}; "
                "prepare with --spellings and use mode 'invariant' or 'equivariant'"
            )
        self.store, self.batch_size, self.seed, self.mode, self.views = store, batch_size, seed, mode, views
        self.drop_last, self.rank, self.world, self.window = drop_last, rank, world, window
        self.scale = scale
        self.canonical_share = canonical_share
        self._molecules = len(store) // batch_size * batch_size if drop_last else len(store)
        if not self._molecules:
            raise ValueError(f"{store.path} has {len(store)} molecules, fewer than one batch of {batch_size}")
        self._plan: tuple[int, tuple[np.ndarray, np.ndarray]] | None = None

    def __len__(self) -> int:
        """Batches per epoch."""
        return -(-self._molecules // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        """Go through epoch 0."""
        return (self[step] for step in range(len(self)))

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        if step < 0:
            raise IndexError(f"step must be at least 0, got {step}")
        return self.batch(*divmod(step, len(self)))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_plan": None}

    def batch(self, epoch: int, index: int) -> dict[str, torch.Tensor]:
        """Return one batch of an epoch.

        Returns
        -------
        dict
            `input_ids` int64 (b, t), `attention_mask` bool (b, t), `target_ids` int64 (b, t'); with two views
            `input_ids_2` and `attention_mask_2`; with descriptors in the store `descriptors` float32 (b, p),
            standardised. t and t' are multiples of 8; padding is id 0, on the right.
        """
        import torch

        molecules = self.molecules(epoch, index)
        batch: dict[str, torch.Tensor] = {}
        for name, rows in self.rows(epoch, molecules).items():
            tokens = self.store.gather(rows, PAD_MULTIPLE)
            batch[name] = torch.from_numpy(tokens.ids)
            if name.startswith("input_ids"):
                mask = np.arange(tokens.ids.shape[1]) < tokens.lengths[:, None]
                batch[name.replace("input_ids", "attention_mask")] = torch.from_numpy(mask)
        batch.setdefault("target_ids", batch["input_ids"])
        if self.store.raw_descriptors is not None:
            batch["descriptors"] = torch.from_numpy(self.store.descriptors(molecules, self.scale))
        return batch

    def molecules(self, epoch: int, index: int) -> np.ndarray:
        """Return which molecules a batch holds on this rank, int64 (b,)."""
        if self._plan is None or self._plan[0] != epoch:
            self._plan = (epoch, self.shuffle(epoch))
        return self.cut(self._plan[1], index)

    def cut(self, plan: tuple[np.ndarray, np.ndarray], index: int) -> np.ndarray:
        """Return which molecules a batch of a shuffled epoch holds on this rank, int64 (b,)."""
        if not 0 <= index < len(self):
            raise IndexError(f"batch {index} of an epoch of {len(self)}")
        order, starts = plan
        start = starts[index]
        return order[start : start + self.batch_size][self.rank :: self.world]

    def rows(self, epoch: int, molecules: np.ndarray) -> dict[str, np.ndarray]:
        """Return which rows of the store are read and written: `input_ids`, `input_ids_2` with two views, `target_ids`.

        Each is int64 (b,); without `target_ids`, what is read is written.
        """
        first = molecules * self.store.manifest.spellings
        spelling = self._draw(epoch, molecules)
        rows = {"input_ids": first + spelling}
        if self.mode == "invariant":
            rows["target_ids"] = first
        if self.views == 2:
            others = self.store.manifest.spellings - 1
            step = 1 + _hash(self.seed, epoch, molecules, stream=1) % np.uint64(others)
            rows["input_ids_2"] = first + (spelling + step.astype(np.int64)) % (others + 1)
        return rows

    def shuffle(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the molecules in the order of an epoch, and where in it each batch starts."""
        random = np.random.default_rng([self.seed, epoch])
        order = random.permutation(len(self.store))[: self._molecules]
        first = order * self.store.manifest.spellings
        lengths = self.store.lengths[first + self._draw(epoch, order)]
        if self.mode == "invariant":
            lengths = np.maximum(lengths, self.store.lengths[first])
        windows = np.arange(len(order)) // (self.batch_size * self.window)
        order = order[np.lexsort((lengths, windows))]
        return order, random.permutation(len(self)) * self.batch_size

    def _draw(self, epoch: int, molecules: np.ndarray) -> np.ndarray:
        """Which spelling of each molecule is read in an epoch."""
        if self.mode == "canonical":
            return np.zeros(len(molecules), dtype=np.int64)
        stored = self.store.manifest.spellings
        drawn = _hash(self.seed, epoch, molecules, stream=0)
        if self.canonical_share is None:
            return (drawn % np.uint64(stored)).astype(np.int64)
        canonical = _hash(self.seed, epoch, molecules, stream=2) / 2.0**64 < self.canonical_share
        return np.where(canonical, 0, 1 + drawn % np.uint64(stored - 1)).astype(np.int64)


def _hash(seed: int, epoch: int, molecules: np.ndarray, stream: int) -> np.ndarray:
    """SplitMix64 of (seed, epoch, stream, molecule), uint64 (b,): the same in whichever batch it is asked."""
    key = np.random.SeedSequence([seed, epoch, stream]).generate_state(1, np.uint64)
    x = key + molecules.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
