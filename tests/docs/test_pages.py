"""README is short, and what the pages link to and name is there."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from test_architecture import LAYERS

from cifar_small.runs.predictions import Predictions
from cifar_small.runs.records import PredictionsMeta, RunRecord

ROOT = Path(__file__).resolve().parents[2]
PAGES = [path for folder in (".", "docs", "findings", "submissions/studies/*") for path in sorted(ROOT.glob(f"{folder}/*.md"))]


def anchors(page: Path) -> set[str]:
    """What a link can point to within a page, as GitHub names its headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def links(page: Path) -> Iterator[tuple[Path, str]]:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not re.match(r"\w+:", target):
            path, _, anchor = target.partition("#")
            yield page.parent / path if path else page, anchor


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in links(page):
        assert target.exists(), target
        assert not anchor or anchor in anchors(target), f"{target}#{anchor}"


def test_readme_is_short_and_leads_to_every_page() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert len(text.encode()) <= 11_000
    linked = {target.resolve() for target, _ in links(ROOT / "README.md")}
    assert set((ROOT / "docs").glob("*.md")) - linked == set()


def test_files_and_configs_named_in_docs_are_there() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        text = re.sub(r"<!-- results: begin -->.*<!-- results: end -->", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for name in re.findall(r"`((?:cifar_small|tests|configs|tools|submissions)/[\w./]+)`", text):
            assert (ROOT / name).exists(), f"{page.name} names {name}"


def test_the_reading_path_takes_an_hour() -> None:
    """At 75 lines a minute."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = text[text.index("## A reading path") : text.index("## Where to add")]
    files = re.findall(r"^\d+\. `([\w./]+)`", section, re.MULTILINE)
    assert 20 <= len(files) <= 30
    assert sum(len((ROOT / name).read_text(encoding="utf-8").splitlines()) for name in files) <= 5000


def test_the_packages_of_the_architecture_are_those_of_the_test() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = text[text.index("## The packages") : text.index("## A reading path")]
    named = [name for names in re.findall(r"^\| `([\w ]+)` \|", section, re.MULTILINE) for name in names.split()]
    assert set(LAYERS.split()) - set(named) == {"__init__", "__main__", "_torchvision"}
    packages = [name for name in named if (ROOT / "cifar_small" / name).is_dir()]
    assert packages == [name for name in reversed(LAYERS.split()) if name in packages]


def test_the_formats_are_those_of_the_models() -> None:
    text = (ROOT / "docs" / "records.md").read_text(encoding="utf-8")
    _, _, prediction, record = re.split(r"^## ", text, flags=re.MULTILINE)
    meta = re.findall(r"`(\w+)`", prediction[prediction.index("`meta` names") : prediction.index("```python")])
    assert set(meta) - {"meta"} <= set(PredictionsMeta.model_fields)
    assert set(re.findall(r"^- `(\w+)`", record, re.MULTILINE)) == set(RunRecord.model_fields)
    made = Predictions(np.arange(2), np.zeros((2, 2), np.float32), np.zeros(2, np.int64), ("a", "b"), PredictionsMeta(**META))
    with np.load(io.BytesIO(made.to_bytes()), allow_pickle=False) as file:
        assert set(re.findall(r"^\| `(\w+)` \|", prediction, re.MULTILINE)) == set(file.files)


META = {"name": "net", "parameters": 1, "rules": {}, "images_sha256": "0"}
