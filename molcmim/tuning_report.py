"""A table of measured values -> a fine-tuned model's folder with what is to be said about it. Trains nothing itself.

Beside the model the folder holds ``predictions.csv`` (the table as it was, with each row's part and prediction),
``metrics.csv``, ``learning.png``, for numbers ``parity.png``, for ensembles of them ``calibration.png``, and for
classes ``confusion.png``.
"""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Float64, Int64, Shaped

from molcmim import datasets, property_metrics, smiles, splits, tuning_plots
from molcmim.atomic import alone
from molcmim.datasets import Audit
from molcmim.files import Chunk, read_chunks, with_own_error
from molcmim.finetune import Choices, finetune, judge
from molcmim.splits import Split
from molcmim.tuned import (
    NEAREST,
    RECORD,
    SIMILARITY,
    PropertyModel,
    label_columns,
    output_columns,
    refuse_taken,
    unfinished_folder,
)
from molcmim.values import BadValues, frame_of, text_of

WIDE = 1_000
"""Largest value of a target divided by its smallest, from which on a logarithm is advised."""
FEW_VALID = 10
"""Molecules of the valid part that are said to be too few to choose an epoch by."""
FEW_LABELS = 5
"""Rows of a label that are said to be few."""
CLASSES = 20
"""Labels beyond which few rows of each look like measurements."""


class Report:
    """What came of a table.

    Attributes
    ----------
    model : PropertyModel
        As saved.
    predictions : DataFrame
        The table, all its columns as they were, and after them part, what the model predicts, error.
    metrics : DataFrame
        A row for each target and part, and of the test part for each range of train_similarity.
    audits : dict
        Target -> repeated molecules and leakage.
    """

    def __init__(
        self, model: PropertyModel, predictions: pd.DataFrame, metrics: pd.DataFrame, audits: dict[str, Audit]
    ) -> None:
        self.model, self.predictions, self.metrics, self.audits = model, predictions, metrics, audits

    @property
    def warnings(self) -> list[str]:
        """What the figures should be read with."""
        cure = "; --group-column of the SMILES keeps equal ones in one part"
        targets_of: dict[str, list[str]] = defaultdict(list)
        for target, audit in self.audits.items():
            if audit.repeated:
                targets_of[f"{audit}" + cure * any(audit.leaked.values())].append(target)
        found = [f"{', '.join(targets)}: {said}" for said, targets in targets_of.items()]
        valid = self.model.training["rows"]["valid"]
        if valid < FEW_VALID and self.model.training["choices"]["epochs"]:
            found.append(f"only {valid} molecule(s), the valid part, choose the epoch; --epochs 0 leaves no choice")
        if not (self.predictions["part"] == "test").any():
            found.append("there is no test part; errors of the valid part, which chose the epoch, are too low")
        for target in self.model.task.targets if self.model.task.kind == "regression" else ():
            values = pd.to_numeric(self.predictions[target], "coerce")
            if values.min() > 0 and values.max() > WIDE * values.min():
                powers = np.log10(values.max() / values.min())
                found.append(f"{target} spans {powers:.0f} powers of ten; its logarithm is easier to predict")
        for target in self.model.task.targets if self.model.task.kind != "regression" else ():
            found += [f"{target}: {said}" for said in _doubtful(self.predictions.dropna(subset="part"), target)]
        return found


def _doubtful(rows: pd.DataFrame, target: str) -> list[str]:
    """Say which labels may be slips of the pen, or cannot be learned."""
    labels = rows[target].map(text_of).dropna()
    counts = labels.value_counts()
    found = []
    if rare := [f"{label} ({n})" for label, n in counts.items() if n < FEW_LABELS]:
        found.append(f"few rows have the label {', '.join(rare)}")
    if untaught := sorted(set(counts.index) - set(labels[rows["part"][labels.index] == "train"])):
        found.append(f"no row of the train part has the label {', '.join(untaught)}")
    alike = [sorted(group) for _, group in counts.index.to_series().groupby(counts.index.str.casefold())]
    found += [f"{' and '.join(group)} are different labels" for group in alike if len(group) > 1]
    return found


