"""DeepChem: MolCMIM embeddings as a featurizer for its loaders. Knows DeepChem's conventions, no model.

Importing DeepChem takes seconds, and DeepChem logs which of its own optional packages it misses; both happen
when this module is imported, and only then.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Shaped

try:
    import deepchem as dc
except ModuleNotFoundError as error:
    if error.name != "deepchem":
        raise
    raise ImportError("molcmim.deepchem needs DeepChem: pip install 'deepchem>=2.8'") from None

from molcmim import checkpoint as checkpoints
from molcmim import loaded
from molcmim.featurizer import EMBEDDINGS, as_rows

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


class MolCMIMFeaturizer(dc.feat.MolecularFeaturizer):
    """Pretrained embeddings of molecules, for DeepChem's loaders.

    Whole shards are embedded at once, in batches. A molecule that cannot be embedded gets an empty array, as
    everywhere in DeepChem, whose loaders then drop the row from X, y, w and ids together (all but
    ``InMemoryLoader``: see ours); its row and the reason are logged as a warning.

    Parameters
    ----------
    checkpoint : str or path
        Name or folder, as for :meth:`molcmim.Featurizer.from_pretrained`. Loaded at the first molecule.
    embedding : {"mean", "informative", "both", "descriptors"}
        Which embedding; see :func:`molcmim.featurizer.embed`.
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

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such checkpoint or no such embedding.

    Examples
    --------
    >>> import deepchem as dc
    >>> from molcmim.deepchem import MolCMIMFeaturizer
    >>> tasks, (train, valid, test), _ = dc.molnet.load_delaney(MolCMIMFeaturizer())  # doctest: +SKIP
    >>> model = dc.models.MultitaskRegressor(len(tasks), train.X.shape[1])  # doctest: +SKIP
    >>> model.fit(train)  # doctest: +SKIP
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike[str] = "molcmim-small",
        embedding: str = "mean",
        canonicalize: bool = True,
        standardize: bool = False,
        batch_size: int | None = None,
        device: str | torch.device | None = None,
        spellings: int = 1,
    ) -> None:
        super().__init__()
        if embedding not in EMBEDDINGS:
            raise ValueError(f"embedding must be one of {', '.join(EMBEDDINGS)}, got {embedding!r}")
        self.checkpoint = checkpoint
        self.embedding = embedding
        self.canonicalize = canonicalize
        self.standardize = standardize
        self.batch_size = batch_size
        self.device = device
        self.spellings = spellings
        str(self)  # a checkpoint that is not there shows now

    def __str__(self) -> str:
        """Name the features: the same ones have the same name, which DeepChem makes a folder of its cache."""
        weights = checkpoints.read_record(checkpoints.resolve(self.checkpoint))["weights_sha256"]
        settings = ["as-written"] * (not self.canonicalize) + ["standardized"] * self.standardize
        settings += [f"{self.spellings}-spellings"] * (self.spellings > 1)
        return "_".join(["MolCMIMFeaturizer", weights[:12], self.embedding, *settings])

    def featurize(self, datapoints: Any, log_every_n: int = 1000, **kwargs: Any) -> Shaped[np.ndarray, "n ..."]:
        """Embed molecules.

        Parameters
        ----------
        datapoints : str, Mol, or any iterable of them
            SMILES or RDKit molecules.
        log_every_n : int
            So many molecules are read and embedded at a time, and a line logged before each time.
        **kwargs
            Not looked at: DeepChem's ``SDFLoader`` gives every featurizer the atoms' positions.

        Returns
        -------
        ndarray of float32, shape (n, d)
            One row a molecule. If some are bad, shape (n,) of objects: an array each, empty for a bad one; if
            all are, shape (n, 0).
        """
        molecules = as_rows(datapoints)
        featurizer = loaded.featurizer(self.checkpoint, self.device)
        read = featurizer.read_with(self.canonicalize, self.standardize, self.spellings)
        X = np.empty((len(molecules), featurizer.dim(self.embedding)), np.float32)
        good = np.empty(len(molecules), bool)
        for start in range(0, len(molecules), log_every_n):
            logger.info("Featurizing datapoint %d of %d", start, len(molecules))
            part = slice(start, start + log_every_n)
            encoded = read(molecules[part])
            X[part] = featurizer.embed_encoded(encoded, self.embedding, self.batch_size)
            good[part] = encoded.which >= 0
            for row, reason in enumerate(encoded.reasons, start):
                if reason is not None:
                    logger.warning("Datapoint %d, %.80r, has no features: %s", row, molecules[row], reason)
        if good.all():
            return X
        if not good.any():
            return X[:, :0]
        return np.array([x if has_features else x[:0] for x, has_features in zip(X, good, strict=True)], object)


class InMemoryLoader(dc.data.InMemoryLoader):
    """DeepChem's ``InMemoryLoader``, but by the shard and without the bad molecules.

    DeepChem's own (2.8) calls the featurizer once a molecule, and ends in an error of numpy's at a molecule
    without features. This one calls it once a shard, and drops such molecules from X, y, w and ids together.

    Examples
    --------
    >>> from molcmim.deepchem import InMemoryLoader, MolCMIMFeaturizer
    >>> loader = InMemoryLoader(tasks=["solubility"], featurizer=MolCMIMFeaturizer())  # doctest: +SKIP
    >>> dataset = loader.create_dataset([("CCO", 1.1), ("C1CC", 0.2), ("C", -0.9)])  # doctest: +SKIP
    >>> dataset.ids  # doctest: +SKIP
    array([0, 2])
    """

    def _featurize_shard(self, shard: list[Any], global_index: int) -> tuple[np.ndarray, ...]:
        """Make X, y, w and ids of ``(molecule[, label[, weight[, id]]])``; what is left out is as in DeepChem."""
        if lists := [row for row, entry in enumerate(shard, global_index) if isinstance(entry, list)]:
            raise ValueError(f"row {lists[0]} is a list; give tuples of molecule, label, weight and id, or molecules")
        entries = [entry if isinstance(entry, tuple) else (entry,) for entry in shard]
        features = self.featurizer([molecule for molecule, *_ in entries], log_every_n=self.log_every_n)
        good = np.array([x.size > 0 for x in features])
        columns: tuple[list[Any], ...] = ([], [], [])
        for row, entry in enumerate(entries, global_index):
            if len(entry) > 1 + len(columns):
                raise ValueError(f"row {row} has {len(entry)} parts; molecule, label, weight, id are read: {entry}")
            weight = np.full(len(self.tasks), len(entry) > 1, np.float32)
            defaults = (np.zeros(len(self.tasks), np.float32), weight, row)
            for column, value in zip(columns, (*entry[1:], *defaults[len(entry) - 1 :]), strict=True):
                column.append(value)
        # of a shard without a good molecule none, but of the shape that others have
        X = np.array([x for x in features if x.size]) if good.any() else np.asarray(self.featurizer(["C"]))[:0]
        y, w, ids = (np.array(column)[good] for column in columns)
        if (unknown := np.isnan(y)).any():  # counts for nothing, as in DeepChem's loaders of files
            y, rows = np.nan_to_num(y), len(y)
            w = np.where(unknown.reshape(rows, -1), 0, w.reshape(rows, -1)).astype(w.dtype)
        return X, y, w, ids
