"""The wheel in a fresh environment: a whole entry from an empty folder, with nothing of the project at hand."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.slow


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