def finetune_table(
    path: str | os.PathLike[str],
    targets: Sequence[str],
    output: str | os.PathLike[str],
    *,
    split: str = "random",
    split_column: str | None = None,
    group_column: str | None = None,
    sizes: tuple[float, float, float] = splits.SIZES,
    seed: int = 0,
    column: str | None = None,
    classify: bool = False,
    skip_bad: bool = False,
    checkpoint: str | os.PathLike[str] = "molcmim-small",
    choices: Choices | None = None,
    device: str | None = None,
    restart: bool = False,
    progress: bool = True,
) -> Report:
    """Fine-tune on a file, and write the model's folder.

    Rows without a value are in no part, but are predicted, too. A molecule that cannot be read has no prediction, and
    the reason in the column ``error``.

    Parameters
    ----------
    path, column
        See :func:`molcmim.datasets.load_csv`.
    targets
        Columns; an empty field is an unknown value.
    output
        Folder.
    split, sizes, seed
        See :func:`molcmim.splits.split`; "stratified" goes by the target, of which there is one then. The test part
        is looked at once, for the report.
    split_column
        Column that says of each row which part it is in, instead; see :func:`molcmim.splits.split_by`.
    group_column
        Column of which rows with the same value stay in one part, instead; of SMILES, rows with the same molecule. An
        empty field is a group of its own.
    classify
        Whether the values are classes: 0 and 1, of several targets, or any labels, of one.
    skip_bad
        Whether values that are no numbers count as unknown, with the reason in ``error``.
    checkpoint, choices, device, progress
        See :func:`molcmim.finetune.finetune`.
    restart
        Whether a model that `output` holds may be replaced.

    Raises
    ------
    OSError, ValueError
        If the file, a column or a part cannot be used, or the table has columns that the predictions add.
    """
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        stack.enter_context(alone(output))
        if output.exists() and not (output / RECORD).is_file():
            raise FileExistsError(f"{output} exists and is no fine-tuned model; name another folder")
        if output.exists() and not restart:
            raise FileExistsError(f"{output} holds a fine-tuned model; name another folder, or replace it by --restart")
        refuse_taken(targets)
        chunks = list(read_chunks(path, column))
        try:
            frame = frame_of(chunks, path, list(targets), classify, skip_bad)
        except BadValues as error:
            way = "labels of classes take --classify" if error.none_good else "--skip-bad-values counts them as unknown"
            raise ValueError(f"{error}; {way}") from None
        reasons = judge(checkpoint, frame["smiles"].tolist(), choices is not None and choices.standardize)
        readable = np.array([reason is None for reason in reasons], bool)
        rows = np.flatnonzero(readable & frame[list(targets)].notna().any(axis=1))
        if not len(rows):
            raise ValueError(f"{path}: no row has a molecule that can be read and a value; the first: {reasons[0]}")
        good = frame.iloc[rows].reset_index(drop=True)
        seen = good["smiles"].tolist()
        if choices is not None and choices.standardize:  # rows that the model cannot tell apart are repeats
            seen = smiles.canonicalize(seen, standardize=True)[0]
        seen = good.assign(smiles=seen)
        parts, how = _parts(chunks, seen, rows, path, split, split_column, group_column, sizes, seed, targets)
        kind, classes, values = _numbered(good[list(targets)].to_numpy(), classify)
        predictions = with_own_error(pa.concat_tables([chunk.table for chunk in chunks])).to_pandas()
        spread = choices is not None and choices.ensemble > 1
        labels = label_columns(kind, targets)
        added = {"part", *labels, *output_columns(kind, targets, classes, spread), SIMILARITY, NEAREST, "error"}
        if taken := [name for name in predictions if name in added]:
            raise ValueError(f"{path} has columns that the predictions add: {', '.join(taken)}; rename them first")
        seen[list(targets)] = values
        molecules = good["smiles"].to_numpy(object)
        told = np.flatnonzero(readable)
        folder = stack.enter_context(unfinished_folder(output))  # what takes no file is known before any training
        model = finetune(
            checkpoint, molecules[parts.train], values[parts.train], (molecules[parts.valid], values[parts.valid]),
            kind=kind, targets=targets, classes=classes, choices=choices, device=device, progress=progress,
        )  # fmt: skip
        spelled = model.speller().read(frame["smiles"].to_numpy(object)[told])
        predicted, (near, nearest) = model.outputs(spelled, progress), model.nearest_train(spelled)
        measured = np.searchsorted(told, rows)
        outputs = predicted[measured]
        said = {
            "file": Path(path).name,
            "split": how,
            "seed": seed,
            "rows": len(frame),
            "left_out": len(frame) - len(rows),
        }
        model.training["table"] = said
        more = {
            "part": pd.concat([pd.Series(part, rows[inside], object) for part, inside in parts._asdict().items()]),
            **{
                name: pd.Series(column, told)
                for name, column in zip(labels, model.task.labels(predicted).T, strict=True)
            },
            **{name: pd.Series(column, told) for name, column in zip(model.columns, predicted.T, strict=True)},
            SIMILARITY: pd.Series(near, told),
            NEAREST: pd.Series(nearest, told),
            "error": pd.Series(reasons, dtype=object).fillna(pd.Series(frame.attrs["bad_values"], dtype=object)),
        }
        predictions = pd.concat([predictions, pd.DataFrame(more, predictions.index)], axis=1)
        metrics = property_metrics.table(
            model.task, values, outputs, parts._asdict(), near[measured], model.usual_interval(outputs)
        )
        model.write(folder)
        predictions.to_csv(folder / "predictions.csv", index=False)
        metrics.to_csv(folder / "metrics.csv", index=False)
        tuning_plots.learning(model, folder / "learning.png")
        if kind == "regression":
            shown = {"valid": parts.valid, "test": parts.test}
            tuning_plots.numbers(model.task, values, outputs, shown, folder / "parity.png", folder / "calibration.png")
        else:
            part = "test" if len(parts.test) else "valid"
            tuning_plots.classes(model.task, values, outputs, {part: getattr(parts, part)}, folder / "confusion.png")
        known = splits.canonical(seen["smiles"].tolist())
        audits = {target: datasets.audit(seen, parts, target, known) for target in targets}
        return Report(model, predictions, metrics, audits)


