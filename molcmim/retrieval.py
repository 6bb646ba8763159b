"""What an embedding calls similar, beside chance and beside fingerprints. Knows no files.

Every query ranks all other molecules; the first k are looked at: do they share its scaffold, is their Tanimoto
similarity above 0.5? Chance is all other molecules, and the ranking by Tanimoto similarity itself the most there is.

Shapes: n molecules, q queries, d columns of an embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from molcmim import similarity, smiles, splits
from molcmim.featurizer import Featurizer
from molcmim.plots import new_figure, save_figure

SIMILAR = 0.5
"""Tanimoto similarity above which molecules count as similar."""
KS = (1, 2, 5, 10, 20, 50)
"""Numbers of neighbours that are looked at."""
QUERIES_AT_A_TIME = 50


def measure(
    featurizer: Featurizer,
    molecules: Sequence[str],
    queries: int = 500,
    embedding: str = "mean",
    random_state: int = 0,
    progress: bool | None = None,
    spellings: int = 1,
) -> pd.DataFrame:
    """Rank a library for molecules drawn from it, by the cosine of their embeddings and by Tanimoto similarity.

    Fingerprints are Morgan's, radius 2, 2,048 bits; scaffolds Bemis-Murcko's without stereochemistry, and an acyclic
    molecule, which has none, shares none.

    Parameters
    ----------
    featurizer, embedding, spellings
        What embeds them, and how; see :meth:`molcmim.Featurizer.featurize`.
    molecules
        SMILES, all readable; repeated ones count once.
    queries
        How many of them are looked for.
    random_state
        Of their choice.
    progress
        Show a bar; default: if standard error is a terminal.

    Returns
    -------
    DataFrame
        A row for each ranking (the embedding's name, "tanimoto", "chance") and k of :data:`KS`: ``ranking``, ``k``,
        ``same_scaffold`` (share of the first k that have the query's scaffold, mean over queries that have one),
        ``similar`` (share above :data:`SIMILAR`), ``tanimoto`` (mean), ``queries`` and ``library``.

    Raises
    ------
    MoleculeError
        If a molecule cannot be read, or embedded.
    ValueError
        If there are not more molecules than neighbours looked at.
    """
    library = list(dict.fromkeys(splits.canonical(molecules)))
    if len(library) <= KS[-1]:
        raise ValueError(f"retrieval takes more than {KS[-1]} different molecules; there are {len(library)}")
    X = featurizer.featurize(library, embedding, progress=progress, spellings=spellings)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    bits = smiles.packed_bits(library)
    names, scaffolds = np.unique([smiles.murcko_scaffold(molecule) for molecule in library], return_inverse=True)
    cyclic = names[scaffolds] != ""

    sought = np.random.default_rng(random_state).permutation(len(library))[:queries]
    # Shares of ranking, k, query: one that has no scaffold is NaN.
    same, similar, tanimoto = np.full((3, 3, len(KS), len(sought)), np.nan)
    bar = tqdm(total=len(sought), unit=" queries", disable=None if progress is None else not progress)
    for start in range(0, len(sought), QUERIES_AT_A_TIME):
        rows = sought[start : start + QUERIES_AT_A_TIME]
        at = slice(start, start + len(rows))
        likeness = similarity.tanimoto(bits[rows], bits)
        shared = scaffolds[rows, None] == scaffolds
        itself = np.arange(len(rows)), rows
        for ranking, score in enumerate((X[rows] @ X.T, likeness.copy())):
            score[itself] = -np.inf
            nearest = np.argsort(-score, axis=1, kind="stable")[:, : KS[-1]]
            near, same_near = np.take_along_axis(likeness, nearest, 1), np.take_along_axis(shared, nearest, 1)
            for i, k in enumerate(KS):
                same[ranking, i, at] = same_near[:, :k].mean(1)
                similar[ranking, i, at] = (near[:, :k] > SIMILAR).mean(1)
                tanimoto[ranking, i, at] = near[:, :k].mean(1)
        others = len(library) - 1  # a molecule has its own scaffold, and the similarity 1 to itself
        same[2, :, at] = (shared.sum(1) - 1) / others
        similar[2, :, at] = ((likeness > SIMILAR).sum(1) - 1) / others
        tanimoto[2, :, at] = (likeness.sum(1) - 1) / others
        bar.update(len(rows))
    bar.close()
    same[..., ~cyclic[sought]] = np.nan
    return pd.DataFrame(
        {
            "ranking": ranking,
            "k": k,
            "same_scaffold": np.nanmean(same[r, i]) if cyclic[sought].any() else np.nan,
            "similar": similar[r, i].mean(),
            "tanimoto": tanimoto[r, i].mean(),
            "queries": len(sought),
            "library": len(library),
        }
        for r, ranking in enumerate((embedding, "tanimoto", "chance"))
        for i, k in enumerate(KS)
    )


def draw(measured: pd.DataFrame, path: Path) -> None:
    """Draw what :func:`measure` returns, by the number of neighbours, as PNG."""
    figure = new_figure(9.0, 3.6)
    panels = {"same_scaffold": "share with the query's scaffold", "similar": f"share with Tanimoto > {SIMILAR}"}
    for axes, (column, title) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        for (ranking, rows), style in zip(measured.groupby("ranking", sort=False), ("-o", "--s", ":"), strict=True):
            label = {"tanimoto": "nearest by fingerprint", "chance": "chance"}.get(ranking, f"nearest by {ranking}")
            axes.plot(rows["k"], rows[column], style, label=label, markersize=4)
        axes.set_xscale("log")
        axes.set_xticks(KS, [str(k) for k in KS])
        axes.minorticks_off()
        axes.set_xlabel("neighbours")
        axes.set_ylim(bottom=0)
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    queries, library = measured.iloc[0][["queries", "library"]]
    figure.suptitle(f"{queries:,} queries in {library:,} molecules", fontsize=11)
    save_figure(figure, path)
