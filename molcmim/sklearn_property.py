"""scikit-learn: fine-tuned models as a regressor and a classifier. Knows scikit-learn's conventions, no network."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float64, Shaped
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils import Tags, check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, check_consistent_length, check_is_fitted

if TYPE_CHECKING:
    import torch

    from molcmim.tuned import PropertyModel


FOREIGN = -1.0
"""Number of a label that was not in y of fit."""


class _Property(BaseEstimator):
    """What the regressor and the classifier share: settings, parts, folder."""

    def __init__(
        self,
        checkpoint: str | os.PathLike[str] = "molcmim-small",
        embedding: str = "mean",
        epochs: int | None = None,
        ensemble: int = 1,
        predict_spellings: int | None = None,
        standardize: bool = False,
        validation_fraction: float = 0.1,
        on_error: str = "raise",
        random_state: int | np.random.RandomState | None = 0,
        device: str | torch.device | None = None,
        options: dict[str, Any] | None = None,
        progress: bool = False,
    ) -> None:
        self.checkpoint = checkpoint
        self.embedding = embedding
        self.epochs = epochs
        self.ensemble = ensemble
        self.predict_spellings = predict_spellings
        self.standardize = standardize
        self.validation_fraction = validation_fraction
        self.on_error = on_error
        self.random_state = random_state
        self.device = device
        self.options = options
        self.progress = progress

    def _finetune(
        self, X: Any, y: Float64[np.ndarray, "n t"], sample_weight: Any, valid: Any, kind: str, classes: Sequence[Any]
    ) -> None:
        """Fit `model_`; `y` and the values of `valid` are columns of numbers, NaN where unknown."""
        from molcmim.finetune import Choices, finetune, judge
        from molcmim.smiles import canonicalize, refuse

        if self.on_error not in ("raise", "nan"):
            raise ValueError(f"on_error must be 'raise' or 'nan' here, got {self.on_error!r}")
        seed = self.random_state
        if not isinstance(seed, int | np.integer):
            seed = check_random_state(seed).randint(2**31 - 1)
        smiles = column(X, type(self).__name__)
        check_consistent_length(smiles, y, sample_weight)
        weights = np.ones(len(y)) if sample_weight is None else np.asarray(sample_weight, np.float64)
        if weights.ndim != 1:
            raise ValueError(f"sample_weight must be one number a row, got shape {weights.shape}")
        valid_weights = None
        refuse(smiles, judge(self.checkpoint, smiles.tolist(), self.standardize))
        if valid is None:
            if not 0 < self.validation_fraction < 1:
                raise ValueError(f"validation_fraction must be between 0 and 1, got {self.validation_fraction}")
            order = np.random.RandomState(seed).permutation(len(y))
            order = order[~np.isnan(y[order]).all(1) & (weights[order] != 0)]  # rows that count: others choose nothing
            molecule, texts = pd.factorize(np.array(canonicalize(smiles[order], self.standardize)[0], object))
            held_out = max(1, round(self.validation_fraction * len(texts)))
            if held_out >= len(texts):
                raise ValueError(
                    f"{len(texts)} molecule(s) with a value and a weight leave nothing to train on beside the valid "
                    "part; give more"
                )
            drawn = np.arange(held_out)
            if kind != "regression" and y.shape[1] == 1:  # every class as often as its share says
                label = y[order[np.unique(molecule, return_index=True)[1]], 0]
                drawn = np.argsort(label, kind="stable")[((drawn + 0.5) * len(texts) / held_out).astype(int)]
                only = np.bincount(label.astype(int))[label[drawn].astype(int)] == 1
                drawn = drawn if only.all() else drawn[~only]  # the only one of its class is learned from
            chosen = np.isin(molecule, drawn)  # all rows of a molecule: what is told apart must not be known
            inner, outer = order[~chosen], order[chosen]
            valid, valid_weights = (smiles[outer], y[outer]), weights[outer]
            smiles, y, weights = smiles[inner], y[inner], weights[inner]
        named = {name: getattr(self, name) for name in ("embedding", "ensemble", "standardize")}
        named |= {
            name: getattr(self, name) for name in ("epochs", "predict_spellings") if getattr(self, name) is not None
        }
        named |= {"seed": seed, **(self.options or {})}
        self.model_: PropertyModel = finetune(
            self.checkpoint, smiles, y, valid, kind=kind, targets=self.targets_, classes=list(classes),
            weights=weights, valid_weights=valid_weights, choices=Choices.of(named), device=self.device,
            progress=self.progress,
        )  # fmt: skip

    def _outputs(self, X: Any, on_error: str | None = None) -> Float64[np.ndarray, "n _"]:
        check_is_fitted(self, "model_")
        return self.model_.predict(column(X, type(self).__name__), on_error or self.on_error)

    def train_similarity(self, X: Any) -> Float64[np.ndarray, " n"]:
        """Highest Tanimoto similarity of each molecule to one that was learned from; the lower, the less is known.

        Returns
        -------
        ndarray of float64, shape (n,)
            Of Morgan fingerprints, radius 2, 2,048 bits; NaN for a molecule that cannot be read.
        """
        return self._nearest_train(X)[0]

    def nearest_train(self, X: Any) -> Shaped[np.ndarray, " n"]:
        """Say which molecule it is that :meth:`train_similarity` is the similarity to.

        Returns
        -------
        ndarray of object, shape (n,)
            Canonical SMILES; None for a molecule that cannot be read.
        """
        return self._nearest_train(X)[1]

    def _nearest_train(self, X: Any) -> tuple[Float64[np.ndarray, " n"], Shaped[np.ndarray, " n"]]:
        check_is_fitted(self, "model_")
        return self.model_.nearest_train(self.model_.speller().read(column(X, type(self).__name__)))

    @property
    def history_(self) -> list[dict[str, float]]:
        """Losses of every epoch, of the first member; see :func:`molcmim.finetune.train`."""
        check_is_fitted(self, "model_")
        return list(self.model_.training["history"][0])

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the fitted model's folder, for `load` and for ``molcmim predict``.

        Raises
        ------
        FileExistsError
            If `folder` exists and is no such model.
        """
        check_is_fitted(self, "model_")
        self.model_.save(folder)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], device: str | torch.device | None = None) -> Any:
        """Load a folder that `save` or ``molcmim finetune`` wrote, as a fitted estimator.

        Raises
        ------
        FileNotFoundError, ValueError
            As :meth:`molcmim.tuned.PropertyModel.load`; ValueError also for the other kind of model.
        """
        from molcmim.tuned import PropertyModel

        model = PropertyModel.load(folder, device)
        choices = dict(model.training["choices"])
        named = {
            name: choices.pop(name) for name in ("embedding", "epochs", "ensemble", "predict_spellings", "standardize")
        }
        seed = choices.pop("seed")
        estimator = cls(model.training["checkpoint"], **named, random_state=seed, device=device, options=choices)
        if (model.task.kind == "regression") != isinstance(estimator, RegressorMixin):
            other = "MolCMIMRegressor" if model.task.kind == "regression" else "MolCMIMClassifier"
            raise ValueError(f"{folder} holds a model for {model.task.kind}; use {other}.load")
        estimator.model_, estimator.targets_ = model, model.task.targets
        if model.task.kind != "regression":
            classes, several = np.asarray(model.task.classes or [0, 1]), len(estimator.targets_) > 1
            estimator.classes_ = np.stack([classes] * len(estimator.targets_)) if several else classes
        return estimator

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False  # one column at most: no matrix of numbers
        tags.input_tags.allow_nan = self.on_error == "nan"
        tags.target_tags.multi_output = True
        return tags


