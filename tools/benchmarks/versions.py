"""The tests in fresh environments: several Pythons with the lowest, the pinned and the newest versions of all packages."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cifar_small.environment import commit
from cifar_small.files import write_json
from cifar_small.reporting.tables import Table, to_markdown

ROOT = Path(__file__).resolve().parents[2]
CONSTRAINTS = {"lowest": "constraints-lowest.txt", "pinned": "constraints.txt", "newest": None}
SHOWN = ("torch", "torchvision", "numpy", "pandas", "pydantic", "timm", "onnx")
EPILOG = """\
examples:
  tools/version_matrix --work /tmp/versions                  python3.11, python3.12 and python3.13 of the PATH, all three sets
  tools/version_matrix --work /tmp/versions --python python3.13 --sets lowest --tests tests/metrics

A cell is an environment of 1 to 6 GB in the work folder. Its result is kept there, so that cells can be run one by one; the
table is printed anew after each. Where `uv` is on the PATH it installs, else pip."""


@dataclass(frozen=True)
class VersionCell:
    """What one Python with one set of versions said to the tests."""

    python: str
    versions: str  # lowest, pinned or newest
    packages: dict[str, str]
    tests: list[str]
    outcome: str  # pytest's last line
    commit: str = ""  # of the code that was tested


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cells one by one and print the table of all in the work folder; returns 1 if a test failed."""
    options = _parser().parse_args(arguments)
    for python in options.python:
        for versions in options.sets:
            run_cell(python, versions, options.tests, options.work.resolve())
            print(to_markdown([matrix(read_cells(options.work))]), flush=True)
    return int(any("passed" not in cell.outcome or failed(cell) for cell in read_cells(options.work)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/version_matrix", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--work", type=Path, required=True, metavar="FOLDER", help="where environments, logs and results are kept"
    )
    parser.add_argument("--python", nargs="+", default=["python3.11", "python3.12", "python3.13"], metavar="PROGRAM")
    parser.add_argument("--sets", nargs="+", choices=list(CONSTRAINTS), default=list(CONSTRAINTS))
    parser.add_argument(
        "--tests", nargs="+", default=["tests"], metavar="PATH", help="what pytest runs (default: all fast tests)"
    )
    return parser


def run_cell(python: str, versions: str, tests: Sequence[str], work: Path) -> VersionCell:
    """Make the environment of a cell, unless it is there, run the tests in it, and keep log and result."""
    number = subprocess.check_output([python, "-c", "import platform; print(platform.python_version())"], text=True).strip()
    folder = work / f"py{number.rpartition('.')[0].replace('.', '')}-{versions}"
    inside = folder / "bin" / "python"
    if not inside.exists():
        subprocess.run([python, "-m", "venv", folder], check=True)
    uv = shutil.which("uv")
    install = [uv, "pip", "install", "--python", str(inside)] if uv else [str(inside), "-m", "pip", "install"]
    fixed = CONSTRAINTS[versions]
    more = ["--constraint", str(ROOT / fixed)] if fixed else ["--upgrade"]
    subprocess.run([*install, "--quiet", *more, f"{ROOT}[dev]"], check=True)
    listed = subprocess.check_output(
        [inside, "-c", f"import importlib.metadata as m; print(*map(m.version, {SHOWN}))"], text=True
    )
    log = folder.with_suffix(".log")
    with log.open("w", encoding="utf-8") as file:
        how = ["--numprocesses", "2", "--dist", "loadfile", "-p", "no:cacheprovider", "--color=no"]  # as make test does
        command = [str(inside), "-m", "pytest", *how, *tests]
        subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, check=False)
    packages, outcome = dict(zip(SHOWN, listed.split(), strict=True)), last_line(log.read_text())
    cell = VersionCell(number, versions, packages, list(tests), outcome, str(commit(ROOT / "cifar_small")["commit"] or "")[:7])
    write_json(folder.with_suffix(".json"), asdict(cell))
    return cell


def last_line(log: str) -> str:
    """How pytest summed up, such as `2 failed, 80 passed`; without its times, and whole if it did not come so far."""
    found = re.findall(r"^=*\s*((?:\d+ [a-z]+(?:, )?)+) in [\d.]+s.*$", log, re.MULTILINE)
    return found[-1] if found else " ".join(log.split()[-20:])


def failed(cell: VersionCell) -> bool:
    """Did a test of this cell fail, or not even start?"""
    return bool(re.search(r"\d+ (failed|error)", cell.outcome))


def read_cells(work: Path) -> list[VersionCell]:
    """The results in a work folder, by Python and from the lowest versions to the newest."""

    def place(cell: VersionCell) -> tuple[list[int], int]:
        return [int(part) for part in cell.python.split(".")], list(CONSTRAINTS).index(cell.versions)

    return sorted((VersionCell(**json.loads(path.read_text())) for path in work.glob("py*.json")), key=place)


def matrix(cells: Sequence[VersionCell]) -> Table:
    """A row for each cell."""
    rows = [
        (cell.python, cell.versions, *cell.packages.values(), " ".join(cell.tests), cell.outcome, cell.commit) for cell in cells
    ]
    return Table("Tests by version", ("Python", "versions", *SHOWN, "tests", "outcome", "commit"), tuple(rows))
