"""Nothing shown goes unrun: every block of the README, in order, and every example, on the released checkpoint."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from warm import Warm

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    return tmp_path


@pytest.fixture(scope="module")
def warm() -> Iterator[Warm]:
    programs = Warm()
    yield programs
    programs.close()


def test_python_blocks_run_in_order(workplace: Path, warm: Warm) -> None:
    program = "\n".join(code for language, code in BLOCKS if language == "python")
    (workplace / "blocks.py").write_text(program, encoding="utf-8")
    printed = warm.run(["blocks.py"], workplace)
    assert "float32" in printed
    assert "row 1: 'C1CC'" in printed
    assert "row 2: None" in printed


def test_shell_blocks_run_in_order(workplace: Path, warm: Warm) -> None:
    shell = [code for language, code in BLOCKS if language == "bash"]
    # The first block installs and runs the tests; .ci/run runs it word for word.
    assert len(shell[0].splitlines()) == 2
    for command in "".join(shell[1:]).replace("\\\n", " ").splitlines():
        name, *arguments = shlex.split(command)
        assert name == "molcmim"
        warm.run(["-m", "molcmim.cli", *arguments], workplace)
    assert (workplace / "both.parquet").exists()
    assert (workplace / "embeddings.csv").exists()


def test_every_block_is_run() -> None:
    assert {language for language, _ in BLOCKS} <= {"python", "bash"}


def picture(path: Path) -> bytes:
    """Return a picture's size, after checking that it is one and small."""
    held = path.read_bytes()
    assert held[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(held) < 150_000
    return held[16:24]


def draws_its_picture(warm: Warm, workplace: Path, example: str, *options: str) -> list[list[str]]:
    """Run an example without its picture; return the fields that it prints."""
    drawn = workplace / "examples" / f"{example}.png"
    shown = picture(drawn)
    drawn.unlink()
    printed = warm.run([f"examples/{example}.py", *options], workplace)
    assert picture(drawn) == shown
    return [line.split() for line in printed.splitlines()]


def test_neighbours_of_aspirin(workplace: Path, warm: Warm) -> None:
    assert draws_its_picture(warm, workplace, "05_neighbours")[1][:2] == ["aspirin", "CC(=O)Oc1ccccc1C(=O)O"]


def test_from_ibuprofen_to_paracetamol(workplace: Path, warm: Warm) -> None:
    printed = draws_its_picture(warm, workplace, "06_interpolate")
    assert float(printed[1][3]) > float(printed[-1][3])  # similarity to ibuprofen
    assert float(printed[1][4]) < float(printed[-1][4])  # to paracetamol


def test_optimisation_raises_qed(workplace: Path, warm: Warm) -> None:
    printed = draws_its_picture(warm, workplace, "07_optimize", "--calls", "60")
    assert float(printed[1][2]) > 0.05  # the gain of the best


def test_featurize_example_keeps_what_can_be_embedded(workplace: Path, warm: Warm) -> None:
    printed = warm.run(["examples/01_featurize.py", "--embedding", "both"], workplace)
    assert printed.startswith("48 of 49 molecules, 768 dimensions"), printed
    saved = np.load(workplace / "embeddings.npz")
    assert saved["X"].shape == (48, 768)
    assert "a slip of the pen" not in saved["name"]
    assert len(saved["name"]) == 48


def test_sklearn_example_beats_the_mean(workplace: Path, warm: Warm, shared_data: Path) -> None:
    printed = warm.run(["examples/02_sklearn.py", "--data", str(shared_data / "moleculenet")], workplace)
    assert float(re.search(r"RMSE ([\d.]+)", printed)[1]) < 1.6  # the train set's mean has 2.315


def test_deepchem_example_beats_the_mean(workplace: Path, warm: Warm, shared_data: Path) -> None:
    data = shared_data / "moleculenet" / "deepchem"
    printed = warm.run(["examples/03_deepchem.py", "--data", str(data)], workplace)
    rmse = float(re.search(r"rms_score': (?:np\.float64\()?([\d.]+)", printed)[1])
    assert rmse < 1.6  # the train set's mean has 2.315


def test_pretrain_example_makes_a_checkpoint_and_goes_on(workplace: Path, warm: Warm) -> None:
    command = ["examples/04_pretrain.py", "--output", "out", "--steps", "40"]
    warm.run(command, workplace)
    assert (workplace / "out" / "run" / "model" / "model.safetensors").exists()


def test_figure_is_what_its_program_draws(workplace: Path, warm: Warm) -> None:
    drawn = workplace / "examples" / "data_flow.png"
    drawn.unlink()
    warm.run(["examples/data_flow.py"], workplace)
    assert drawn.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
