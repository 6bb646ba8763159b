"""The shape of the house: who imports whom, what importing costs, what no file may hold."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

# Rooms from the ground up: a room imports only from the floors below its own.
FLOORS = (
    {
        "atomic",
        "captured",
        "config",
        "contrastive",
        "folders",
        "layers",
        "latent",
        "progress",
        "ranks",
        "similarity",
        "smiles",
        "surrogate",
        "workers",
    },
    {"calibration", "kernel_machine", "sdf", "spreadsheet", "search", "substructure"},
    {"tokenizer", "objectives", "encoder", "decoder"},
    {"files"},
    {"embedding_files"},
    {"curves", "plots", "drawing", "properties"},
    {"data", "generation_plots", "model", "oracles", "reading", "splits", "values"},
    {"prepare", "recipe", "checkpoint", "spelling", "optimizer", "moving_average", "decoding", "search_log"},
    {"featurizer", "resident"},
    {"metrics", "datasets", "loaded", "onnx", "preflight", "property_network", "stages"},
    {"tuned", "warm_start"},
    {"trainer", "downstream", "mapping", "retrieval", "speed", "space", "evaluation", "bulk"},
    {"finetune", "merit", "optimization", "pretrain", "property_metrics", "tuning_plots"},
    {"generation", "predictors", "prospective", "report", "training_speed", "tuning_report"},
    {"benchmark", "benchmark_generation", "sklearn_property"},
    {"sklearn", "deepchem"},
    {"cli_types"},
    {"cli_benchmark", "cli_generation", "cli_map", "cli_property"},
    {"cli"},
)
DOORS = {"rdkit": {"smiles", "drawing", "properties", "substructure"}, "deepchem": {"deepchem", "predictors"}}
# Pretraining runs where RDKit and DeepChem are not installed; these import all that it needs.
TRAINING = ("checkpoint", "pretrain")

PACKAGE = Path(__file__).resolve().parents[1] / "molcmim"
ROOMS = {path.stem: path for path in PACKAGE.rglob("*.py") if path.stem != "__init__"}


def imports(path: Path) -> set[str]:
    """Every module that a file imports, wherever in it; `from a import b` counts as a.b."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively in line {node.lineno}"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def python(code: str) -> str:
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_imports_only_go_down(room: str) -> None:
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    assert room in floor, f"molcmim/{room}.py has no floor yet: give it one in FLOORS"
    for name in imports(ROOMS[room]):
        if match := re.match(r"molcmim\.(\w+)", name):
            if match[1] not in floor:
                assert match[1] == "__version__", f"{room} imports {name}, which has no floor"
            else:
                assert floor[match[1]] < floor[room], f"{room} imports {match[1]}, which is not below it"


@pytest.mark.parametrize(("host", "rooms"), DOORS.items())
def test_a_host_has_one_door(host: str, rooms: set[str]) -> None:
    inside = {room for room, path in ROOMS.items() if any(n.split(".")[0] == host for n in imports(path))}
    assert inside <= rooms


def test_every_import_is_a_declared_dependency() -> None:
    text = (PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8")
    declared = re.search(r"^dependencies = \[(.*?)^\]", text, re.DOTALL | re.MULTILINE)
    assert declared
    packages = set(re.findall(r'^ *"([\w-]+)', declared[1], re.MULTILINE))
    hosts = {name.split(".")[0] for path in ROOMS.values() for name in imports(path)} - {"molcmim"}
    providers = importlib.metadata.packages_distributions()
    for host in hosts - sys.stdlib_module_names:
        assert {name.lower() for name in providers[host]} & packages, f"{host} is imported and not declared"


def test_pretraining_needs_neither_rdkit_nor_deepchem() -> None:
    rooms = ", ".join(f"molcmim.{room}" for room in TRAINING if room in ROOMS)
    python(f"import sys; sys.modules['rdkit'] = sys.modules['deepchem'] = None\nimport {rooms}")


def test_importing_the_package_is_light() -> None:
    code = (
        "import sys, time; start = time.perf_counter(); import molcmim; print(time.perf_counter() - start)\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    runs = [python(code).split() for _ in range(3)]
    assert not {"torch", "transformers", "rdkit", "deepchem", "numpy"} & set(runs[0])
    assert min(float(seconds) for seconds, *_ in runs) < 0.3  # the fastest: others may keep the machine busy


def test_importing_the_scikit_learn_door_loads_no_model() -> None:
    loaded = python("import sys, molcmim.sklearn; print(*sys.modules)").split()
    assert "sklearn" in loaded
    assert not {"torch", "transformers", "rdkit", "deepchem"} & set(loaded)


@pytest.mark.parametrize(
    "first",
    [
        "import molcmim; from transformers import Trainer",  # which loads the model registry on its way
        "from transformers import AutoConfig, AutoModel; import molcmim",
    ],
)
def test_transformers_knows_the_model_in_any_order(first: str) -> None:
    python(
        f"{first}\n"
        "from transformers import AutoConfig, AutoModel\n"
        "config = AutoConfig.for_model('molcmim', width=32, heads=2, encoder_layers=1, decoder_layers=1)\n"
        "model = AutoModel.from_config(config)\n"
        "import molcmim\n"
        "assert type(config) is molcmim.MolCMIMConfig and type(model) is molcmim.MolCMIMModel"
    )


def test_public_names_resolve() -> None:
    import molcmim

    assert set(molcmim.__all__) <= set(dir(molcmim))
    for name in molcmim.__all__:
        assert getattr(molcmim, name).__name__ in (name, f"molcmim.{name}")
    with pytest.raises(AttributeError, match="has no attribute 'Featuriser'; it has Featurizer, "):
        molcmim.Featuriser  # noqa: B018 - the attribute access is the test


def test_no_room_for_odds_and_ends() -> None:
    assert not {"utils", "util", "common", "base", "helpers", "misc"} & ROOMS.keys()
    assert not list((PACKAGE.parent / "tokenizers").rglob("*.py"))


def test_no_path_of_a_machine_in_the_repository(repo: Path) -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=repo, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    machine = re.compile(rb"/(?:w[o]rk|h[o]me|r[o]ot|U[s]ers|mnt|opt)/\w")
    files = [repo / name for name in listed.stdout.split("\0") if name]
    text = [path for path in files if path.is_file() and path.suffix not in {".png", ".safetensors"}]
    assert not [path for path in text if machine.search(path.read_bytes())]
