"""The Python of the docs runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cifar_small.config.loading import parse_config
from cifar_small.data import load_test, write_unlabelled

PAGE = Path(__file__).resolve().parents[2] / "docs" / "python.md"


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert len(blocks) == 5
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(blocks[0], str(PAGE), "exec"), names)
    config = parse_config(names["small"])  # type: ignore[arg-type]
    images = load_test(config.data)
    write_unlabelled(tmp_path / "unlabelled.pkl", images.images, images.ids)
    for block in blocks[1:]:
        exec(compile(block, str(PAGE), "exec"), names)
    said = capsys.readouterr().out
    assert re.search(r"small-seed0: [\d,]+ parameters, val \d\d\.\d\d%, epoch \d", said)
    assert "360 rows by" in said
    assert (tmp_path / "mine/submission.csv").exists()
