"""The ranges of pyproject.toml against the two files of exact versions, and the matrix of versions."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from benchmarks.versions import VersionCell, failed, last_line, matrix, read_cells
from packaging.requirements import Requirement
from packaging.version import Version

from cifar_small.files import write_json

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = [name for name in PROJECT["optional-dependencies"] if name not in ("dev", "imagenet")]
REQUIRED = [*PROJECT["dependencies"], *(line for name in EXTRAS for line in PROJECT["optional-dependencies"][name])]


def exact(name: str) -> dict[str, Version]:
    pairs = re.findall(r"^([\w-]+)==(\S+)$", (ROOT / name).read_text(), re.MULTILINE)
    return {package.lower().replace("_", "-"): Version(version) for package, version in pairs}


def test_the_lowest_versions_are_the_lower_ends_of_the_ranges() -> None:
    ends = {}
    for line in REQUIRED:
        requirement = Requirement(line)
        (ends[requirement.name.lower().replace("_", "-")],) = (
            Version(part.version) for part in requirement.specifier if part.operator in (">=", "==")
        )
    assert exact("constraints-lowest.txt") == ends


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_other_constraints_than_those_installed_are_installed_first(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "constraints-lowest.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv").mkdir()

    def installed(name: str) -> bool:
        """Would `make test` find them installed?"""
        lines = subprocess.check_output(["make", "-n", "test", f"CONSTRAINTS={name}"], cwd=tmp_path, text=True).splitlines()
        assert "pytest" in lines[-1]
        installs = [line for line in lines if "pip install" in line]
        assert all(f"--constraint {name} " in line for line in installs)
        for stamp in (line.removeprefix("touch ") for line in lines if line.startswith("touch ")):  # which -n leaves out
            assert "rm -f .venv/ready*" in lines
            for old in (tmp_path / ".venv").glob("ready*"):
                old.unlink()
            (tmp_path / stamp).touch()
        return not installs

    order = ["constraints.txt"] * 2 + ["constraints-lowest.txt"] * 2 + ["constraints.txt"] * 2
    assert [installed(name) for name in order] == [False, True] * 3


@pytest.mark.parametrize("line", REQUIRED)
def test_the_pinned_versions_are_within_the_ranges(line: str) -> None:
    requirement = Requirement(line)
    assert exact("constraints.txt")[requirement.name.lower().replace("_", "-")] in requirement.specifier


def test_torch_has_no_upper_end() -> None:
    """For pip would then take a user's newer torch away."""
    for name in ("torch", "torchvision"):
        (line,) = (line for line in REQUIRED if Requirement(line).name == name)
        assert {part.operator for part in Requirement(line).specifier} == {">="}


@pytest.mark.parametrize(
    ("log", "outcome"),
    [
        ("...\n80 passed, 3 deselected in 12.31s\n", "80 passed, 3 deselected"),
        ("FAILED tests/a.py::b\n2 failed, 80 passed in 100.00s (0:01:40)\n", "2 failed, 80 passed"),
        ("=== 1 error in 0.50s ===\n", "1 error"),
        ("ImportError: no torch", "ImportError: no torch"),
    ],
)
def test_the_outcome_is_pytests_last_line(log: str, outcome: str) -> None:
    assert last_line(log) == outcome


def test_cells_are_read_back_in_the_order_of_their_versions(tmp_path: Path) -> None:
    for python, versions, outcome in (
        ("3.13.0", "newest", "1 failed, 8 passed"),
        ("3.13.0", "lowest", "9 passed"),
        ("3.9.1", "newest", "1 error"),
    ):
        facts = {"packages": {"torch": "2"}, "tests": ["tests"], "outcome": outcome, "commit": "abc1234"}
        write_json(tmp_path / f"py{python}-{versions}.json", {"python": python, "versions": versions, **facts})
    cells = read_cells(tmp_path)
    assert [(cell.python, cell.versions, failed(cell)) for cell in cells] == [
        ("3.9.1", "newest", True), ("3.13.0", "lowest", False), ("3.13.0", "newest", True),
    ]  # fmt: skip
    assert matrix(cells).rows[1] == ("3.13.0", "lowest", "2", "tests", "9 passed", "abc1234")
    assert isinstance(cells[0], VersionCell)
