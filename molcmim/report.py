"""What a property benchmark says: its fits as a table, in Markdown, as pictures. Fits nothing.

Mean and standard deviation are over the seeds of the random split (divided by their number, not one less). A
range is the 95 % bootstrap interval over the test part of a single split. Whatever is called chosen was chosen
by valid RMSE.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from molcmim import plots
from molcmim.featurizer import EMBEDDINGS
from molcmim.files import atomic_path

PLACE = ["dataset", "split"]
FEATURES = ["features", "model", "features_id"]
KEY = ["dataset", "split", "seed", *FEATURES, "head"]
ARRAYS = ["test_measured", "test_predictions", "valid_predictions"]


def write_results(records: Sequence[dict[str, Any]], folder: Path) -> pd.DataFrame:
    """Write ``results.csv``, a row per fit, and return it."""
    results = pd.DataFrame(records).drop(columns=ARRAYS).sort_values(KEY, ignore_index=True)
    results["hyperparameters"] = [json.dumps(chosen) for chosen in results["hyperparameters"]]
    with atomic_path(folder / "results.csv") as path:
        results[[*KEY, *(name for name in results if name not in KEY)]].to_csv(path, index=False)
    return results


def write(records: Sequence[dict[str, Any]], notes: Sequence[str], folder: Path) -> pd.DataFrame:
    """Write ``results.csv``, ``table.md``, ``bars.png`` and ``parity-<data set>-<split>.png``.

    Parameters
    ----------
    records
        Fits: fields of a benchmark's task, of :class:`molcmim.downstream.HeadFit`, ``unit`` and ``dims``.
    notes
        Lines about the data sets.
    folder
        Where to.

    Returns
    -------
    DataFrame
        The results.
    """
    results = write_results(records, folder)
    summary = summarize(results)
    with atomic_path(folder / "table.md") as path:
        path.write_text(markdown(summary, notes), encoding="utf-8")
    plots.bars(summary, folder / "bars.png")
    for (dataset, split), rows in summary.groupby(PLACE, sort=False):
        panels = {}
        for _, best in rows.loc[rows.groupby("label", sort=False)["valid_rmse"].idxmin()].iterrows():
            same = [r for r in records if all(r[name] == best[name] for name in [*PLACE, *FEATURES, "head"])]
            panels[f"{best['label']}, {best['head']}: RMSE {best['rmse']:.3f}"] = (
                np.concatenate([r["test_measured"] for r in same]),
                np.concatenate([r["test_predictions"] for r in same]),
            )
        title = f"{dataset}, {split} split: test parts; each feature's head chosen by valid RMSE"
        plots.parity(panels, title, rows["unit"].iloc[0], folder / f"parity-{dataset}-{split}.png")
    return results


def summarize(results: pd.DataFrame) -> pd.DataFrame:
    """Average over seeds: a row for each data set, split, features and head.

    Returns
    -------
    DataFrame
        Embeddings first: their names, ``label`` (of the features), ``unit``, ``seeds``, ``valid_rmse``, ``rmse``,
        ``sd``, ``low``, ``high`` (mean -+ sd, or the bootstrap interval if there is one seed), and
        ``rmse_of_mean``, ``sd_of_mean``: what predicting the train part's mean gives.
    """
    rows = []
    for key, fits in results.groupby([*PLACE, *FEATURES, "head"], sort=False):
        rmse, sd = fits["test_rmse"].mean(), fits["test_rmse"].std(ddof=0)
        low, high = fits["test_rmse_low"].iloc[0], fits["test_rmse_high"].iloc[0]
        rows.append(
            {
                **dict(zip([*PLACE, *FEATURES, "head"], key, strict=True)),
                "unit": fits["unit"].iloc[0],
                "seeds": len(fits),
                "valid_rmse": fits["valid_rmse"].mean(),
                "rmse": rmse,
                "sd": sd,
                "low": low if len(fits) == 1 else rmse - sd,
                "high": high if len(fits) == 1 else rmse + sd,
                "rmse_of_mean": fits["test_rmse_of_mean"].mean(),
                "sd_of_mean": fits["test_rmse_of_mean"].std(ddof=0),
            }
        )
    summary = pd.DataFrame(rows)
    models = summary["model"].replace("", np.nan).nunique()
    summary["label"] = summary["features"]
    if models > 1:
        summary["label"] += [f" ({model})" if model else "" for model in summary["model"]]
    versions = summary.groupby([*PLACE, "label"])["features_id"].transform("nunique")
    summary["label"] += [f" [{x}]" if n > 1 else "" for x, n in zip(summary["features_id"], versions, strict=True)]
    rank = {name: i for i, name in enumerate(EMBEDDINGS)}
    order = [(not row.model, rank.get(row.features, len(rank)), i) for i, row in enumerate(summary.itertuples())]
    return summary.iloc[[i for *_, i in sorted(order)]].reset_index(drop=True)


def markdown(summary: pd.DataFrame, notes: Sequence[str]) -> str:
    """Set the summary as a Markdown table: a row for each features and head, a column for each data set and split.

    The lowest figure of a column is bold. The last rows say what one gets who chooses features and head by valid
    RMSE, among those with an embedding and among the others.
    """
    places = sorted(summary[PLACE].drop_duplicates().itertuples(index=False, name=None))
    column = {place: summary[(summary[PLACE] == list(place)).all(axis=1)] for place in places}
    head = ["features", "head"] + [f"{name} {split} ({column[name, split]['unit'].iloc[0]})" for name, split in places]
    lines = [head, ["---"] * len(head)]
    for label, model_head in summary[["label", "head"]].drop_duplicates().itertuples(index=False, name=None):
        cells = []
        for place in places:
            found = column[place]
            row = found[(found["label"] == label) & (found["head"] == model_head)]
            cells.append(_cell(row.iloc[0], bool(row.index[0] == found["rmse"].idxmin())) if len(row) else "")
        lines.append([label, model_head, *cells])
    embedded = summary["model"] != ""
    for title, of in (("embeddings", embedded), ("the others", ~embedded)):
        if of.any():
            cells = []
            for place in places:
                found = column[place][of[column[place].index]]
                best = found.loc[found["valid_rmse"].idxmin()] if len(found) else None
                cells.append("" if best is None else f"{_cell(best)}: {best['label']}, {best['head']}")
            lines.append([f"*chosen by valid RMSE: {title}*", "", *cells])
    of_mean = [_value(column[place].iloc[0], "rmse_of_mean", "sd_of_mean") for place in places]
    lines.append(["*the train part's mean*", "", *of_mean])
    return "\n".join(
        [
            "Test RMSE: mean ± sd over the random splits' seeds; 95 % bootstrap interval of the test part in brackets, "
            "where there is one split. Lowest of a column in bold.",
            "",
            *("| " + " | ".join(cells) + " |" for cells in lines),
            "",
            *(f"- {note}" for note in notes),
            "",
        ]
    )


def _value(row: Any, mean: str = "rmse", sd: str = "sd") -> str:
    return f"{row[mean]:.3f}" + (f" ± {row[sd]:.3f}" if row["seeds"] > 1 else "")


def _cell(row: Any, bold: bool = False) -> str:
    interval = f" [{row['low']:.2f}, {row['high']:.2f}]" if row["seeds"] == 1 else ""
    return (f"**{_value(row)}**" if bold else _value(row)) + interval
