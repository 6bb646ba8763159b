"""Molecules out of the latent space: decode, reconstruct, sample, interpolate, neighbours; optimize. Knows no files.

Each function returns a frame with a row per decoded string, as it was decoded: nothing is repaired or left out in
silence. Its columns:

- ``smiles``: the string; of a SELFIES model its translation, after ``selfies``, what was decoded.
- ``valid``, ``canonical``, ``error``: whether it is a molecule, as canonical SMILES, and if not, why not.
- ``log_prob``: log p(x|z) in nats, summed over the tokens.
- ``similarity``: to the molecule that the code came from, see :func:`molcmim.smiles.similarities`.

``frame.attrs`` says how it was made. The same arguments give the same frame. Options of all functions:

decoding : str
    ``greedy``, ``beam:5``, ``nucleus:0.9``, ``valid:10``, ``nearest:10``; see :func:`molcmim.decoding.parse_decoding`.
random_state : int
    Seed of whatever is drawn.
checkpoint : str, path or Featurizer
    Name or folder of a checkpoint, which is loaded once a process, or a loaded one.
device : str or torch.device, optional
    Where a checkpoint is loaded to; default CUDA if there is one, else CPU.

All raise ValueError for an argument out of its range, and FileNotFoundError if there is no such checkpoint.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int64

from molcmim import smiles
from molcmim.featurizer import as_rows
from molcmim.optimization import best, optimize
from molcmim.space import Checkpoint, Device, Space, aligned, good_rows
from molcmim.substructure import Substructures

__all__ = [
    "ShortOfMolecules",
    "best",
    "decode",
    "interpolate",
    "neighbours",
    "optimize",
    "reconstruct",
    "sample",
    "slerp",
]

PATHS = ("linear", "spherical")
DRAWS_PER_MOLECULE = 20
"""Default of what `sample` may draw for each molecule that is asked for."""
CODES_AT_A_TIME = 20_000
"""Most that a round of `sample` draws after the first, unless `n` for each seed are more: a round lies in memory."""


class ShortOfMolecules(UserWarning):
    """Drawing ended with fewer molecules than were asked for."""


def decode(
    z: Any,
    *,
    on_error: str = "raise",
    decoding: str = "greedy",
    random_state: int = 0,
    checkpoint: Checkpoint = "molcmim-small",
    device: Device = None,
) -> pd.DataFrame:
    """Decode latent codes, such as the ``mean`` embeddings of molecules.

    Parameters
    ----------
    z : array_like, shape (n, D) or (D,)
        Codes.
    on_error : {"raise", "nan", "skip"}
        What to do about codes that are not finite: raise a ValueError that names them, keep the row with its reason
        in ``error``, or leave it out, the frame's index telling which rows are left.

    Returns
    -------
    DataFrame
        The module's columns but ``similarity``; a row per code, in order.
    """
    space = Space(checkpoint, device)
    codes = np.atleast_2d(np.asarray(z.detach().float().cpu() if isinstance(z, torch.Tensor) else z, np.float32))
    if codes.ndim != 2 or codes.shape[1] != space.dim:
        raise ValueError(
            f"z must have the shape (n, {space.dim}), the model's latent dimension, got {codes.shape}; "
            "Featurizer.featurize with embedding='mean' gives such codes"
        )
    reasons = [None if np.isfinite(code).all() else "the code is not finite" for code in codes]
    good = good_rows(codes[:, 0].tolist(), reasons, on_error)
    frame = space.decode(codes[good], decoding, np.random.default_rng(random_state))
    frame = aligned(frame, good, reasons, on_error)
    return _described(frame, space, decoding=decoding, random_state=random_state)


def reconstruct(
    molecules: Any,
    *,
    on_error: str = "raise",
    decoding: str = "greedy",
    random_state: int = 0,
    checkpoint: Checkpoint = "molcmim-small",
    device: Device = None,
) -> pd.DataFrame:
    """Encode molecules, decode their codes z = mu, and compare.

    Parameters
    ----------
    molecules : str, Mol, or any iterable of them
        Their canonical SMILES are what is encoded.
    on_error : {"raise", "nan", "skip"}
        What to do about molecules that cannot be encoded: raise a MoleculeError that names them, or as for
        :func:`decode`.

    Returns
    -------
    DataFrame
        The module's columns; before them ``input``, the canonical SMILES (of a bad molecule, what was given), and
        ``exact``, whether this very molecule came back. A row per molecule, in order.
    """
    space = Space(checkpoint, device)
    rows = as_rows(molecules)
    codes = space.encode(rows)
    good = good_rows(rows, codes.reasons, on_error)
    frame = space.decode(codes.mu[good], decoding, np.random.default_rng(random_state))
    inputs = [codes.smiles[row] for row in good]
    frame["similarity"] = [smiles.similarities(a, [b])[0] for a, b in zip(inputs, frame["canonical"], strict=True)]
    frame = aligned(frame, good, codes.reasons, on_error)
    frame.insert(0, "input", [codes.smiles[row] or str(rows[row]) for row in frame.index])
    frame.insert(1, "exact", frame["canonical"] == frame["input"])
    return _described(frame, space, decoding=decoding, random_state=random_state)


def sample(
    seed: Any = None,
    n: int = 100,
    scaled_radius: float = 1.0,
    *,
    valid: bool = False,
    unique: bool = False,
    not_seed: bool = False,
    must_have: str | Sequence[str] = (),
    must_not_have: str | Sequence[str] = (),
    max_draws: int | None = None,
    decoding: str = "greedy",
    random_state: int = 0,
    checkpoint: Checkpoint = "molcmim-small",
    device: Device = None,
) -> pd.DataFrame:
    """Decode codes drawn around seed molecules, or from the prior.

    z = mu(seed) + scaled_radius * eps with eps ~ N(0, I_D), MolMIM's definition (arXiv 2208.09016).

    Parameters
    ----------
    seed : str, Mol, or any iterable of them, optional
        Molecules to draw around. None: around 0, so that with a `scaled_radius` of 1 codes come from the prior P(z).
    n : int
        How many rows, for each seed.
    scaled_radius : float
        Standard deviation of the noise in each latent dimension; at least 0.
    valid, unique : bool
        Keep only valid ones; only the first of equal ones (as molecules if valid, else as strings), seed by seed.
        Drawing goes on until there are `n` or `max_draws` is reached.
    not_seed : bool
        Keep none that is its seed.
    must_have, must_not_have : str or sequence of str
        SMARTS; keep only molecules that match each of the first and none of the second, where ``.`` is a second
        fragment.
    max_draws : int, optional
        Codes to decode at most, for each seed; default 20 n.

    Returns
    -------
    DataFrame
        The module's columns; before them ``seed``, its canonical SMILES, and ``draw``, the how manieth draw of the
        seed it is, from 0. Without a seed neither ``seed`` nor ``similarity``. Rows are the first that were fit to
        keep. ``attrs`` says what they cost: ``draws``, how many codes were decoded, ``valid_draws``, how many of
        these gave a valid molecule, and ``different_draws``, how many different ones (seed by seed).

    Warns
    -----
    ShortOfMolecules
        If `max_draws` was reached; the frame holds what there was.

    Raises
    ------
    MoleculeError
        If a seed cannot be encoded.
    """
    max_draws = DRAWS_PER_MOLECULE * n if max_draws is None else max_draws
    _at_least(1, n=n)
    _at_least(0, scaled_radius=scaled_radius)
    _at_least(n, max_draws=max_draws)
    asked_for = Substructures(must_have, must_not_have)
    if not_seed and seed is None:
        raise ValueError("not_seed needs a seed")
    space = Space(checkpoint, device)
    if seed is None:
        seeds, mu = [""], np.zeros((1, space.dim), np.float32)
    else:
        if not (rows := as_rows(seed)):
            raise ValueError("seed holds no molecule; None draws from the prior")
        seeds, reasons, mu = space.encode(rows)
        good_rows(rows, reasons, "raise")
    # A stream for each seed, by its place: its codes depend neither on later seeds nor on how many are drawn at a time.
    tokens_rng, *rngs = np.random.default_rng(random_state).spawn(1 + len(mu))
    drawn = kept = pd.DataFrame({"seed": [], "draw": []}, dtype=int)
    draws = found = np.zeros(len(mu), int)
    more = np.full(len(mu), n)
    while more.any():
        eps = [rng.standard_normal((m, space.dim), np.float32) for rng, m in zip(rngs, more, strict=True)]
        frame = space.decode(mu.repeat(more, 0) + np.float32(scaled_radius) * np.concatenate(eps), decoding, tokens_rng)
        frame.insert(0, "seed", np.arange(len(mu)).repeat(more))
        frame.insert(1, "draw", draws.repeat(more) + frame.groupby("seed").cumcount())
        frame["fit"] = asked_for.fit(list(frame["canonical"])) if asked_for else True
        if not_seed:
            frame["fit"] &= frame["canonical"] != np.array(seeds, object)[frame["seed"]]
        drawn = pd.concat([drawn, frame]) if len(drawn) else frame
        draws = draws + more
        kept = _first(drawn, n, valid, unique)
        found = np.bincount(kept["seed"], minlength=len(mu))
        # At the rate so far; a rate near 0 is taken for the least that the default budget has room for.
        rate = np.maximum(found / draws, 1 / DRAWS_PER_MOLECULE)
        more = np.minimum(np.ceil((n - found) / rate).astype(int), max_draws - draws)
        more = np.minimum(more, max(n, -(-CODES_AT_A_TIME // len(mu))))
    if len(kept) < n * len(mu):
        warnings.warn(
            f"found {len(kept):,} of {n * len(mu):,} molecules in {draws.sum():,} draws; raise max_draws, or choose "
            "another scaled_radius",
            ShortOfMolecules,
            stacklevel=2,
        )
    frame = kept.sort_values(["seed", "draw"], ignore_index=True).drop(columns="fit")
    if seed is None:
        frame = frame.drop(columns="seed")
    else:
        groups = [list(frame["canonical"][frame["seed"] == i]) for i in range(len(mu))]
        frame["similarity"] = np.concatenate([smiles.similarities(*pair) for pair in zip(seeds, groups, strict=True)])
        frame["seed"] = [seeds[i] for i in frame["seed"]]
    valid_draws = drawn[drawn["valid"]]
    return _described(
        frame,
        space,
        scaled_radius=scaled_radius,
        draws=int(draws.sum()),
        valid_draws=len(valid_draws),
        different_draws=len(valid_draws.drop_duplicates(["seed", "canonical"])),
        decoding=decoding,
        random_state=random_state,
    )


def interpolate(
    a: Any,
    b: Any,
    steps: int = 10,
    *,
    path: str = "linear",
    decoding: str = "greedy",
    random_state: int = 0,
    checkpoint: Checkpoint = "molcmim-small",
    device: Device = None,
) -> pd.DataFrame:
    """Decode codes on the way from one molecule to another.

    Parameters
    ----------
    a, b : str or Mol
        Where the way begins and ends.
    steps : int
        How many codes, evenly spaced, both ends among them; at least 2.
    path : {"linear", "spherical"}
        The straight line, or :func:`slerp`.

    Returns
    -------
    DataFrame
        The module's columns, a row per step; before them ``position``, from 0 at a to 1 at b, and in the place of
        ``similarity`` there are ``similarity_a`` and ``similarity_b``. The ends are decoded, too, and need not be a and
        b, which ``attrs`` has; ``decoding="nearest"`` brings more of them back.

    Raises
    ------
    MoleculeError
        If a (row 0) or b (row 1) cannot be encoded.
    """
    _at_least(2, steps=steps)
    if path not in PATHS:
        raise ValueError(f"path must be one of {', '.join(PATHS)}, got {path!r}")
    space = Space(checkpoint, device)
    ends = space.encode([a, b])
    good_rows([a, b], ends.reasons, "raise")
    t = np.linspace(0, 1, steps, dtype=np.float32)[:, None]
    z = slerp(ends.mu[0], ends.mu[1], t) if path == "spherical" else (1 - t) * ends.mu[0] + t * ends.mu[1]
    frame = space.decode(z, decoding, np.random.default_rng(random_state))
    frame.insert(0, "position", t[:, 0])
    for name, end in zip("ab", ends.smiles, strict=True):
        frame[f"similarity_{name}"] = smiles.similarities(end, list(frame["canonical"]))
    start, end = ends.smiles
    return _described(frame, space, a=start, b=end, path=path, decoding=decoding, random_state=random_state)


def slerp(
    a: Float[np.ndarray, " z"], b: Float[np.ndarray, " z"], t: Float[np.ndarray, "n 1"]
) -> Float[np.ndarray, "n z"]:
    """Spherical interpolation, sin((1 - t) w) / sin(w) a + sin(t w) / sin(w) b, w being the angle between a and b.

    It stays as far from 0 as the prior's codes are, where a line cuts through the middle (White, arXiv 1609.04468).
    Where w is 0 or pi, or a code is 0, so that no arc is given, it is the line.
    """
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    w = math.acos(np.clip(np.dot(a, b) / norms, -1, 1)) if norms else 0.0
    if math.sin(w) < 1e-4:
        return (1 - t) * a + t * b
    return ((np.sin((1 - t) * w) * a + np.sin(t * w) * b) / math.sin(w)).astype(a.dtype)


def neighbours(
    query: Any,
    library: Any,
    k: int = 10,
    *,
    embeddings: Float[np.ndarray, "n z"] | None = None,
    on_error: str = "raise",
    spellings: int = 1,
    checkpoint: Checkpoint = "molcmim-small",
    device: Device = None,
) -> pd.DataFrame:
    """Find the molecules of a library whose codes mu have the largest cosine with a query's.

    Parameters
    ----------
    query : str or Mol, or iterable of them
        What is looked for; of several, each has its rows, after each other, with its number, from 0, and its canonical
        SMILES in columns ``query_row`` and ``query`` before the others.
    library : iterable of str or Mol
        Where.
    k : int
        How many for each query; all, if the library has fewer.
    embeddings : ndarray of shape (n, z), optional
        Mean embeddings of the library by this checkpoint, if there are any; NaN where there is none. Then it need not
        be encoded, and a molecule without an embedding counts as one that cannot be.
    on_error : {"raise", "skip"}
        What to do about molecules of the library, and of several queries, that cannot be encoded: raise a
        MoleculeError that names them, or leave them out; ``attrs["skipped"]`` counts those of the library,
        ``attrs["queries_skipped"]`` is the reasons of queries by their number.
    spellings
        SMILES of each molecule that codes are averaged over, see :meth:`molcmim.Featurizer.featurize`; `embeddings`
        must have been, too.

    Returns
    -------
    DataFrame
        Nearest first: ``row`` in the library, from 0, ``smiles`` as it stands there, ``valid``, ``canonical``,
        ``cosine``, ``log_prob`` of the neighbour at the query's code, and ``similarity`` to the query. Nothing is
        drawn, so there are no `decoding` and `random_state`.

    Raises
    ------
    MoleculeError
        If the only query cannot be encoded.
    ValueError
        If there is no query, or no molecule of the library, that can be encoded, or `embeddings` have another shape.
    """
    _at_least(1, k=k)
    space = Space(checkpoint, device)
    several = isinstance(query, Iterable) and not isinstance(query, str)  # RDKit's Mol is not iterable
    queries = as_rows(query)
    if not queries:
        raise ValueError("there is no query to look for")
    sought = space.encode(queries, spellings)
    asked = good_rows(queries, sought.reasons, on_error if several else "raise", ("raise", "skip"))
    if not len(asked):
        raise ValueError(f"none of {len(queries):,} queries can be encoded; the first: {sought.reasons[0]}")
    rows = as_rows(library)
    if embeddings is None:
        _, reasons, mu = space.encode(rows, spellings)
    else:
        mu = np.asarray(embeddings, np.float32)
        if mu.shape != (len(rows), space.dim):
            raise ValueError(f"embeddings have shape {mu.shape}; expected {(len(rows), space.dim)}")
        reasons = [None if finite else "no embedding" for finite in np.isfinite(mu).all(axis=1)]
    if all(reasons):
        raise ValueError(
            f"the library has {len(rows):,} rows, and no molecule that can be encoded; the first: "
            f"{reasons[0] if rows else 'none'}"
        )
    good = good_rows(rows, reasons, on_error, ("raise", "skip"))
    X, frames = (mu if len(good) == len(mu) else mu[good]), []
    length = np.linalg.norm(X, axis=1)
    unread: set[int] = set()
    for number in asked.tolist():
        text, z = sought.smiles[number], sought.mu[number]
        cosine = X @ z / np.maximum(length * np.linalg.norm(z), 1e-12)
        nearest, canonical = _nearest_readable(rows, good, np.argsort(-cosine, kind="stable"), k, unread, on_error)
        columns = {
            "row": good[nearest],
            "smiles": [
                rows[row] if isinstance(rows[row], str) else own
                for row, own in zip(good[nearest], canonical, strict=True)
            ],
            "valid": True,
            "canonical": canonical,
            "cosine": cosine[nearest],
            "log_prob": space.log_probability(canonical, z),
            "similarity": smiles.similarities(text, canonical),
        }
        frames.append(pd.DataFrame({"query_row": number, "query": text, **columns} if several else columns))
    missed = {row: reason for row, reason in enumerate(sought.reasons) if reason is not None}
    whose = {"queries_skipped": missed} if several else {"query": sought.smiles[0]}
    frame = pd.concat(frames, ignore_index=True)
    return _described(frame, space, **whose, library=len(rows), skipped=len(rows) - len(good) + len(unread))


def _nearest_readable(
    rows: Sequence[Any], good: Int64[np.ndarray, " g"], order: Int64[np.ndarray, " g"], k: int, unread: set[int],
    on_error: str,
) -> tuple[Int64[np.ndarray, " f"], list[str]]:  # fmt: skip
    """First k places of `order` whose rows can be read, and their canonical SMILES; notes the rows that cannot.

    Those whose embeddings were given have been read by nobody yet.
    """
    found: list[tuple[int, str]] = []
    for start in range(0, len(order), k):
        places = order[start : start + k]
        for place, text, why in zip(places, *smiles.canonicalize([rows[row] for row in good[places]]), strict=True):
            if why is not None and on_error == "raise":
                raise smiles.MoleculeError([smiles.BadMolecule(int(good[place]), rows[good[place]], why)])
            if text is None:
                unread.add(int(good[place]))
            else:
                found.append((place, text))
        if len(found) >= k:
            break
    return np.array([place for place, _ in found[:k]], np.int64), [text for _, text in found[:k]]


def _described(frame: pd.DataFrame, space: Space, **facts: Any) -> pd.DataFrame:
    facts = {name: fact.item() if isinstance(fact, np.generic) else fact for name, fact in facts.items()}
    frame.attrs = {"checkpoint": space.featurizer.name, **facts}
    return frame


def _first(drawn: pd.DataFrame, n: int, valid: bool, unique: bool) -> pd.DataFrame:
    """First n rows of each seed that are fit to keep."""
    kept = drawn[drawn["fit"] & (drawn["valid"] | (not valid))]
    if unique:
        molecule = kept["canonical"].where(kept["valid"], kept["smiles"])
        kept = kept[~pd.DataFrame({"seed": kept["seed"], "molecule": molecule}).duplicated()]
    return kept.groupby("seed", sort=False).head(n)


def _at_least(least: int, **given: float | int) -> None:
    for name, value in given.items():
        if not least <= value < math.inf:
            raise ValueError(f"{name} must be at least {least} and finite, got {value}")
