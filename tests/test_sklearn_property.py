"""sklearn_property: the contract of scikit-learn's estimators, with real molecules and a model of random weights."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rdkit import Chem
from rdkit.Chem import Crippen
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.exceptions import NotFittedError, SkipTestWarning
from sklearn.metrics import accuracy_score, get_scorer, r2_score, roc_auc_score
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.utils import estimator_checks
from stores import MOLECULES

from molcmim import finetune
from molcmim.calibration import scaled_errors
from molcmim.sklearn import MolCMIMClassifier, MolCMIMRegressor
from molcmim.smiles import MoleculeError

SMILES = [text for text, _ in MOLECULES]
LOGP = np.array([Crippen.MolLogP(Chem.MolFromSmiles(text)) for text in SMILES])
SMALL = {"spellings": 2, "waves": 16}


@pytest.fixture(scope="module")
def regressor(tiny_checkpoint: Path) -> MolCMIMRegressor:
    return MolCMIMRegressor(tiny_checkpoint, epochs=1, predict_spellings=2, options=SMALL, device="cpu")


@pytest.fixture(scope="module")
def classifier(tiny_checkpoint: Path) -> MolCMIMClassifier:
    return MolCMIMClassifier(tiny_checkpoint, epochs=1, predict_spellings=2, options=SMALL, device="cpu")


@pytest.mark.parametrize("kind", [MolCMIMRegressor, MolCMIMClassifier])
def test_check_estimator(kind: Any, tiny_checkpoint: Path) -> None:
    with pytest.warns(SkipTestWarning, match="requires input  of type"):  # strings: scikit-learn makes up none
        results = estimator_checks.check_estimator(kind(tiny_checkpoint))
    assert [result["status"] for result in results] == ["passed"]
    name, estimator = kind.__name__, kind(tiny_checkpoint)
    for check in ("check_no_attributes_set_in_init", "check_get_params_invariance", "check_set_params",
                  "check_parameters_default_constructible", "check_valid_tag_types"):  # fmt: skip
        getattr(estimator_checks, check)(name, clone(estimator))
    assert (is_regressor(estimator), is_classifier(estimator)) == (kind is MolCMIMRegressor, kind is MolCMIMClassifier)


def test_any_container_gives_the_same_model(regressor: MolCMIMRegressor, tmp_path: Path) -> None:
    frame = pd.DataFrame({"smiles": SMILES, "logP": LOGP})
    fitted = clone(regressor).fit(SMILES, LOGP)
    expected = fitted.predict(SMILES)
    assert expected.shape == (48,)
    for X in (frame["smiles"], frame[["smiles"]], [Chem.MolFromSmiles(one) for one in SMILES]):
        np.testing.assert_array_equal(fitted.predict(X), expected)
    column = clone(regressor).fit(SMILES, LOGP[:, None])
    column.save(tmp_path / "column")
    for one in (column, MolCMIMRegressor.load(tmp_path / "column", "cpu")):  # as y was
        np.testing.assert_allclose(one.predict(SMILES), expected[:, None], atol=1e-5)
    again = clone(regressor).fit(frame[["smiles"]], frame["logP"])
    np.testing.assert_array_equal(again.predict(np.array(SMILES)), expected)
    assert (fitted.targets_, again.targets_) == (["y"], ["logP"])
    with pytest.raises(ValueError, match="X has 2 columns; MolCMIMRegressor takes one"):
        clone(regressor).fit(frame, LOGP)


def test_a_valid_part_of_ones_own(regressor: MolCMIMRegressor) -> None:
    inner = clone(regressor).fit(SMILES, LOGP)
    order = np.random.RandomState(0).permutation(48)
    outer = clone(regressor).fit(
        [SMILES[i] for i in order[5:]], LOGP[order[5:]], valid=([SMILES[i] for i in order[:5]], LOGP[order[:5]])
    )
    np.testing.assert_array_equal(inner.predict(SMILES), outer.predict(SMILES))
    assert inner.model_.training["rows"] == {"train": 43, "valid": 5}
    assert [entry["epoch"] for entry in inner.history_] == [0, 1]


@pytest.mark.parametrize("seed", range(5))
def test_a_rare_class_is_in_the_valid_part(classifier: MolCMIMClassifier, monkeypatch: Any, seed: int) -> None:
    parts: list[tuple[list[str], list[float]]] = []

    def captured(_: Any, smiles: Any, y: Any, valid: Any, **__: Any) -> None:
        parts.extend([(list(smiles), y[:, 0].tolist()), (list(valid[0]), valid[1][:, 0].tolist())])

    monkeypatch.setattr(finetune, "finetune", captured)
    labels = dict(zip(SMILES, ["often", "rare", "often", "often", "often"] * 10, strict=False))
    clone(classifier).set_params(validation_fraction=0.2, random_state=seed).fit(SMILES, list(labels.values()))
    assert sorted(parts[0][0] + parts[1][0]) == sorted(SMILES)
    for smiles, y in parts:
        assert [labels[one] for one in smiles] == [("often", "rare")[int(number)] for number in y]
    assert (len(parts[1][1]), sum(parts[1][1])) == (10, 2)


@pytest.mark.parametrize("seed", range(5))
def test_all_rows_of_a_molecule_are_in_one_part(
    regressor: MolCMIMRegressor, classifier: MolCMIMClassifier, monkeypatch: Any, seed: int
) -> None:
    parts: list[Any] = []

    def captured(_: Any, smiles: Any, y: Any, valid: Any, **__: Any) -> Any:
        parts.append((smiles, valid[0], y))
        return SimpleNamespace(training={})

    monkeypatch.setattr(finetune, "finetune", captured)
    again = [text for text, other in MOLECULES for text in (text, other, text)]  # in another spelling, too
    order = np.random.RandomState(seed).permutation(len(again))
    clone(regressor).set_params(random_state=seed).fit(np.array(again)[order], np.repeat(LOGP, 3)[order])
    labels = np.array(["often"] * 46 + ["twice"] * 2)
    labels[7] = "a single time"
    clone(classifier).set_params(random_state=seed, validation_fraction=0.6).fit(
        np.array(again)[order], np.repeat(labels, 3)[order]
    )
    for train, valid, _ in parts:
        held_out = {Chem.CanonSmiles(text) for text in valid}
        assert held_out.isdisjoint(Chem.CanonSmiles(text) for text in train)
        assert len(train) + len(valid) == len(again)
        assert len(valid) == 3 * len(held_out)
    assert len(parts[0][1]) == 3 * 5
    assert set(parts[1][2][:, 0]) == {0, 1, 2}


def test_pickle_save_and_load(regressor: MolCMIMRegressor, tmp_path: Path) -> None:
    fitted = clone(regressor).set_params(ensemble=2).fit(SMILES, LOGP)
    expected = fitted.predict(SMILES, return_std=True)
    fitted.save(tmp_path / "model")
    for other in (pickle.loads(pickle.dumps(fitted)), MolCMIMRegressor.load(tmp_path / "model", "cpu")):
        for mine, theirs in zip(expected, other.predict(SMILES, return_std=True), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    assert (expected[1] > 0).all()
    assert other.get_params()["options"]["waves"] == 16
    np.testing.assert_array_equal(clone(other).fit(SMILES, LOGP).predict(SMILES), expected[0])
    with pytest.raises(NotFittedError):
        clone(fitted).predict(SMILES)
    with pytest.raises(NotFittedError):
        clone(fitted).save(tmp_path / "other")


@pytest.mark.parametrize("ensemble", [1, 2])
def test_intervals_come_from_the_errors_of_the_valid_part(
    ensemble: int, regressor: MolCMIMRegressor, tmp_path: Path
) -> None:
    valid = SMILES[:20], np.stack([LOGP[:20], np.where(np.arange(20) < 9, LOGP[:20] ** 2, np.nan)], 1)
    y = np.stack([LOGP, LOGP**2], 1)[20:]
    fitted = clone(regressor).set_params(ensemble=ensemble).fit(SMILES[20:], y, valid=valid)
    fitted.save(tmp_path / "model")
    fitted = MolCMIMRegressor.load(tmp_path / "model", "cpu")
    low, high = fitted.predict_interval(SMILES, 0.8)
    predicted = fitted.predict(SMILES)
    np.testing.assert_allclose((low + high) / 2, predicted)
    scale, errors = np.ones((48, 2)), np.abs(valid[1] - predicted[:20])
    if ensemble > 1:  # in units of what is fitted to other rows
        scale = fitted.predict(SMILES, return_std=True)[1]
        spelled = fitted.model_.speller().read(SMILES[:20])
        variance = fitted.model_.mean_and_variance(spelled)[1][spelled.which]
        columns = zip(valid[1].T, predicted[:20].T, variance.T, strict=True)
        errors = np.stack([scaled_errors(*column) for column in columns], 1)
    ranked = np.sort(errors, axis=0)  # NaN last
    np.testing.assert_allclose(high - predicted, scale * [ranked[16, 0], ranked[7, 1]], rtol=1e-4)  # 17 of 20, 8 of 9
    with pytest.raises(ValueError, match="the valid part has 9 values of y1, too few for an interval that holds 95%"):
        fitted.predict_interval(SMILES, 0.95)
    with pytest.raises(ValueError, match=r"the share of an interval must be above 0 and below 1, got 95\.0"):
        fitted.predict_interval(SMILES, 95.0)


def test_weights_go_where_their_rows_go(regressor: MolCMIMRegressor, monkeypatch: Any) -> None:
    given = dict(zip(SMILES, np.linspace(0.5, 2, 48), strict=True))

    def captured(_: Any, smiles: Any, y: Any, valid: Any, *, weights: Any, valid_weights: Any, **__: Any) -> Any:
        assert [given[one] for one in smiles] == weights.tolist()
        assert [given[one] for one in valid[0]] == valid_weights.tolist()
        return SimpleNamespace(training={})

    monkeypatch.setattr(finetune, "finetune", captured)
    clone(regressor).fit(SMILES, LOGP, sample_weight=list(given.values()))


def test_rows_of_no_weight_change_nothing(regressor: MolCMIMRegressor) -> None:
    rubbish = np.r_[LOGP, np.linspace(40, 60, 24)]
    weights = np.r_[np.ones(48), np.full(24, 1e-9)]
    order = np.random.RandomState(1).permutation(72)
    everything = [*SMILES, *SMILES[:24]]
    one = clone(regressor).set_params(ensemble=2, epochs=0, validation_fraction=0.4)
    one.fit([everything[i] for i in order], rubbish[order], sample_weight=weights[order])
    assert one.model_.task.center[0] == pytest.approx(LOGP.mean(), abs=0.3)
    assert one.model_.task.scale[0] == pytest.approx(LOGP.std(), rel=0.3)
    assert one.score(SMILES, LOGP) > 0
    for wrong, said in (
        (np.r_[1.0, -1, np.ones(46)], "row 1 has -1.0"),
        (np.zeros(48), "no known value"),
        (np.ones((48, 1)), r"one number a row, got shape \(48, 1\)"),
    ):
        with pytest.raises(ValueError, match=said):
            clone(regressor).fit(SMILES, LOGP, sample_weight=wrong, valid=(SMILES[:5], LOGP[:5]))


@pytest.mark.parametrize("targets", [2, 3])
def test_scikit_learns_scorers_take_several_questions(targets: int, classifier: MolCMIMClassifier) -> None:
    y = np.stack([bound < LOGP for bound in (0.5, 1.5, 2.5)[:targets]], 1).astype(int)
    fitted = clone(classifier).set_params(epochs=0).fit(SMILES, y)
    p = fitted.predict_proba(SMILES)
    assert p.shape == (48, targets)
    assert get_scorer("roc_auc")(fitted, SMILES, y) == pytest.approx(roc_auc_score(y, p))
    assert cross_val_predict(clone(fitted), SMILES, y, cv=2, method="predict_proba").shape == (48, targets)
    assert fitted.classes_.tolist() == [[0, 1]] * targets


def test_several_targets_and_unknown_values(regressor: MolCMIMRegressor) -> None:
    y = pd.DataFrame({"a": LOGP, "b": -2 * LOGP})
    y.loc[::3, "b"] = np.nan
    fitted = clone(regressor).fit(SMILES, y, sample_weight=np.linspace(1, 2, 48))
    predicted = fitted.predict(SMILES)
    assert predicted.shape == (48, 2)
    assert fitted.targets_ == ["a", "b"]
    known = ~y["b"].isna()
    expected = (r2_score(LOGP, predicted[:, 0]) + r2_score(y["b"][known], predicted[known, 1])) / 2
    assert fitted.score(SMILES, y) == pytest.approx(expected)
    with pytest.raises(ValueError, match="return_std needs an ensemble"):
        fitted.predict(SMILES, return_std=True)


def test_inside_scikit_learns_searches(regressor: MolCMIMRegressor, classifier: MolCMIMClassifier) -> None:
    search = GridSearchCV(regressor, {"epochs": [0, 1]}, cv=2, error_score="raise").fit(SMILES, LOGP)
    assert search.best_estimator_.predict(["CCO"]).shape == (1,)
    labels = np.where(LOGP > 1.5, "greasy", "not")
    predicted = cross_val_predict(clone(classifier).set_params(epochs=0), np.array(SMILES), labels, cv=3)
    assert accuracy_score(labels, predicted) > 0.5


@pytest.mark.parametrize(
    "labels",
    [LOGP > 1.5, np.where(LOGP > 1.5, "yes", "no"), np.digitize(LOGP, [1, 2]) * 5, (LOGP > 1.5).astype(float)],
    ids=["bool", "str", "three", "float"],
)
def test_labels_of_any_kind(labels: np.ndarray, classifier: MolCMIMClassifier) -> None:
    fitted = clone(classifier).fit(SMILES, labels, valid=(SMILES, labels))
    np.testing.assert_array_equal(fitted.classes_, np.unique(labels))
    p = fitted.predict_proba(SMILES)
    assert p.shape == (48, len(fitted.classes_))
    np.testing.assert_allclose(p.sum(1), 1)
    predicted = fitted.predict(SMILES)
    np.testing.assert_array_equal(predicted, fitted.classes_[p.argmax(1)])
    assert predicted.dtype == fitted.classes_.dtype
    assert fitted.score(SMILES, labels) == pytest.approx((predicted == labels).mean())
    assert fitted.score(SMILES, labels) > 0.8


def test_unknown_and_foreign_labels(classifier: MolCMIMClassifier) -> None:
    labels = (LOGP > 1.5).astype(float)
    labels[::5] = np.nan
    known = ~np.isnan(labels)
    fitted = clone(classifier).set_params(epochs=0).fit(SMILES, pd.Series(labels).astype("Int64"))
    expected = clone(classifier).set_params(epochs=0).fit(SMILES, labels)
    np.testing.assert_array_equal(fitted.predict_proba(SMILES), expected.predict_proba(SMILES))
    assert fitted.score(SMILES, labels) == pytest.approx((fitted.predict(SMILES) == labels)[known].mean())
    foreign = np.where(np.arange(48) % 2, labels, 7)  # a class that a fold had not: missed, as scikit-learn has it
    assert fitted.score(SMILES, foreign) == pytest.approx(
        (fitted.predict(SMILES) == foreign)[~np.isnan(foreign)].mean()
    )


def test_several_questions(classifier: MolCMIMClassifier, tmp_path: Path) -> None:
    y = np.stack([LOGP > 1.5, LOGP < 0.5], 1).astype(float)
    y[::4, 0] = np.nan
    fitted = clone(classifier).set_params(on_error="nan").fit(SMILES, y)
    p = fitted.predict_proba([*SMILES, "C1CC"])
    assert p.shape == (49, 2)
    answers = fitted.predict([*SMILES, "C1CC"])
    np.testing.assert_array_equal(answers[:48], p[:48] > 0.5)
    assert np.isnan(answers[48]).all()
    known = ~np.isnan(y[:, 0])
    expected = ((answers[:48][known, 0] == y[known, 0]).mean() + (answers[:48, 1] == y[:, 1]).mean()) / 2
    assert fitted.score(SMILES, y) == pytest.approx(expected)
    fitted.save(tmp_path / "model")
    np.testing.assert_array_equal(MolCMIMClassifier.load(tmp_path / "model", "cpu").predict(SMILES), answers[:48])
    with pytest.raises(ValueError, match=r"use MolCMIMClassifier\.load"):
        MolCMIMRegressor.load(tmp_path / "model")


def test_bad_rows(regressor: MolCMIMRegressor, classifier: MolCMIMClassifier) -> None:
    with pytest.raises(MoleculeError, match="unclosed ring") as caught:
        clone(regressor).set_params(on_error="nan").fit([*SMILES[:47], "C1CC"], LOGP, valid=(SMILES[:5], LOGP[:5]))
    assert [bad.row for bad in caught.value.rows] == [47]
    with pytest.raises(MoleculeError) as caught:
        clone(regressor).fit(["C" * 600, *SMILES[:45], None, "C1CC"], LOGP)
    assert [bad.row for bad in caught.value.rows] == [0, 46, 47]
    fitted = clone(regressor).fit(SMILES, LOGP)
    with pytest.raises(MoleculeError):
        fitted.predict(["CCO", None])
    predicted = fitted.set_params(on_error="nan").predict(["CCO", None])
    assert np.isnan(predicted).tolist() == [False, True]
    labels = clone(classifier).set_params(on_error="nan").fit(SMILES, np.where(LOGP > 1.5, "yes", "no"))
    assert labels.predict(["CCO", "C1CC"]).tolist() == ["no", None]
    for estimator, y in ((fitted, [1.0, 2.0]), (labels, ["no", "no"])):
        with pytest.raises(MoleculeError, match="row 1: 'C1CC'"):
            estimator.score(["CCO", "C1CC"], y)


def test_rows_without_value_or_weight_neither_teach_nor_choose(regressor: MolCMIMRegressor) -> None:
    weight = np.ones(48)
    weight[::4] = 0
    wild, unknown = np.where(weight, LOGP, 1e4), np.where(weight, LOGP, np.nan)
    kept = weight > 0
    order = np.random.RandomState(0).permutation(48)
    order = order[kept[order]]
    inner, outer = order[4:], order[:4]
    fitted = [
        clone(regressor).fit(SMILES, wild, sample_weight=weight),
        clone(regressor).fit(SMILES, unknown),
        clone(regressor).fit([SMILES[i] for i in inner], LOGP[inner], valid=([SMILES[i] for i in outer], LOGP[outer])),
    ]
    assert [model.model_.training["rows"]["valid"] for model in fitted] == [4, 4, 4]
    for model in fitted[:2]:
        np.testing.assert_array_equal(model.predict(SMILES), fitted[2].predict(SMILES))


def test_labels_that_are_none(classifier: MolCMIMClassifier) -> None:
    for labels, message in (
        (np.array([1, "a"] * 24, object), "y holds text and numbers"),
        (LOGP, "Unknown label type: continuous"),
    ):
        with pytest.raises(ValueError, match=message):
            clone(classifier).fit(SMILES, labels)


def test_scores_are_of_the_targets_that_were_fitted(regressor: MolCMIMRegressor) -> None:
    quick = clone(regressor).set_params(epochs=0, options={**SMALL, "descriptors": False})
    one = clone(quick).set_params(ensemble=2).fit(SMILES, LOGP)
    assert one.score(SMILES, LOGP) == pytest.approx(r2_score(LOGP, one.predict(SMILES)))
    with pytest.raises(ValueError, match=r"y has shape \(48, 2\); predicted are \(48, 1\)"):
        one.score(SMILES, np.c_[LOGP, LOGP])
    two = clone(quick).fit(SMILES, np.c_[LOGP, -LOGP])
    with pytest.raises(ValueError, match=r"y has shape \(48, 1\); predicted are \(48, 2\)"):
        two.score(SMILES, LOGP)
    unknown = np.full(48, np.nan)
    assert two.score(SMILES, np.c_[LOGP, unknown]) == pytest.approx(r2_score(LOGP, two.predict(SMILES)[:, 0]))
    assert np.isnan(two.score(SMILES, np.c_[unknown, unknown]))


def test_random_states_of_any_kind(regressor: MolCMIMRegressor) -> None:
    def fitted(state: Any) -> np.ndarray:
        options = {**SMALL, "descriptors": False}
        return clone(regressor).set_params(random_state=state, options=options).fit(SMILES, LOGP).predict(SMILES)

    np.testing.assert_array_equal(fitted(np.random.RandomState(5)), fitted(np.random.RandomState(5)))
    assert not np.array_equal(fitted(None), fitted(None))


def test_similarity_is_to_what_was_learned_from(regressor: MolCMIMRegressor) -> None:
    y, weight = np.where(np.arange(48) < 10, np.nan, LOGP), np.where(np.arange(48) < 20, 0, 1)
    fitted = clone(regressor).set_params(epochs=0).fit(SMILES, y, weight, (SMILES[:20], LOGP[:20]))
    near = fitted.train_similarity(SMILES)
    assert (near[20:] == 1).all()
    assert (near[:20] < 1).all()


def test_numbers_as_searches_draw_them(regressor: MolCMIMRegressor, tmp_path: Path) -> None:
    drawn = {"epochs": np.int64(1), "random_state": np.int64(3), "options": {**SMALL, "dropout": np.float32(0.5)}}
    plain = {"epochs": 1, "random_state": 3, "options": {**SMALL, "dropout": 0.5}}
    a, b = (clone(regressor).set_params(**settings).fit(SMILES, LOGP) for settings in (drawn, plain))
    a.save(tmp_path / "model")
    np.testing.assert_array_equal(MolCMIMRegressor.load(tmp_path / "model", "cpu").predict(SMILES), b.predict(SMILES))


@pytest.mark.parametrize(
    ("settings", "y", "message"),
    [
        ({"on_error": "skip"}, LOGP, "'raise' or 'nan' here, got 'skip'"),
        ({"validation_fraction": 1.5}, LOGP, "validation_fraction must be between 0 and 1"),
        ({"options": {"dropout": -1.0}}, LOGP, "dropout must be between"),
        ({}, LOGP[:5], "[Ii]nconsistent"),
        ({}, np.zeros(48), "nothing to learn"),
        ({}, np.full(48, 0.1), "nothing to learn"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], y: np.ndarray, message: str, regressor: MolCMIMRegressor) -> None:
    with pytest.raises(ValueError, match=message):
        clone(regressor).set_params(**settings).fit(SMILES, y)


def test_wrong_labels(classifier: MolCMIMClassifier) -> None:
    with pytest.raises(ValueError, match="1 class"):
        clone(classifier).fit(SMILES, np.ones(48))
    with pytest.raises(ValueError, match="several targets must hold 0 and 1"):
        clone(classifier).fit(SMILES, np.stack([np.arange(48) % 3] * 2, 1))
    with pytest.raises(ValueError, match=r"label.* maybe were not in y"):
        clone(classifier).fit(SMILES, np.where(LOGP > 1, "yes", "no"), valid=(["C", "CC"], ["yes", "maybe"]))
