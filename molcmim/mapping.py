"""A plane in which molecules near one another in the latent space stay near. Knows no files.

Shapes: n molecules, d columns of an embedding.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from jaxtyping import Float, Float64
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from molcmim.featurizer import Featurizer

COMPONENTS = 50
"""Principal components that t-SNE sees at most."""
PERPLEXITY = 30.0
"""Of t-SNE: about how many neighbours count; fewer where there are few molecules."""
METHODS = ("tsne", "pca")


def molecules(
    smiles: Iterable[object],
    featurizer: Featurizer,
    embedding: str = "mean",
    method: str = "tsne",
    random_state: int = 0,
) -> pd.DataFrame:
    """Embed molecules and lay them out in a plane.

    Parameters
    ----------
    smiles
        SMILES or RDKit molecules.
    featurizer, embedding
        What embeds them.
    method, random_state
        As for :func:`layout`.

    Returns
    -------
    DataFrame
        ``map_1`` and ``map_2`` (NaN for a molecule that cannot be embedded), and ``error`` (why not; empty else). Its
        ``attrs["axes"]`` say what the two coordinates are.

    Raises
    ------
    ValueError
        For an unknown embedding or method, or if fewer than 4 molecules can be embedded.
    """
    encoded = featurizer.reader().read(smiles)
    good = encoded.which >= 0
    plane = np.full((len(good), 2), np.nan)
    plane[good], axes = layout(featurizer.embed_encoded(encoded, embedding)[good], method, random_state)
    found = pd.DataFrame({"map_1": plane[:, 0], "map_2": plane[:, 1], "error": [r or "" for r in encoded.reasons]})
    found.attrs["axes"] = axes
    return found


def layout(
    X: Float[np.ndarray, "n d"], method: str = "tsne", random_state: int = 0
) -> tuple[Float64[np.ndarray, "n 2"], tuple[str, str]]:
    """Lay vectors out in a plane.

    Parameters
    ----------
    X
        Vectors, all finite.
    method : {"tsne", "pca"}
        The first two principal components; or t-SNE (van der Maaten & Hinton, JMLR 2008, 9, 2579) of the first 50,
        which keeps neighbours together and whose distances between groups mean nothing.
    random_state
        Of t-SNE, which begins at the principal components all the same.

    Returns
    -------
    plane : ndarray, shape (n, 2)
        Coordinates.
    axes : tuple of str
        What they are.

    Raises
    ------
    ValueError
        For an unknown method, fewer than 4 vectors, or none that differ.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; known are {', '.join(METHODS)}")
    if len(X) < 4:
        raise ValueError(f"a map needs at least 4 molecules that can be embedded; there are {len(X)}")
    if not np.ptp(X, axis=0).any():
        raise ValueError(f"all {len(X)} molecules have one embedding: there is nothing to lay out")
    with threadpool_limits(1):  # so that the same sums are made everywhere
        pca = PCA(min(COMPONENTS if method == "tsne" else 2, *X.shape), svd_solver="full")
        reduced = pca.fit_transform(X.astype(np.float64))
        if method == "pca":
            shares = pca.explained_variance_ratio_
            return reduced, (f"PC 1 ({shares[0]:.0%} of the variance)", f"PC 2 ({shares[1]:.0%})")
        tsne = TSNE(perplexity=min(PERPLEXITY, (len(X) - 1) / 3), init="pca", random_state=random_state)
        return tsne.fit_transform(reduced).astype(np.float64), ("t-SNE 1", "t-SNE 2")
