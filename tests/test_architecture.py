"""The shape of the package: imports only go down, nothing unpickles, the test split is read in few places, names are unique."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "cifar_small"

# From the bottom to the top. A module may import from lower layers, and from its own package without a circle.
LAYERS = """
    __init__ errors wording _torchvision
    files randomness metrics
    config
    environment
    runs
    data
    models
    transforms
    optim
    inference
    evaluation
    figures
    training
    reporting
    export
    submission
    sweep
    api
    cli
    __main__
"""
LAYER_OF = {module: depth for depth, line in enumerate(LAYERS.split("\n")) for module in line.split()}

# What may be used of pickle: writing the competition's file, and the error that torch.load raises on a refused one.
PICKLING = {"data/unlabelled.py": {"dump", "dumps"}, "runs/checkpoints.py": {"UnpicklingError"}}
IMPORTS_BY_NAME = {"_torchvision.py", "__init__.py", "config/own_code.py"}
LAZILY = ("__init__.py", "cifar_small.api")  # the names of the package, for type checkers; imported when they are used
MAY_READ_TEST = {
    "inference/predict.py",
    "cli/demo.py",
    "cli/predict.py",
    "evaluation/data_survey.py",  # counts by class, and pixels
    "submission/diagnose.py",
    "submission/audit/rules.py",  # pixels alone
}


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def owner(module: str) -> str:
    """The layer entry of a dotted module: cifar_small.data.splits -> data, cifar_small -> __init__."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def is_source(module: str) -> bool:
    """Is this dotted name a module or package of ours?"""
    path = ROOT.joinpath(*module.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def imports(tree: ast.Module, package: list[str]) -> Iterator[tuple[str, int]]:
    """Every imported module, wherever in the file, as a full dotted name with its line; `package` resolves relative ones."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *(node.module.split(".") if node.module else [])])
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                is_module = module.startswith("cifar_small") and is_source(inner)
                yield (inner if is_module else module), node.lineno


def upward(path: Path, text: str | None = None) -> list[str]:
    tree = tree_of(path) if text is None else ast.parse(text)
    relative = path.relative_to(PACKAGE).with_suffix("").parts
    here = relative[0]
    faults = []
    for module, line in imports(tree, ["cifar_small", *relative[:-1]]):
        if module.split(".")[0] != "cifar_small" or (name_of(path), module) == LAZILY:
            continue
        there = owner(module)
        if there not in LAYER_OF:
            faults.append(f"{name_of(path)}:{line} imports {module}, which has no layer")
        elif there != here and LAYER_OF[there] >= LAYER_OF[here]:
            faults.append(f"{name_of(path)}:{line} imports {module}: {there} is not below {here}")
        elif there == here and len(relative) == 1:
            faults.append(f"{name_of(path)}:{line} imports itself")
    return faults


def test_every_module_has_a_layer_and_every_layer_a_module() -> None:
    found = {path.relative_to(PACKAGE).with_suffix("").parts[0] for path in sources()}
    assert found == set(LAYER_OF)
    assert len(LAYERS.split()) == len(LAYER_OF)  # nothing stands twice


def test_imports_only_go_down() -> None:
    assert [fault for path in sources() for fault in upward(path)] == []


@pytest.mark.parametrize(
    ("path", "text", "count"),
    [
        ("config/loading.py", "from cifar_small.training.trainer import train", 1),
        ("config/loading.py", "import cifar_small.training.trainer", 1),
        ("files.py", "from cifar_small import training, errors, __version__", 1),
        ("config/loading.py", "def f():\n    from ..training.trainer import train", 1),
        ("data/splits.py", "from ..training.trainer import train", 1),
        ("data/splits.py", "from cifar_small.models import build_model", 1),
        (
            "data/splits.py",
            "from cifar_small.data.images import Images\nfrom . import images\nfrom ..errors import DataError",
            0,
        ),
        ("transforms/batched.py", "from cifar_small.optim.muon import Muon", 1),
        ("transforms/batched.py", "from cifar_small.nowhere import x", 1),
        (
            "training/trainer.py",
            "import torch\nfrom cifar_small.config import x\nfrom cifar_small.data import x",
            0,
        ),
        ("submission/audit/rules.py", "from cifar_small.cli.main import main", 1),
        ("files.py", "from cifar_small.files import write_json", 1),
    ],
)
def test_the_reader_of_imports_sees_upward_ones(path: str, text: str, count: int) -> None:
    assert len(upward(PACKAGE / path, text)) == count


def test_no_package_imports_in_a_circle() -> None:
    """Not even by imports within functions."""
    needs: dict[str, set[str]] = {}
    files = {".".join(("cifar_small", *path.relative_to(PACKAGE).with_suffix("").parts)): path for path in sources()}
    for name, path in files.items():
        package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
        asked = {module for module, _ in imports(tree_of(path), package)}
        needs[name.removesuffix(".__init__")] = {
            module for module in asked if module.startswith("cifar_small") and (name_of(path), module) != LAZILY
        }
    graph = {name: {other for other in asked if other in needs and other != name} for name, asked in needs.items()}
    assert sum(map(len, graph.values())) > 300
    assert list(TopologicalSorter(graph).static_order())  # raises CycleError naming the modules


def test_no_module_is_imported_by_a_computed_name() -> None:
    faults = [
        f"{name_of(path)}:{node.lineno}"
        for path in sources()
        if name_of(path) not in IMPORTS_BY_NAME
        for node in ast.walk(tree_of(path))
        if (isinstance(node, ast.Name) and node.id == "__import__")
        or (isinstance(node, ast.Attribute) and node.attr == "import_module")
        or (isinstance(node, ast.alias) and node.name == "import_module")
    ]
    assert faults == []


UNPICKLERS = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def pickling(path: Path) -> list[str]:
    """What a file does with pickle and the like, as `name:line`, except what it may."""
    faults = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            plain = isinstance(node, ast.Import) and all(alias.asname is None for alias in node.names)
            if UNPICKLERS & {name.split(".")[0] for name in names} and not (plain and name_of(path) in PICKLING):
                faults.append(f"import:{node.lineno}")
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in UNPICKLERS:
            if node.value.id != "pickle" or node.attr not in PICKLING.get(name_of(path), ()):
                faults.append(f"{node.value.id}.{node.attr}:{node.lineno}")
        elif isinstance(node, ast.Attribute) and node.attr == "read_pickle":
            faults.append(f"read_pickle:{node.lineno}")
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            if not (isinstance(node.value, ast.Constant) and node.value.value is False):
                faults.append(f"allow_pickle:{node.value.lineno}")
        elif isinstance(node, ast.Name) and node.id in ("eval", "exec", "Unpickler"):
            faults.append(f"{node.id}:{node.lineno}")
    return faults


def test_pickle_is_only_written() -> None:
    assert {name_of(path): faults for path in sources() if (faults := pickling(path))} == {}


def calls_of(tree: ast.Module, dotted: str) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == dotted]


def test_torch_load_reads_weights_only() -> None:
    count = 0
    for path in sources():
        tree = tree_of(path)
        for call in calls_of(tree, "torch.load"):
            count += 1
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            assert given.get("weights_only") == "True", f"{name_of(path)}:{call.lineno}"
        # No other way to the same function, which the search above would miss.
        mentions = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.load"]
        assert len(mentions) == len(calls_of(tree, "torch.load"))
        assert ("torch.serialization", path) not in [(module, path) for module, _ in imports(tree, [])]
        froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "torch"]
        assert "load" not in {alias.name for node in froms for alias in node.names}
    assert count  # a search that finds nothing proves nothing


def test_numpy_load_refuses_pickles() -> None:
    calls = [(path, call) for path in sources() for call in calls_of(tree_of(path), "np.load")]
    assert calls
    for path, call in calls:
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert given.get("allow_pickle") == "False", f"{name_of(path)}:{call.lineno}"


def mentioned(node: ast.AST) -> set[str]:
    """Names that occur in a piece of code: variables, attributes and imported names."""
    found = {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}
    found |= {one.attr for one in ast.walk(node) if isinstance(one, ast.Attribute)}
    return found | {alias.name for one in ast.walk(node) if isinstance(one, ast.ImportFrom) for alias in one.names}


def test_the_test_split_is_read_in_named_modules_only() -> None:
    users = {name_of(path) for path in sources() if "load_test" in mentioned(tree_of(path))}
    assert users - {"data/__init__.py", "data/sources.py"} == MAY_READ_TEST
    assert not calls_of(tree_of(PACKAGE / "data" / "__init__.py"), "load_test")
    assert not calls_of(tree_of(PACKAGE / "data" / "sources.py"), "load_test")


def test_training_takes_nothing_from_predict_that_reads_the_test_split() -> None:
    functions = [node for node in tree_of(PACKAGE / "inference" / "predict.py").body if isinstance(node, ast.FunctionDef)]
    tainted = {"load_test"}
    while more := {one.name for one in functions if mentioned(one) & tainted} - tainted:
        tainted |= more
    assert "predict" in tainted
    taken = set()
    for path in (PACKAGE / "training").glob("*.py"):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ImportFrom) and node.module == "cifar_small.inference.predict":
                taken |= {alias.name for alias in node.names}
            assert not isinstance(node, ast.Import) or "cifar_small" not in {alias.name.split(".")[0] for alias in node.names}
    assert taken
    assert not taken & tainted


def test_importing_the_command_line_does_not_import_torch() -> None:
    code = "import sys, cifar_small.cli.main; print(sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(ast.literal_eval(done.stdout))
    assert "cifar_small" in loaded
    assert not loaded & {"torch", "torchvision", "numpy", "pandas", "sklearn", "scipy", "matplotlib", "albumentations"}


GENERATED = {"runs", "demo", "build", "dist", "__pycache__"}


# Where library code may hold options: command lines that it runs or writes to a script, git's, and CSS's --names.
OPTIONS_IN = {
    "environment.py",
    "errors.py",
    "figures/style.py",
    "models/packages.py",  # pip's
    "reporting/results.py",  # looks for --resume in recorded commands
    "sweep/levels.py",
    "sweep/slurm.py",
    "wording.py",  # writes them
}


def options_in(text: str) -> list[str]:
    return re.findall(r"(?<![\w-])--[a-z][\w-]*", text)


def test_library_code_names_no_options_of_the_command_line() -> None:
    named = {name_of(path) for path in sources() if options_in(path.read_text(encoding="utf-8"))}
    assert {name for name in named if not name.startswith("cli/")} == OPTIONS_IN
    assert options_in('"(--allow-rows 3) `--x` --split val"') == ["--allow-rows", "--x", "--split"]
    assert options_in("a -- b, <!-- c -->, a--b, ---d") == []


def test_no_class_name_stands_twice() -> None:
    names = [node.name for path in sources() for node in ast.walk(tree_of(path)) if isinstance(node, ast.ClassDef)]
    assert len(names) > 100
    assert {name for name in names if names.count(name) > 1} == set()


def own_files(folder: Path = ROOT) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        generated = path.name in GENERATED or path.name.endswith(".egg-info")
        if generated or path.is_symlink() or (path.name.startswith(".") and path.name not in (".ci", ".gitignore")):
            continue
        if path.is_dir():
            yield from own_files(path)
        else:
            yield path


def test_no_file_names_a_folder_of_one_machine() -> None:
    pattern = re.compile(rb"(?<![\w.])/(?:work|home|Users|root)/\w")
    found = list(own_files())
    assert {"pyproject.toml", "loading.py", "param_count", "README.md"} <= {path.name for path in found}
    assert [str(path.relative_to(ROOT)) for path in found if pattern.search(path.read_bytes())] == []
    assert pattern.search(b"see /" + b"work/main")
