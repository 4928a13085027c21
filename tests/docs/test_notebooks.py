"""The notebooks of the docs: as they were executed last, and executed again."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import pytest

from cifar_small.config.schema import Data

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


@pytest.mark.parametrize("found", [True, False])
def test_an_entry_answers_the_competitions_file_wherever_it_is(
    found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Under the name that the competition has on Kaggle; without the file the output says that it is a rehearsal."""
    book = nbformat.read(FOLDER / "competition_entry.ipynb", as_version=4)
    search, answer = (cell.source for cell in book.cells if cell.id in ("cell-01", "cell-17"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CIFAR_SMALL_DATA", str(tmp_path / "input"))
    (tmp_path / "input" / "cifar" / "cifar-10-batches-py").mkdir(parents=True)
    (tmp_path / "entry").mkdir()
    (tmp_path / "entry" / "submission.csv").write_text("ID,Labels\n")
    wanted = tmp_path / "input" / "deep-learning-spring-2026" / "cifar_test_nolabel.pkl"
    if found:
        wanted.parent.mkdir()
        wanted.write_bytes(b"")
    asked = []
    config = SimpleNamespace(data=Data(source="digits"))
    run = SimpleNamespace(config=config, predict=lambda split, file: asked.append((split, file)))
    names: dict[str, Any] = {}
    exec(search, names)
    assert names["data"]["root"] == str(tmp_path / "input" / "cifar")
    exec(answer, {**names, "runs": [run], "cs": SimpleNamespace(submit=lambda *_, **__: None)})
    expected = wanted if found else Path("unlabelled.pkl")
    assert asked == [("submit", expected)]
    assert capsys.readouterr().out.startswith(f"the CSV answers {wanted}\n" if found else "REHEARSAL: ")


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