def _parts(
    chunks: Sequence[Chunk], seen: pd.DataFrame, rows: Int64[np.ndarray, " n"], path: str | os.PathLike[str],
    split: str, split_column: str | None, group_column: str | None, sizes: tuple[float, float, float], seed: int,
    targets: Sequence[str],
) -> tuple[Split, str]:  # fmt: skip
    """Split the rows of a file that can be used, of which `seen` is what the model sees, and say how."""
    table = pa.concat_tables([chunk.table for chunk in chunks])
    if split_column is not None:
        return splits.split_by(table, split_column, rows, path), f"column {split_column}"
    if group_column is not None:
        written = splits.fields_of(table, group_column, path)
        keys: list[Hashable] = [row if written[row] in (None, "") else str(written[row]) for row in rows.tolist()]
        if group_column == chunks[0].column:
            keys = [*splits.canonical(seen["smiles"].tolist())]
        return splits.split(seen, "group", seed, groups=keys, sizes=sizes), f"by {group_column}"
    if split == "stratified" and len(targets) > 1:
        raise ValueError(f"a stratified split is by one target, not by {', '.join(targets)}; take another split")
    return splits.split(seen, split, seed, targets[0], sizes=sizes), split


def _numbered(values: Shaped[np.ndarray, "n t"], classify: bool) -> tuple[str, list[Any], Float64[np.ndarray, "n t"]]:
    if not classify:
        return "regression", [], values.astype(np.float64)
    number: dict[str, Any] = {label: _label(label) for row in values for label in row if label is not None}
    if any(isinstance(label, str) for label in number.values()):
        number = {label: label for label in number}
    classes = sorted(set(number.values()))
    rows = sum(label is not None for label in values.ravel())
    if len(classes) > CLASSES and rows < 5 * len(classes):
        raise ValueError(
            f"the targets hold {len(classes)} different values in {rows} fields, such as {classes[0]!r}; that looks "
            "like measurements: leave out --classify, or give labels that more rows share"
        )
    if len(classes) < 2:
        raise ValueError(f"the targets hold {len(classes)} class(es); two are needed at least")
    if values.shape[1] > 1 and classes != [0, 1]:
        raise ValueError(f"several targets of classes must hold 0 and 1 each, found {classes[:5]}")
    numbered = [[np.nan if label is None else classes.index(number[label]) for label in row] for row in values]
    return "binary" if len(classes) == 2 else "multiclass", classes, np.array(numbered, np.float64)


def _label(text: str) -> int | float | str:
    """Tell a number from other text: 01 is none."""
    try:
        value = float(text)
    except ValueError:
        return text
    number = int(value) if value.is_integer() else value
    return number if text in (str(number), str(value)) else text
