"""The notebooks of the docs: as they were executed last, and executed again."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "notebooks"
BOOKS = sorted(FOLDER.glob("*.ipynb"))
EXECUTE = """
import sys, nbformat
from nbclient import NotebookClient
book = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(book, timeout=1800, kernel_name="python3").execute()
nbformat.write(book, sys.argv[2])
"""


def printed(cell: Any) -> str:
    return "".join(output.get("text", "") for output in cell.outputs)


@pytest.mark.parametrize("path", BOOKS, ids=[path.stem for path in BOOKS])
def test_a_notebook_is_kept_as_it_was_executed_from_top_to_bottom(path: Path) -> None:
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]
    assert path.stat().st_size < 2**20
    assert not re.search(r"/(home|root|work|tmp)/", path.read_text(encoding="utf-8"))
    last = printed(cells[-1])
    assert re.search(r"\d\d\.\d\d\s?%", last)
    assert re.search(r"parameters [\d,]+", last)


@pytest.mark.slow
@pytest.mark.parametrize("path", BOOKS, ids=[path.stem for path in BOOKS])
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    if path.stem != "competition_entry" and "CIFAR_SMALL_DATA" not in os.environ:
        pytest.skip("needs CIFAR-10 and CIFAR-100 under $CIFAR_SMALL_DATA")
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    words = [sys.executable, "-c", EXECUTE, str(path), str(tmp_path / path.name)]
    subprocess.run(words, cwd=tmp_path, env=environment, check=True)
    cells = nbformat.read(tmp_path / path.name, as_version=4).cells
    assert re.search(r"\d\d\.\d\d\s?%.*parameters [\d,]+", printed(cells[-1]), re.S)
