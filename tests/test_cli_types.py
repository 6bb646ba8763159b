"""What is missing is said at once: no command loads anything slow to find out that its input is not there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

REFUSED = """
import json, sys
for slow in ("torch", "transformers", "rdkit", "deepchem", "sklearn", "pyarrow", "pandas"):
    sys.modules[slow] = None
from typer.testing import CliRunner
from molcmim.cli import app
runs = [CliRunner().invoke(app, command) for command in json.load(sys.stdin)]
print(json.dumps([[run.exit_code, run.stderr] for run in runs]))
"""


def refusals(*commands: list[str]) -> list[tuple[int, str]]:
    """Run commands where no slow package can be imported."""
    run = subprocess.run(
        [sys.executable, "-c", REFUSED], input=json.dumps(commands), capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return [(code, said) for code, said in json.loads(run.stdout)]


def test_an_input_that_is_not_there_is_refused_at_once(tmp_path: Path) -> None:
    there = tmp_path / "there.csv"
    there.write_text("smiles\nCCO\n", encoding="utf-8")
    commands = [
        ["featurize", "nowhere", "-o", "x.csv"],
        ["finetune", "nowhere", "--target", "y", "-o", "x"],
        ["predict", "nowhere", str(there), "-o", "x.csv"],
        ["predict", str(tmp_path), "nowhere", "-o", "x.csv"],
        ["decode", "nowhere"],
        ["reconstruct", "nowhere"],
        ["neighbours", "CCO", "nowhere"],
        ["optimize", "--input", "nowhere"],
        ["pretrain", "nowhere", "--valid", str(tmp_path), "-o", "x"],
        ["pretrain", str(tmp_path), "--valid", "nowhere", "-o", "x"],
        ["evaluate", "molcmim-small", "nowhere"],
        ["benchmark", "generation", "nowhere", "-o", "x"],
        ["benchmark", "retrieval", "nowhere", "-o", "x.csv"],
        ["benchmark", "train", "nowhere"],
    ]
    for command, (code, said) in zip(commands, refusals(*commands), strict=True):
        assert (code, said) == (1, "molcmim: nowhere: No such file or directory\n"), command


def test_a_checkpoint_that_is_nowhere_is_refused_at_once(tmp_path: Path) -> None:
    there = tmp_path / "there.csv"
    there.write_text("smiles\nCCO\n", encoding="utf-8")
    commands = [
        ["featurize", str(there), "-o", "x.csv", "--checkpoint", "molcmim-smal"],
        ["finetune", str(there), "--target", "y", "-o", "x", "--checkpoint", "molcmim-smal"],
        ["sample", "CCO", "--checkpoint", "molcmim-smal"],
        ["map", str(there), "--checkpoint", "molcmim-smal"],
        ["evaluate", "molcmim-smal", str(tmp_path)],
        ["benchmark", "speed", "--checkpoint", "molcmim-smal"],
    ]
    for command, (code, said) in zip(commands, refusals(*commands), strict=True):
        assert code == 1, command
        assert said.startswith("molcmim: no checkpoint 'molcmim-smal'; looked at"), command
        assert "Known by name: " in said
        assert "molcmim-small" in said
