"""scikit-learn: MolCMIM embeddings as a transformer; the fine-tuned estimators. Knows conventions, no model."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, Shaped
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags

from molcmim.sklearn_property import MolCMIMClassifier, MolCMIMRegressor, column

if TYPE_CHECKING:
    import torch

    from molcmim.featurizer import Featurizer

__all__ = ["MolCMIMClassifier", "MolCMIMRegressor", "MolCMIMTransformer"]


class MolCMIMTransformer(TransformerMixin, BaseEstimator):
    """Molecules -> pretrained embeddings, as a step of scikit-learn.

    Stateless: nothing is learned from the data, and `fit` may be left out. The model is loaded once a process
    for all transformers of the same checkpoint and device, so cloning and searching over a grid are cheap; it
    is not pickled along. A search embeds each fold anew all the same: give the Pipeline a ``memory=`` folder
    if that takes long.

    Parameters
    ----------
    checkpoint : str or path
        Name or folder, as for :meth:`molcmim.Featurizer.from_pretrained`.
    embedding : {"mean", "informative", "both", "descriptors"}
        Which embedding; see :func:`molcmim.featurizer.embed`.
    on_error : {"raise", "nan"}
        What to do about molecules that cannot be embedded: raise an error that names all of them, or give
        them rows of NaN (which not every estimator takes). "skip" is refused: y would keep the dropped rows.
    canonicalize : bool
        Embed the canonical SMILES, whichever way it was written.
    standardize : bool
        Keep the largest fragment and neutralise it first, as the pretraining corpus was.
    batch_size : int, optional
        Molecules a batch; default: as many as a budget of tokens allows.
    device : str or torch.device, optional
        Default: CUDA if there is one, else CPU.
    spellings : int
        SMILES of each molecule that mu is averaged over; see :meth:`molcmim.Featurizer.featurize`.

    Examples
    --------
    >>> from sklearn.linear_model import RidgeCV
    >>> from sklearn.pipeline import make_pipeline
    >>> from molcmim.sklearn import MolCMIMTransformer
    >>> model = make_pipeline(MolCMIMTransformer(embedding="both"), RidgeCV())
    >>> model.fit(frame["smiles"], frame["y"]).predict(["CCO"])  # doctest: +SKIP
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike[str] = "molcmim-small",
        embedding: str = "mean",
        on_error: str = "raise",
        canonicalize: bool = True,
        standardize: bool = False,
        batch_size: int | None = None,
        device: str | torch.device | None = None,
        spellings: int = 1,
    ) -> None:
        self.checkpoint = checkpoint
        self.embedding = embedding
        self.on_error = on_error
        self.canonicalize = canonicalize
        self.standardize = standardize
        self.batch_size = batch_size
        self.device = device
        self.spellings = spellings

    def fit(self, X: Any, y: Any = None) -> MolCMIMTransformer:
        """Check the settings and the shape of X; the molecules themselves are judged by `transform`.

        Parameters
        ----------
        X : list, array, Series, DataFrame of one column, or array of shape (n, 1)
            SMILES or RDKit molecules.
        y
            Not looked at.

        Raises
        ------
        ValueError, TypeError
            If a setting is not one of those allowed, or X not one column of at least one row.
        FileNotFoundError
            If there is no such checkpoint.
        """
        self._load().dim(self.embedding)
        column(X, "MolCMIMTransformer")
        return self

    def transform(self, X: Any) -> Float32[np.ndarray, "n d"]:
        """Embed molecules.

        Parameters
        ----------
        X
            As for `fit`.

        Returns
        -------
        ndarray of float32, shape (n, d)
            One row a molecule, in input order; what `set_output` says, if it was called.

        Raises
        ------
        MoleculeError
            Under ``on_error="raise"``, if any molecule is bad: names all of them with their reasons. A
            ValueError, as are wrong settings and shapes.
        """
        return self._load().featurize(
            column(X, "MolCMIMTransformer"),
            self.embedding,
            self.on_error,
            self.canonicalize,
            self.standardize,
            self.batch_size,
            spellings=self.spellings,
        )

    def get_feature_names_out(self, input_features: Any = None) -> Shaped[np.ndarray, " d"]:
        """Names of the columns, such as ``molcmim_mean_0`` or ``molcmim_NumHBD``; `input_features` is not looked at."""
        from molcmim import checkpoint as checkpoints

        dim = self._load().dim
        if self.embedding == "descriptors" and (names := checkpoints.descriptor_columns(self.checkpoint)):
            return np.array(names, dtype=object)
        parts = ("mean", "informative") if self.embedding == "both" else (self.embedding,)
        return np.array([f"molcmim_{part}_{i}" for part in parts for i in range(dim(part))], dtype=object)

    def _load(self) -> Featurizer:
        from molcmim import loaded

        if self.on_error not in ("raise", "nan"):
            why = ": y would keep the rows that X loses" if self.on_error == "skip" else ""
            raise ValueError(f"on_error must be 'raise' or 'nan' here, got {self.on_error!r}{why}")
        return loaded.featurizer(self.checkpoint, self.device)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.transformer_tags.preserves_dtype = []  # float32, always
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False  # one column at most: no matrix of numbers
        tags.input_tags.allow_nan = self.on_error == "nan"
        return tags
