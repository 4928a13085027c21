"""The report: what stands first, every number against its source, nothing cut off, and nothing that a name could break."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from conftest import tiny_raw

from cifar_small.cli.main import main
from cifar_small.config.loading import parse_config
from cifar_small.inference.predict import predict
from cifar_small.runs.directory import Run
from cifar_small.runs.predictions import load_predictions
from cifar_small.training.train import train

BROWSER = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small runs, the first with val and test predicted, the second with val alone, and the report of both."""
    folder = tmp_path_factory.mktemp("report")
    for name, seed in (("first", 0), ("second", 1)):
        config = parse_config(tiny_raw(phases=[{"epochs": 1}, {"epochs": 1, "label_smoothing": 0.1}], seed=seed))
        train(config, folder / name, quiet=True, command=f"cifar-small train --seed {seed} <&>")  # which predicts val too
    predict(Run(folder / "first"), "test")
    arguments = [str(folder / "first"), str(folder / "second"), "--output", str(folder / "report.html"), "--title", "A < B & C"]
    assert main(["report", *arguments, "--paper", str(folder / "paper")]) == 0
    return folder


def page_of(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def test_accuracy_and_parameters_stand_first(folder: Path) -> None:
    test = load_predictions(folder / "first" / "predictions" / "test.npz")
    val = load_predictions(folder / "second" / "predictions" / "val.npz")
    figures = re.findall(r'<div class="figure"><b>(.*?)</b>', page_of(folder))
    parameters = f"{test.meta.parameters:,}"
    assert figures == [f"{test.accuracy:.2%}", parameters, f"{val.accuracy:.2%}", parameters]
    assert page_of(folder).index('class="figure"') < page_of(folder).index("<h2>")


def test_says_where_the_numbers_come_from(folder: Path) -> None:
    card = page_of(folder).split("Where these numbers come from")[1].split("</section>")[0]
    for text in ("within its rules", "scratch", "never", "once (2", "epoch 2 of 2", "digits"):
        assert text in card, text


def test_says_that_patience_ended_a_run(folder: Path, tmp_path: Path) -> None:
    run = Run(shutil.copytree(folder / "first", tmp_path / "ended"))
    summary = json.loads(run.summary_file.read_text())
    run.summary_file.write_text(json.dumps({**summary, "epochs_planned": 12, "ended": "patience"}))
    assert main(["report", str(run.folder), "--output", str(tmp_path / "report.html")]) == 0
    assert "(epoch 2 of 2; ended by patience after epoch 2 of 12)" in page_of(tmp_path)
    assert "patience" not in page_of(folder).split("Where these numbers come from")[1].split("</section>")[0]


def test_every_text_is_escaped(folder: Path) -> None:
    page = page_of(folder)
    assert "A &lt; B &amp; C" in page
    assert "&lt;&amp;&gt;" in page
    assert "A < B" not in page
    assert "<&>" not in page


def test_needs_no_other_file_and_no_network(folder: Path) -> None:
    assert not re.findall(r'(?:src|href)=(?!"#)', page_of(folder))  # a figure refers to its own parts
    addresses = re.findall(r"url\(([^)]{0,30})", page_of(folder))
    assert addresses
    assert all(one.startswith(('"data:image/png;base64,', "#")) for one in addresses)


def test_an_image_that_several_models_get_wrong_is_there_once(many: str) -> None:
    drawn = re.findall(r'<span class="picture p(\d+)"', many)
    pictures = re.findall(r"\.p(\d+) \{ background-image", many)
    assert set(drawn) == set(pictures)
    assert len(drawn) > len(pictures) == len(set(pictures))


def test_tags_are_closed(folder: Path) -> None:
    open_tags: list[str] = []

    class Checker(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag not in ("meta", "img", "br"):
                open_tags.append(tag)

        def handle_startendtag(self, tag: str, attrs: object) -> None:
            pass

        def handle_endtag(self, tag: str) -> None:
            assert open_tags.pop() == tag

    Checker().feed(page_of(folder))
    assert open_tags == []


def test_figures_take_the_colors_of_the_page(folder: Path) -> None:
    charts = re.findall(r'<svg class="chart".*?</svg>', page_of(folder), flags=re.S)
    labels = [re.findall(r'aria-label="(.*?)"', chart)[0] for chart in charts]
    curves = "Loss, accuracy and learning rate over epochs"
    together = ["What accuracy on val costs", "Accuracy on val over epochs, all runs"]
    assert labels == [*together, *[curves, "Confusion matrix", "Accuracy against confidence"] * 2]
    for chart in charts:
        assert {"var(--ink)", "var(--blue)"} <= set(re.findall(r"var\(.*?\)", chart))
        assert set(re.findall(r"#[0-9a-f]{6}\b", chart)) <= {"#b0b0b0"}  # the grid, at a quarter of its opacity
        assert not re.findall("<style|<metadata", chart)


def test_paper_has_tables_and_figures_that_aaai_takes(folder: Path) -> None:
    paper = folder / "paper"
    assert sorted(path.name for path in paper.iterdir()) == ["classes.tex", "comparison.tex", "confusion.pdf", "curves.pdf"]
    assert r"\toprule" in (paper / "comparison.tex").read_text(encoding="utf-8")
    for figure in ("confusion.pdf", "curves.pdf"):
        content = (paper / figure).read_bytes()
        assert content.startswith(b"%PDF")
        assert b"/Type3" not in content


def test_refuses_to_replace_and_names_missing_predictions(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(folder / "first"), "--output", str(folder / "report.html")]) == 2
    assert "report.html" in capsys.readouterr().err
    bare = shutil.copytree(folder / "second", tmp_path / "bare")
    shutil.rmtree(bare / "predictions")
    assert main(["report", str(bare), "--output", str(tmp_path / "r.html")]) == 4
    assert f"cifar-small predict {bare} --split val" in capsys.readouterr().err
    assert not (tmp_path / "r.html").exists()


# ------------------------------------------------------------------------------------------------------------- many models


@pytest.fixture(scope="module")
def many(folder: Path) -> str:
    """The page of three seeds, another recipe, and two ensembles of the seeds; all of val."""
    for name, changes in (("third", {"seed": 2}), ("other", {"seed": 0, "batch_size": 32, "name": "other"})):
        raw = tiny_raw(**{"phases": [{"epochs": 1}, {"epochs": 1, "label_smoothing": 0.1}], **changes})
        train(parse_config(raw), folder / name, quiet=True)
    seeds = [str(folder / name) for name in ("first", "second", "third")]
    files = [f"{one}/predictions/val.npz" for one in seeds]
    for method in ("logits", "vote"):
        assert main(["ensemble", *files, "--method", method, "--output", str(folder / f"{method}_val.npz")]) == 0
    others = [f"lone={folder / 'other'}", str(folder / "logits_val.npz"), f"voted={folder / 'vote_val.npz'}"]
    paper = folder / "many"
    assert main(["report", *seeds, *others, "--output", str(folder / "many.html"), "--paper", str(paper)]) == 0
    assert b"/Type3" not in (paper / "curves.pdf").read_bytes()
    return (folder / "many.html").read_text(encoding="utf-8")


def test_seeds_of_many_models_stand_together(many: str, folder: Path) -> None:
    names = re.findall(r'<div class="name">(.*?)</div>', many)
    assert names == ["tiny", "lone", "logits", "voted"]
    accuracies = [load_predictions(folder / name / "predictions" / "val.npz").accuracy for name in ("first", "second", "third")]
    figures = re.findall(r'<div class="figure"><b>(.*?)</b><span[^>]*>(.*?)</span>', many)
    assert figures[0][0] == f"{100 * np.mean(accuracies):.2f} ± {100 * np.std(accuracies, ddof=1):.2f}%"
    assert figures[0][1].startswith("val accuracy, mean and sd of 3 seeds")
    single = load_predictions(folder / "first" / "predictions" / "val.npz").meta.parameters
    assert [figures[place][0] for place in (1, 5)] == [f"{single:,}", f"{3 * single:,}"]


def test_ensembles_say_what_they_are_made_of_and_gain(many: str) -> None:
    card = many.split("Where these numbers come from")[1].split("</section>")[0]
    made = re.findall(
        r'<span class="">(.*?)</span> <span class="soft">\((.*?)\)', card.split("made of</th>")[1].split("</tr>")[0]
    )
    assert made[0] == ("mean of logits: tiny (seed 0), tiny (seed 1), tiny (seed 2)", "logits")
    assert [names for _, names in made] == ["logits", "voted"]  # the others are made of nothing
    assert "by its members: once (2" in card
    assert "; never" in card  # the second and the third
    assert "seed 0: once (2" in card
    assert "taught by" not in card
    table = many.split("Ensembles against their best members")[1].split("</table>")[0]
    assert len(re.findall("<tr>", table)) == 1 + 2


def test_what_was_not_tested_says_so_where_others_were(many: str, folder: Path) -> None:
    assert many.count("on val, not test") == 4  # one of the three seeds has read test, and the ensembles are of val
    assert page_of(folder).count("on val, not test") == 1
    assert "second has no test predictions" in many


def test_a_file_shows_what_made_it(many: str) -> None:
    assert "method: vote" in many
    assert "run: third" in many
    assert "One run of tiny, seed 0; seeds 1, 2 of this recipe count in the tables above alone." in many


def test_the_paper_is_refused_before_the_page_is_written(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["report", str(folder / "first"), "--output", str(tmp_path / "r.html"), "--paper", str(folder / "paper")]
    assert main(arguments) == 2
    assert f"{folder / 'paper'}" in capsys.readouterr().err
    assert not (tmp_path / "r.html").exists()


def test_origins_of_many_models_name_the_models_of_each_answer(many: str, folder: Path) -> None:
    assert '<table class="origins">' in page_of(folder)
    origins = many.split('<table class="answers">')[1].split("</table>")[0]
    rows = {row.split("</th>")[0].split(">")[-1]: row for row in origins.split("<tr>")[1:]}
    answers = {question: re.findall(r'">(.*?)</span>', row) for question, row in rows.items()}
    assert answers["within its rules"] == ["yes"]  # all answer alike
    assert answers["seed"] == ["0, 1, 2", "(tiny)", "0", "(lone)"]


def test_a_page_to_hand_in_names_no_path(folder: Path) -> None:
    page = page_of(folder)
    assert "second has no test predictions</p>" in page
    assert str(folder) not in page.split("<h2>Where these")[0]


def test_many_models_are_folded_and_few_are_not(many: str, folder: Path) -> None:
    assert many.count('<details class="part">') == 4
    assert 'class="part"' not in page_of(folder)


def test_speed_stands_beside_them(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    timings = [{"threads": 1, "batch": batch, "seconds": [0.1, 0.2]} for batch in (1, 64, 512)]
    engine = {"size": 1000, "val_accuracy": 0.5, "difference": [0.0, 0.0, 0.0], "timings": timings}
    weights = load_predictions(folder / "first" / "predictions" / "val.npz").meta.weights_sha256
    result = {
        "run": "folder",
        "weights_sha256": weights,
        "val_images": 10,
        "engines": [{**engine, "engine": name} for name in ("torch fp32", "ONNX int8")],
    }
    facts = {"device": "some CPU", "cpu_count": 2, "packages": {"torch": "2"}, "onnxruntime": "1"}
    written = {"bench": "inference", "command": "cifar-small bench first", "environment": facts, "load_average": [0.0]}
    settings = {"threads": [1], "rounds": 2, "seconds": 0.1, "dynamic": False}
    speed, page = tmp_path / "speed.json", tmp_path / "report.html"
    strange = {**result, "run": "strange", "weights_sha256": "another"}
    speed.write_text(json.dumps({**written, "settings": settings, "results": [result, strange]}))
    assert main(["report", f"mine={folder / 'first'}", "--output", str(page), "--bench", str(speed), str(speed)]) == 0
    assert page.read_text(encoding="utf-8").count("Speed, size and accuracy") == 1
    shown = page.read_text(encoding="utf-8").split("Speed, size and accuracy")[1].split("</section>")[0]
    for text in ("ONNX int8", "150.00 (100.00 .. 200.00)", "some CPU", "cifar-small bench first", "<td>mine</td>"):
        assert text in shown
    assert "figures of strange belong to weights that no entry here has" in shown
    assert "VNNI" not in shown  # whatever the processor that draws the page
    assert "folder" not in shown
    page.unlink()
    assert main(["report", str(folder / "first"), "--output", str(page), "--bench", str(folder / "first" / "env.json")]) == 4
    assert "contains no latency figures" in capsys.readouterr().err
    assert not page.exists()


# ----------------------------------------------------------------------------------------------------------------- browser


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(width: int, folder: Path, tmp_path: Path) -> None:
    probe = "<script>document.title = 'wide ' + (document.documentElement.scrollWidth - innerWidth)</script></body>"
    page = tmp_path / "probe.html"
    page.write_text(page_of(folder).replace("</body>", probe), encoding="utf-8")
    # The narrowest window of a headless Chromium is wider than a telephone, so the page is put into a frame.
    frame = tmp_path / "frame.html"
    frame.write_text(
        f"<iframe src='{page.name}' width='{width}' height='900' onload=\"document.title = "
        'this.contentDocument.title"></iframe>',
        encoding="utf-8",
    )
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--dump-dom"]
    found = subprocess.run([*command, frame.as_uri()], capture_output=True, text=True, timeout=60, check=True).stdout
    match = re.search(r"<title>wide (-?\d+)</title>", found)
    assert match, found[:300]
    assert int(match[1]) <= 0