class MolCMIMRegressor(RegressorMixin, _Property):
    """Molecules -> measured numbers: a pretrained model fine-tuned end to end.

    A kernel machine on RDKit's 2D descriptors takes half of each prediction (``options={"descriptors": False}``: none).
    One set of defaults serves all data sets; see :mod:`molcmim.finetune` for what is done.

    Parameters
    ----------
    checkpoint : str or path
        What is fine-tuned; see :meth:`molcmim.Featurizer.from_pretrained`.
    embedding : {"mean", "informative", "both", "descriptors"}
        What the head reads; "informative" and "both" train the decoder too, several times slower.
    epochs : int, optional
        Passes over the train part at most; 0 fits only the head, in closed form. Default: of `Choices`.
    ensemble : int
        Models trained and averaged; from 2 on the regressor has uncertainties.
    predict_spellings : int, optional
        Spellings of a molecule over which predictions are averaged. Default: of `Choices`.
    standardize : bool
        Keep the largest fragment and neutralise it first, as the pretraining corpus was.
    validation_fraction : float
        Share of the rows, drawn at random, that chooses when to stop, if `fit` is given no valid part; of one target's
        classes each has its share.
    on_error : {"raise", "nan"}
        What `predict` does about molecules that cannot be read; `fit` always raises.
    random_state : int, RandomState or None
        Of all that is drawn.
    device : str or torch.device, optional
        Default: CUDA if there is one, else CPU.
    options : dict, optional
        Other fields of :class:`molcmim.finetune.Choices`.
    progress : bool
        Show a bar while fitting.

    Examples
    --------
    >>> model = MolCMIMRegressor().fit(train["smiles"], train["y"])  # doctest: +SKIP
    >>> model.predict(["CCO"])  # doctest: +SKIP
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None, valid: tuple[Any, Any] | None = None) -> MolCMIMRegressor:
        """Fine-tune.

        Parameters
        ----------
        X : list, array, Series, DataFrame of one column, or array of shape (n, 1)
            SMILES or RDKit molecules.
        y : array of shape (n,) or (n, t)
            Values, NaN where unknown. A Series or DataFrame names the targets.
        sample_weight : array of shape (n,), optional
            At least 0.
        valid : tuple (X, y), optional
            Molecules and values that choose when to stop; nothing is learned from them otherwise.

        Raises
        ------
        MoleculeError
            If molecules cannot be read; names all of them. A ValueError, as are wrong settings and shapes.
        """
        values = _numbers(y, "y")
        one_d = np.ndim(y) == 1
        self.targets_ = names(y, values.shape[1])
        if valid is not None:
            valid = column(valid[0], type(self).__name__), _numbers(valid[1], "the values of valid")
        self._finetune(X, values, sample_weight, valid, "regression", ())
        self.model_.training["one_d"] = one_d
        return self

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Predict, in the units of y.

        Parameters
        ----------
        X
            As for `fit`.
        return_std
            Return the standard deviation of the error that is to be expected as well (of an ensemble only): from how
            much the models and the kernel machine differ, and how wrong they were on the valid part.

        Returns
        -------
        ndarray of float64, shape (n,) or (n, t)
            As y was. With `return_std`, two of them.
        """
        outputs = self._outputs(X)
        t = len(self.targets_)
        if not return_std:
            return self._shaped(outputs[:, :t])
        if not self.model_.task.spread:
            raise ValueError("return_std needs an ensemble: fit with ensemble=3, say")
        return self._shaped(outputs[:, :t]), self._shaped(outputs[:, t:])

    def predict_interval(self, X: Any, share: float = 0.9) -> tuple[Any, Any]:
        """Intervals that hold the truth in a share of cases, for molecules like those of the valid part.

        Split conformal prediction, from the errors of the valid part; of an ensemble wider where it is less sure.

        Parameters
        ----------
        X
            As for `fit`.
        share
            Above 0 and below 1.

        Returns
        -------
        low, high : ndarray of float64, shape (n,) or (n, t)
            As y was.

        Raises
        ------
        ValueError
            If the valid part is too small for this share: 0.9 takes 9 molecules, 0.95 takes 19.
        """
        outputs = self._outputs(X)
        low, high = self.model_.interval(outputs, share)
        return self._shaped(low), self._shaped(high)

    def _shaped(self, values: Float64[np.ndarray, "n t"]) -> Any:
        return values[:, 0] if self.model_.training.get("one_d", len(self.targets_) == 1) else values

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """R2 over the known values of y, averaged over targets; MoleculeError for what cannot be read."""
        predicted = self._outputs(X, "raise")[:, : len(self.targets_)]  # without standard deviations
        return _over_known(r2_score, _numbers(y, "y"), predicted, sample_weight)


