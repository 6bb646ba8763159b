"""What a property benchmark says: its fits as a table, in Markdown, as pictures. Fits nothing.

Mean and standard deviation are over the seeds of the random split (divided by their number, not one less). A
range is the 95 % bootstrap interval over the test part of a single split. Whatever is called chosen was chosen
by valid RMSE, for each split by itself: a mean over five random splits would know of rows that are the test part of
another. What is averaged is the predictions of the fits with the lowest valid RMSE: several learners, whose errors
partly cancel, and a choice that a small valid part sways less (after Caruana et al., *Ensemble selection from libraries
of models*, 2004, without weights). "Ours" is what uses a checkpoint of ours, with whatever beside it; all else is a
baseline.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from molcmim import downstream, plots
from molcmim.atomic import atomic_path
from molcmim.featurizer import EMBEDDINGS

PLACE = ["dataset", "split"]
FEATURES = ["features", "model", "features_id"]
ROW = [*PLACE, *FEATURES, "head"]
KEY = [*PLACE, "seed", *FEATURES, "head"]
CONTENT = 12
"""Hexadecimal digits that tell what two data sets of one name hold."""
ARRAYS = ["test_measured", "test_predictions", "valid_predictions"]
AVERAGED = 5
"""Fits whose predictions are averaged."""
MEAN = f"mean of the {AVERAGED} best by valid RMSE"


def _write_results(records: Sequence[dict[str, Any]], folder: Path) -> pd.DataFrame:
    """Write ``results.csv``, a row per fit, and return it, with predictions and what the features are called."""
    results = pd.DataFrame(records)
    # A file that has grown, or another column of it: another data set, whose rows and values are not to be compared.
    several = results.groupby("dataset")["content"].transform("nunique") > 1
    told_apart = results["dataset"] + " [" + results["content"].str[:CONTENT] + "]"
    results["dataset"] = results["dataset"].mask(several, told_apart)
    results = results.sort_values(KEY, ignore_index=True)
    table = results.drop(columns=ARRAYS)
    table["hyperparameters"] = [json.dumps(chosen) for chosen in table["hyperparameters"]]
    with atomic_path(folder / "results.csv") as path:
        table[[*KEY, *(name for name in table if name not in KEY)]].to_csv(path, index=False)
    return results.assign(label=_labels(results))


def write(records: Sequence[dict[str, Any]], notes: Sequence[str], folder: Path) -> pd.DataFrame:
    """Write ``results.csv``, ``table.md``, ``bars.png`` and ``parity-<data set>-<split>.png``.

    Parameters
    ----------
    records
        Fits: fields of a benchmark's task, of :class:`molcmim.downstream.Fit`, ``content`` (hash of the data set),
        ``unit`` and ``dims``.
    notes
        Lines about the data sets.
    folder
        Where to.

    Returns
    -------
    DataFrame
        The results.
    """
    results = _write_results(records, folder)
    summary = summarize(results)
    with atomic_path(folder / "table.md") as path:
        path.write_text(markdown(results, summary, notes), encoding="utf-8")
    plots.bars(summary, folder / "bars.png")
    for (dataset, split), rows in summary.groupby(PLACE, sort=False):
        panels = {}
        for _, best in rows.loc[rows.groupby("label", sort=False)["valid_rmse"].idxmin()].iterrows():
            fits = results[(results[[*ROW]] == best[[*ROW]]).all(axis=1)]
            panels[f"{best['label']}, {best['head']}: RMSE {best['rmse']:.3f}"] = (
                np.concatenate([*fits["test_measured"]]),
                np.concatenate([*fits["test_predictions"]]),
            )
        title = f"{dataset}, {split} split: test parts; each feature's head chosen by valid RMSE"
        plots.parity(panels, rows["unit"].iloc[0], folder / f"parity-{dataset}-{split}.png", title)
    return results


def _labels(results: pd.DataFrame) -> pd.Series:
    """Name features so that none are mistaken for others: by checkpoint and content, where there are several."""
    label = results["features"].copy()
    if results["model"].replace("", np.nan).nunique() > 1:
        label += [f" ({model})" if model else "" for model in results["model"]]
    versions = results.groupby([*PLACE, label])["features_id"].transform("nunique")
    return label + [f" [{x}]" if n > 1 else "" for x, n in zip(results["features_id"], versions, strict=True)]


def summarize(results: pd.DataFrame) -> pd.DataFrame:
    """Average over seeds: a row for each data set, split, features and head.

    Returns
    -------
    DataFrame
        Embeddings first: their names, ``label`` (of the features), ``unit``, ``seeds``, ``valid_rmse``, ``rmse``,
        ``sd``, ``low``, ``high`` (mean -+ sd, or the bootstrap interval if there is one seed), and
        ``rmse_of_mean``, ``sd_of_mean``: what predicting the train part's mean gives.
    """
    groups = results.groupby([*ROW, "label"], sort=False)
    rows = []
    for key, fits in groups:
        named = dict(zip([*ROW, "label"], key, strict=True))
        rows.append({**named, "valid_rmse": fits["valid_rmse"].mean(), **_average(fits)})
    summary = pd.DataFrame(rows)
    rank = {name: i for i, name in enumerate(EMBEDDINGS)}
    order = [(not row.model, rank.get(row.features, len(rank)), i) for i, row in enumerate(summary.itertuples())]
    return summary.iloc[[i for *_, i in sorted(order)]].reset_index(drop=True)


def _average(fits: pd.DataFrame) -> dict[str, Any]:
    rmse, sd, one = fits["test_rmse"].mean(), fits["test_rmse"].std(ddof=0), len(fits) == 1
    return {
        "unit": fits["unit"].iloc[0],
        "seeds": len(fits),
        "rmse": rmse,
        "sd": sd,
        "low": fits["test_rmse_low"].iloc[0] if one else rmse - sd,
        "high": fits["test_rmse_high"].iloc[0] if one else rmse + sd,
        "rmse_of_mean": fits["test_rmse_of_mean"].mean(),
        "sd_of_mean": fits["test_rmse_of_mean"].std(ddof=0),
    }


def choose(results: pd.DataFrame, ours: bool) -> pd.DataFrame:
    """Pick the fit with the lowest valid RMSE for each split of each data set: of ours, or of the baselines."""
    found = results[(results["model"] != "") == ours]
    return found.loc[found.groupby([*PLACE, "seed"])["valid_rmse"].idxmin()]


def average(results: pd.DataFrame, ours: bool) -> pd.DataFrame:
    """Average the predictions of the :data:`AVERAGED` fits with the lowest valid RMSE, or of all if there are fewer.

    Returns
    -------
    DataFrame
        A row for each split of each data set, as :func:`choose`, with errors of the mean on the test part.
    """
    rows = []
    for _, fits in results[(results["model"] != "") == ours].groupby([*PLACE, "seed"]):
        best = fits.nsmallest(AVERAGED, "valid_rmse")
        first, predictions = best.iloc[0], np.mean(np.stack([*best["test_predictions"]]), axis=0)
        measured = np.asarray(first["test_measured"])
        error = downstream.rmse(measured, predictions)
        low, high = downstream.bootstrap_rmse(measured, predictions, int(first["seed"]))
        found = {
            "test_predictions": predictions,
            "test_rmse": error,
            "test_rmse_low": low,
            "test_rmse_high": high,
            "test_rmse_over_sd": error * first["test_rmse_over_sd"] / first["test_rmse"],
        }
        rows.append({**first[[*PLACE, "seed", "unit", "test_measured", "test_rmse_of_mean"]], **found})
    return pd.DataFrame(rows)


def markdown(results: pd.DataFrame, summary: pd.DataFrame, notes: Sequence[str]) -> str:
    """Set the results as Markdown: a row for each features and head, a column for each data set and split.

    The lowest figure of a column is bold. The last rows say what one gets who chooses features and head by valid
    RMSE, among ours and among the baselines, or who averages the best by valid RMSE. Where there are both, a second
    table compares ours, chosen or averaged, with every baseline.
    """
    places = sorted(summary[PLACE].drop_duplicates().itertuples(index=False, name=None))
    column = {place: _at(summary, place) for place in places}
    head = ["features", "head"] + [f"{name} {split} ({column[name, split]['unit'].iloc[0]})" for name, split in places]
    lines = [head]
    for label, model_head in summary[["label", "head"]].drop_duplicates().itertuples(index=False, name=None):
        cells = []
        for place in places:
            found = column[place]
            row = found[(found["label"] == label) & (found["head"] == model_head)]
            cells.append(_cell(row.iloc[0], bool(row.index[0] == found["rmse"].idxmin())) if len(row) else "")
        lines.append([label, model_head, *cells])
    for title, ours in (("ours", True), ("baselines", False)):
        if ((results["model"] != "") == ours).any():
            one, several = choose(results, ours), average(results, ours)
            chosen = [_at(one, place) for place in places]
            cells = [f"{_cell(_average(found))}: {_names(found)}" if len(found) else "" for found in chosen]
            means = [
                _cell(_average(found)) if len(found) else "" for found in (_at(several, place) for place in places)
            ]
            lines += [[f"*{title}, chosen by valid RMSE*", "", *cells], [f"*{title}, {MEAN}*", "", *means]]
    of_mean = [_value(column[place].iloc[0], "rmse_of_mean", "sd_of_mean") for place in places]
    lines.append(["*the train part's mean*", "", *of_mean])
    return "\n".join(
        [
            "Test RMSE: mean ± sd over a split's seeds; 95 % bootstrap interval of the test part in brackets, "
            "where there is one split. Lowest of a column in bold. Hyperparameters, and each choice below, have the "
            "lowest valid RMSE of their split (so ridge's figures are not those of a leave-one-out choice on train).",
            "",
            *_table(lines),
            "",
            *_comparison(results, places),
            *(f"- {note}" for note in notes),
            "",
        ]
    )


def _comparison(results: pd.DataFrame, places: Sequence[tuple[str, str]]) -> list[str]:
    """Say of each place whether ours has a lower test RMSE than every baseline, and else by how much not."""
    if (results["model"] == "").all() or (results["model"] != "").all():
        return []
    of_ours = {"chosen": choose(results, ours=True), "mean": average(results, ours=True)}
    picked = {"chosen by valid RMSE": choose(results, ours=False), MEAN: average(results, ours=False)}
    lines = [["", "ours", "ours minus lowest baseline", "lowest baseline", "ours / train sd", "baselines not beaten"]]
    for place, (how, all_ours) in itertools.product(places, of_ours.items()):
        ours = _at(all_ours, place)
        baselines = _at(results[results["model"] == ""], place).groupby(["label", "head"], sort=False)
        named = [(", ".join(key), fits) for key, fits in baselines]
        if len(named) > 1:
            named += [(f"baselines, {name}", _at(fits, place)) for name, fits in picked.items()]
        rivals = []
        for name, fits in named:
            both = ours.merge(fits, on="seed", suffixes=("", "_theirs")) if len(ours) else ours
            if len(both):
                rivals.append((both["test_rmse"].mean() - both["test_rmse_theirs"].mean(), name, both))
        if rivals:
            rivals.sort(key=lambda rival: -rival[0])
            worse = [f"{name} (by {by:.3f})" for by, name, _ in rivals if by >= 0]
            said = f"**{len(worse)} of {len(rivals)}**: {'; '.join(worse)}" if worse else f"none of {len(rivals)}"
            difference, name, both = rivals[0]
            spread, relative = _spread(both), ours["test_rmse_over_sd"].mean()
            lines.append([" ".join(place), how, f"{difference:+.3f} {spread}", name, f"{relative:.3f}", said])
    if len(lines) == 1:
        return []
    explained = (
        f"Ours, chosen by valid RMSE, and the {MEAN}, against each baseline, a choice among them and "
        "their mean, on the same splits: difference of test RMSE ± sd over seeds, or its 95 % interval (paired "
        "bootstrap of the test part). Negative: ours is better. The lowest is lowest on test, which nobody could have "
        "known."
    )
    return [explained, "", *_table(lines), "", *_informative(results)]


def _informative(results: pd.DataFrame) -> list[str]:
    """Say where the informative embedding has a lower test RMSE than the mean embedding, and where not."""
    wide = results[results["model"] != ""].pivot_table(
        index=["model", *PLACE, "head"], columns="features", values="test_rmse"
    )
    if not {"mean", "informative"} <= set(wide):
        return []
    difference = (wide["informative"] - wide["mean"]).dropna()
    where = [f"{' '.join(key[1:])} (by {by:.3f})" for key, by in difference.items() if by >= 0]
    said = f"informative is below mean in {len(difference) - len(where)} of {len(difference)} places and heads"
    return [f"- {said}{'; not in ' if where else ''}{', '.join(where)}."]


def _spread(both: pd.DataFrame) -> str:
    if len(both) > 1:
        return f"± {(both['test_rmse'] - both['test_rmse_theirs']).std(ddof=0):.3f}"
    fit = both.iloc[0]
    pair = [
        downstream.bootstrap(np.asarray(fit["test_measured"]), np.asarray(fit[f"test_predictions{whose}"]))
        for whose in ("", "_theirs")
    ]
    low, high = np.quantile(pair[0] - pair[1], [0.025, 0.975])
    return f"[{low:+.2f}, {high:+.2f}]"


def _at(frame: pd.DataFrame, place: tuple[str, str]) -> pd.DataFrame:
    return frame[(frame[PLACE] == list(place)).all(axis=1)]


def _names(fits: pd.DataFrame) -> str:
    """Name what was chosen, the most frequent first, with how often if that differs between seeds."""
    counts = (fits["label"] + ", " + fits["head"]).value_counts()
    return "; ".join(f"{name} ({n} of {len(fits)})" if len(counts) > 1 else name for name, n in counts.items())


def _table(lines: Sequence[Sequence[str]]) -> list[str]:
    ruled = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return ["| " + " | ".join(cells) + " |" for cells in ruled]


def _value(row: Any, mean: str = "rmse", sd: str = "sd") -> str:
    return f"{row[mean]:.3f}" + (f" ± {row[sd]:.3f}" if row["seeds"] > 1 else "")


def _cell(row: Any, bold: bool = False) -> str:
    interval = f" [{row['low']:.2f}, {row['high']:.2f}]" if row["seeds"] == 1 else ""
    return (f"**{_value(row)}**" if bold else _value(row)) + interval