class MolCMIMClassifier(ClassifierMixin, _Property):
    """Molecules -> classes: a pretrained model fine-tuned end to end.

    One target with two or more classes of any labels, or several questions with the answers 0 and 1.
    Parameters are those of :class:`MolCMIMRegressor`.

    Attributes
    ----------
    classes_ : ndarray
        Labels in the order of the columns of `predict_proba`; of several targets shape (t, 2), 0 and 1 for each.
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None, valid: tuple[Any, Any] | None = None) -> MolCMIMClassifier:
        """Fine-tune.

        Parameters
        ----------
        X : list, array, Series, DataFrame of one column, or array of shape (n, 1)
            SMILES or RDKit molecules.
        y : array of shape (n,) or (n, t)
            Labels; several columns hold 0 and 1. NaN (or None) where unknown.
        sample_weight : array of shape (n,), optional
            At least 0.
        valid : tuple (X, y), optional
            Molecules and labels that choose when to stop.

        Raises
        ------
        MoleculeError
            If molecules cannot be read; names all of them. A ValueError, as are wrong settings and shapes.
        """
        labels = np.asarray(y, object)
        self.targets_ = names(y, 1 if labels.ndim == 1 else labels.shape[1])
        labels = labels.reshape(len(labels), -1)
        known = labels[~pd.isna(labels)].tolist()
        if len({isinstance(label, str) for label in known}) > 1:
            raise ValueError("y holds text and numbers; make all labels the one or the other")
        classes = np.unique(np.array(known))
        if len(classes) < 2:
            raise ValueError(f"y holds {len(classes)} class(es); a classifier needs two at least")
        check_classification_targets(known)
        if labels.shape[1] > 1 and not np.array_equal(classes, [0, 1]):
            raise ValueError(f"several targets must hold 0 and 1 (or NaN), got {', '.join(map(str, classes[:5]))}")
        self.classes_ = classes if labels.shape[1] == 1 else np.stack([classes] * labels.shape[1])
        kind = "binary" if len(classes) == 2 else "multiclass"
        if valid is not None:
            numbers = self._numbered(valid[1])
            given = np.asarray(valid[1], object).reshape(numbers.shape)
            if foreign := sorted({str(label) for label in given[numbers == FOREIGN]}):
                raise ValueError(f"label(s) {', '.join(foreign)} were not in y of fit; known are {classes}")
            valid = column(valid[0], type(self).__name__), numbers
        self._finetune(X, self._numbered(y), sample_weight, valid, kind, [one.item() for one in classes])
        return self

    @property
    def _labels(self) -> Shaped[np.ndarray, " c"]:
        """Of each target."""
        return self.classes_ if len(self.targets_) == 1 else self.classes_[0]

    def _numbered(self, y: Any) -> Float64[np.ndarray, "n t"]:
        number: dict[Any, float] = {label: float(i) for i, label in enumerate(self._labels.tolist())}
        labels = np.asarray(y, object).reshape(len(y), -1)
        known = ~pd.isna(labels)
        numbers = np.full(labels.shape, np.nan)
        numbers[known] = [number.get(label, FOREIGN) for label in labels[known]]
        return numbers

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        assert tags.classifier_tags is not None
        tags.classifier_tags.multi_label = True
        return tags

    def predict_proba(self, X: Any) -> Float64[np.ndarray, "n _"]:
        """Probabilities: (n, classes), or of several targets (n, t) that the answer is 1."""
        return self._probabilities(X)

    def _probabilities(self, X: Any, on_error: str | None = None) -> Float64[np.ndarray, "n _"]:
        outputs = self._outputs(X, on_error)
        one_question = outputs.shape[1] == len(self.targets_) == 1  # 0 or 1; other labels have a column each
        return np.concatenate([1 - outputs, outputs], axis=1) if one_question else outputs

    def predict(self, X: Any) -> Any:
        """Most probable labels, (n,) or (n, t); None (of several targets: NaN) for bad molecules under "nan"."""
        labels = self.model_.task.labels(self._outputs(X))
        bad = pd.isna(labels).any()
        if len(self.targets_) > 1:
            return labels.astype(np.float64 if bad else self._labels.dtype)
        return labels[:, 0] if bad else labels[:, 0].astype(self._labels.dtype)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Accuracy over the known labels of y, averaged over targets; MoleculeError for what cannot be read.

        A label that was not in y of fit counts as missed.
        """
        truth = self._numbered(y)
        probabilities = self._probabilities(X, "raise")
        answers = (probabilities > 0.5) if len(self.targets_) > 1 else probabilities.argmax(1)[:, None]
        return _over_known(accuracy_score, truth, answers.astype(float), sample_weight)


def column(X: Any, who: str) -> Shaped[np.ndarray, " n"]:
    """Any accepted input as a 1-D array of objects."""
    X = check_array(X, dtype=object, ensure_2d=False, ensure_all_finite=False, input_name="X")
    if X.ndim == 2 and X.shape[1] > 1:
        raise ValueError(f"X has {X.shape[1]} columns; {who} takes one, of SMILES or RDKit molecules: select it")
    return X.ravel()


def names(y: Any, count: int) -> list[str]:
    """Names of targets: a frame's columns, a series' name, else y or y0, y1, ..."""
    if hasattr(y, "columns"):
        return [str(name) for name in y.columns]
    if count == 1:
        return [str(getattr(y, "name", None) or "y")]
    return [f"y{i}" for i in range(count)]


def _numbers(y: Any, what: str) -> Float64[np.ndarray, "n t"]:
    values = check_array(y, dtype=np.float64, ensure_2d=False, ensure_all_finite="allow-nan", input_name=what)
    return values[:, None] if values.ndim == 1 else values


def _over_known(metric: Any, truth: Any, predicted: Any, sample_weight: Any) -> float:
    if truth.shape != predicted.shape:
        raise ValueError(f"y has shape {truth.shape}; predicted are {predicted.shape}")
    scores = []
    for y, p in zip(truth.T, predicted.T, strict=True):
        known = ~np.isnan(y)
        if known.any():
            weights = None if sample_weight is None else np.asarray(sample_weight)[known]
            scores.append(metric(y[known], p[known], sample_weight=weights))
    return float(np.mean(scores)) if scores else float("nan")
