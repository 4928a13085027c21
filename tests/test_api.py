"""The toolkit from Python: a notebook's way from a budget to a CSV, on a tiny run."""

from __future__ import annotations

import doctest
import importlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

import cifar_small as cs
from cifar_small.config.schema import Config
from cifar_small.data import load_test, write_unlabelled
from cifar_small.errors import CheckpointError, ConfigError, UserError
from cifar_small.metrics.classification import confusion_matrix
from cifar_small.runs.directory import Run
from tests.conftest import tiny_raw


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[cs.TrainedRun]:
    folder = tmp_path_factory.mktemp("api")
    return [cs.train(tiny_raw(), folder / f"seed{seed}", {"seed": seed}, quiet=True) for seed in (0, 1)]


def test_examples_in_docstrings_are_what_comes_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    package = Path(cs.__file__).parent
    files = [path for path in sorted(package.rglob("*.py")) if ">>> " in path.read_text(encoding="utf-8")]
    names = [".".join(path.relative_to(package.parent).with_suffix("").parts) for path in files]
    assert "cifar_small.api" in names
    for name in names:
        failed, attempted = doctest.testmod(importlib.import_module(name))
        assert (failed, attempted > 0) == (0, True), name


def test_the_names_come_without_torch() -> None:
    code = "import sys, cifar_small; assert set(cifar_small.__all__) <= set(dir(cifar_small)); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_every_name_is_there_and_another_is_answered_with_them() -> None:
    assert all(getattr(cs, name).__name__ == name for name in cs.__all__)
    with pytest.raises(AttributeError, match="no attribute 'fit'; it has Predictions, TrainedRun, compare"):
        cs.fit  # noqa: B018


def test_a_config_is_read_from_a_file_a_mapping_or_taken_as_it_is(tmp_path: Path) -> None:
    raw = tiny_raw()
    loaded = cs.load_config(raw, {"seed": 3, "optim.lr": 0.25, "phases.0.epochs": 5})
    assert (loaded.seed, loaded.optim.lr, loaded.epochs) == (3, 0.25, 5)
    assert raw == tiny_raw()  # the given mapping is left alone
    (tmp_path / "small.yaml").write_text("extends: base.yaml\nname: small\n")
    (tmp_path / "base.yaml").write_text(str(raw))
    assert cs.load_config(tmp_path / "small.yaml").name == "small"
    assert cs.load_config(loaded) is loaded
    with pytest.raises(UserError, match="no effect on a config that is loaded already"):
        cs.load_config(loaded, {"seed": 1})
    with pytest.raises(ConfigError, match=r"optim\.learning_rate: unknown key; did you mean"):
        cs.load_config(raw, {"optim.learning_rate": 1})


def test_a_net_is_counted_and_shown_against_its_budget(tiny: Callable[..., Config]) -> None:
    count = cs.param_count(tiny())
    assert (count.budget, count.headroom) == (100_000, 100_000 - count.trainable)
    over = cs.param_count({**tiny_raw(), "rules": {"max_params": 500}})
    assert over.headroom == 500 - count.trainable
    assert "OVER" in str(over)
    assert "OVER" not in repr(count)
    assert f'<td class="number">{count.trainable:,}</td>' in count._repr_html_()


def test_a_trained_run_is_read_and_not_trained_again(runs: list[cs.TrainedRun]) -> None:
    rows: list[dict[str, Any]] = []
    again = cs.train(tiny_raw(), runs[0].folder, {"seed": 0}, quiet=True, on_epoch=rows.append)
    assert rows == []
    assert again.summary == runs[0].summary
    assert list(again.metrics.epoch) == [1, 2]
    assert again.metrics.val_accuracy.max() == pytest.approx(again.accuracy)
    with pytest.raises(ConfigError):
        cs.train(tiny_raw(), runs[0].folder, {"seed": 0, "optim.lr": 0.3}, quiet=True)


def test_epochs_are_told_as_they_end(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    cs.train(tiny_raw(phases=[{"epochs": 2}]), tmp_path / "run", quiet=True, on_epoch=rows.append)
    assert [row["epoch"] for row in rows] == [1, 2]


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        cs.load_run(tmp_path / "nothing")


def test_predictions_know_their_accuracy_and_confusion(runs: list[cs.TrainedRun]) -> None:
    val = runs[0].predict("val")
    assert val.labels is not None
    assert val.accuracy == pytest.approx(runs[0].accuracy)
    assert val.confusion.to_numpy().tolist() == confusion_matrix(val.labels, val.predicted, 10).tolist()
    assert val.confusion.loc["3", "3"] == ((val.labels == 3) & (val.predicted == 3)).sum()
    frame = val.frame()
    assert (frame.true == frame.predicted).mean() == pytest.approx(val.accuracy)
    exact = np.exp(val.logits[0] - val.logits[0].max())
    assert frame.confidence[0] == pytest.approx(exact.max() / exact.sum(), rel=1e-5)
    assert f"{val.accuracy:.2%} right" in str(val)
    assert val._repr_html_().count("<tr") == 12
    assert repr(val) == str(val)  # and not its arrays
    assert runs[0].lineage == []


def test_the_test_split_is_read_once_however_often_it_is_asked_for(runs: list[cs.TrainedRun]) -> None:
    first, second = runs[1].predict("test"), runs[1].predict("test")
    assert first.meta.sha256 == second.meta.sha256
    assert len(Run(runs[1].folder).test_readings()) == 1
    flipped = runs[1].predict("test", views="flip")
    assert flipped.meta.views == "flip"
    assert len(Run(runs[1].folder).test_readings()) == 2


def test_two_runs_are_combined_compared_and_shown(runs: list[cs.TrainedRun], tmp_path: Path) -> None:
    both = cs.ensemble(runs, tmp_path / "both_val.npz")
    mean = (runs[0].predict("val").logits + runs[1].predict("val").logits) / 2
    assert np.allclose(both.logits, mean, atol=1e-5)
    shown = cs.compare(*runs, tmp_path / "both_val.npz", names=["first", "second", "both"])
    assert [row.name for row in shown.comparison.rows] == ["first", "second", "both"]
    assert "McNemar" in str(shown)
    assert "<td>both</td>" in shown._repr_html_()
    with pytest.raises(UserError, match="1 names for 2 entries"):
        cs.compare(*runs, names=["first"])
    page = cs.report(*runs, output=tmp_path / "page.html")
    assert "2 models" in page.read_text(encoding="utf-8")
    fitted = cs.ensemble(runs, tmp_path / "weighted_val.npz", method="weighted")
    assert fitted.meta.fitted_on is not None


def test_an_unlabelled_file_is_answered(runs: list[cs.TrainedRun], tmp_path: Path) -> None:
    images = load_test(runs[0].config.data)
    write_unlabelled(tmp_path / "unlabelled.pkl", images.images, images.ids)
    answers = runs[0].predict("submit", file=tmp_path / "unlabelled.pkl")
    assert answers.labels is None
    assert "confidence" in answers._repr_html_()
    with pytest.raises(
        UserError, match=r"those of tiny, read from submit\.npz; expected the path of that file.*RUN/predictions/"
    ):
        cs.submit(answers, tmp_path / "mine/submission.csv")  # type: ignore[arg-type]
    record = cs.submit(runs[0].folder / "predictions/submit.npz", tmp_path / "mine/submission.csv")
    assert record.rows == 360
    rows = (tmp_path / "mine/submission.csv").read_text().splitlines()
    assert rows[0] == "ID,Labels"
    assert [int(row.split(",")[1]) for row in rows[1:]] == answers.predicted.tolist()


def test_an_ensemble_is_submitted_with_the_runs_that_predicted(
    runs: list[cs.TrainedRun], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = load_test(runs[0].config.data)
    write_unlabelled(tmp_path / "unlabelled.pkl", images.images, images.ids)
    cs.ensemble(runs, tmp_path / "both.npz", split="submit", file=tmp_path / "unlabelled.pkl")
    capsys.readouterr()
    record = cs.submit(tmp_path / "both.npz", tmp_path / "a/both.csv", runs=[runs[0], runs[1].folder])
    assert (list(record.uncounted), capsys.readouterr().out) == ([], "")
    alone = cs.submit(tmp_path / "both.npz", tmp_path / "b/both.csv")
    assert len(alone.uncounted) == 2
    assert f"note: parameters of {', '.join(alone.uncounted)} were counted by config alone" in capsys.readouterr().out
    tight = tiny_raw(rules={"max_params": 2 * runs[0].parameters - 1, "rows": 360})
    with pytest.raises(ConfigError, match="1 over the budget"):
        cs.submit(tmp_path / "both.npz", tmp_path / "c/both.csv", config=tight)
    with pytest.raises(CheckpointError, match="nowhere does not exist"):
        cs.submit(tmp_path / "both.npz", tmp_path / "c/both.csv", runs=["nowhere"])
    assert not (tmp_path / "c").exists()


def test_settings_are_what_paths_and_numpy_give(tmp_path: Path) -> None:
    settings = {"data.root": tmp_path, "seed": np.int64(3), "optim.lr": np.float32(0.25), "ema_decay": np.float64(0.5)}
    loaded = cs.load_config(tiny_raw(data={"source": "cifar10"}), settings)
    same = {"seed": np.int64(3), "data": {"source": "cifar10", "root": tmp_path}, "ema_decay": np.float64(0.5)}
    as_mapping = cs.load_config(tiny_raw(**same), {"optim.lr": 0.25})
    assert as_mapping == loaded
    assert cs.load_config(MappingProxyType(tiny_raw())) == cs.load_config(tiny_raw())
    with pytest.raises(ConfigError, match=r"config: data\.root: "):  # by its own name, as every problem of a config
        cs.load_config(tiny_raw(data={"source": "cifar10", "root": {tmp_path}}))
    assert (loaded.data.root, loaded.seed, loaded.optim.lr, loaded.ema_decay) == (str(tmp_path), 3, 0.25, 0.5)
    inner = cs.load_config(tiny_raw(), {"optim": {"name": "sgd", "lr": np.float32(0.5), "nesterov": np.bool_(True)}})
    assert inner.optim.lr == 0.5
    for wrong in (object(), {"a": {1}}, {(1, 2): 3}, b"3"):
        with pytest.raises(ConfigError, match=r"^seed is .*; expected text, numbers, lists and mappings of them"):
            cs.load_config(tiny_raw(), {"seed": wrong})


def test_names_may_hold_what_separates_names_on_the_command_line(runs: list[cs.TrainedRun], tmp_path: Path) -> None:
    for run in runs:
        run.predict("val")
    found = cs.compare(*runs, names=["lr=0.1", "lr=0.2"]).comparison
    assert [row.name for row in found.rows] == ["lr=0.1", "lr=0.2"]
    assert "lr=0.2" in cs.report(*runs, names=["lr=0.1", "lr=0.2"], output=tmp_path / "a.html").read_text(encoding="utf-8")
    with pytest.raises(UserError, match=r"^a=b does not exist; expected a run directory or a predictions file$"):
        cs.compare(runs[0], "a=b")


def test_predictions_of_another_file_are_not_replaced_without_a_word(
    runs: list[cs.TrainedRun], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = load_test(runs[0].config.data)
    for name, part in (("a.pkl", slice(0, 360)), ("b.pkl", slice(359, None, -1))):
        write_unlabelled(tmp_path / name, np.ascontiguousarray(images.images[part]), images.ids)
    runs[0].predict("submit", file=tmp_path / "a.pkl")
    capsys.readouterr()
    cs.estimate(runs[0], file=tmp_path / "a.pkl", output=tmp_path / "estimate.json")
    assert "replaced" not in capsys.readouterr().out
    cs.estimate(runs[0], file=tmp_path / "b.pkl", output=tmp_path / "estimate.json")
    path = runs[0].folder / "predictions/submit.npz"
    told = rf"note: {path} held predictions of .*a\.pkl.*, which those of .*b\.pkl.* have replaced"
    assert re.search(told, capsys.readouterr().out)
    path.write_bytes(b"damaged")
    assert len(runs[0].predict("submit", file=tmp_path / "a.pkl").ids) == 360


def test_what_runs_will_score_is_estimated_and_recorded(runs: list[cs.TrainedRun], tmp_path: Path) -> None:
    images = load_test(runs[0].config.data)
    write_unlabelled(tmp_path / "unlabelled.pkl", images.images, images.ids)
    found = cs.estimate(*runs, file=tmp_path / "unlabelled.pkl", output=tmp_path / "estimate.json")
    kept = json.loads((tmp_path / "estimate.json").read_text())
    assert [run["estimate"] for run in kept["runs"]] == [run.accuracy for run in found.estimation.runs]
    assert [run["val_accuracy"] for run in kept["runs"]] == [run.accuracy for run in runs]
    assert kept["looked_at"]["images"] == 360
    assert found._repr_html_().count("<tr>") == 3
    submitted = cs.submit(
        runs[0].folder / "predictions/submit.npz", tmp_path / "mine/submission.csv", estimate=tmp_path / "estimate.json"
    )
    assert submitted.estimate is not None
    assert all(str(found).count(f"warning: {line[:20]}") for line in found.estimation.warnings)


@pytest.mark.usefixtures("pictures")
def test_curves_are_a_picture(runs: list[cs.TrainedRun], tmp_path: Path) -> None:
    plot = runs[0].curves()
    assert plot._repr_png_().startswith(b"\x89PNG")
    plot.save(tmp_path / "curves.svg")
    assert "<svg" in (tmp_path / "curves.svg").read_text(encoding="utf-8")


def test_what_is_no_split_reads_nothing(runs: list[cs.TrainedRun], tmp_path: Path) -> None:
    before = len(Run(runs[0].folder).test_readings())
    for split in ("tset", None, ["val"]):
        with pytest.raises(UserError, match=r"there is no split .*; expected one of train, val, test, submit"):
            runs[0].predict(split)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="there is no split 'vla'"):
        cs.ensemble(runs, tmp_path / "both.npz", split="vla")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="split is 'vla'; expected val or test"):
        cs.compare(*runs, split="vla")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="split val with an unlabelled file"):
        runs[0].predict("val", file="unlabelled.pkl")
    assert len(Run(runs[0].folder).test_readings()) == before


WRONG: dict[str, Callable[[cs.TrainedRun, Path], object]] = {
    "config is a int; expected a mapping, or the path of a YAML file": lambda run, out: cs.param_count(3),  # type: ignore[arg-type]
    "settings are ['seed']; expected a mapping": lambda run, out: cs.load_config(tiny_raw(), ["seed"]),  # type: ignore[arg-type]
    "settings are {1: 2}; expected a mapping": lambda run, out: cs.load_config(tiny_raw(), {1: 2}),  # type: ignore[dict-item]
    "on_epoch is 3; expected a function": lambda run, out: cs.train(tiny_raw(), out, on_epoch=3),  # type: ignore[arg-type]
    "folder is a int; expected a path": lambda run, out: cs.train(tiny_raw(), 3),  # type: ignore[arg-type]
    "folder is a TrainedRun; expected the path of a run directory": lambda run, out: cs.load_run(run),  # type: ignore[arg-type]
    "views: expected one of none, flip, shift,": lambda run, out: run.predict("val", views="flp"),
    "file is a int; expected a path": lambda run, out: run.predict("submit", file=3),  # type: ignore[arg-type]
    "expected a list of runs and predictions files": lambda run, out: cs.ensemble(run, out),  # type: ignore[arg-type]
    "a member is a int; expected a run, or the path": lambda run, out: cs.ensemble([run, 2], out),  # type: ignore[list-item]
    "there is no method 'mean'; expected one of logits,": lambda run, out: cs.ensemble([run, run], out, method="mean"),  # type: ignore[arg-type]
    "split and file say what runs predict, and all": lambda run, out: cs.ensemble(["a.npz"], out, split="submit", file="a.pkl"),
    "output is a NoneType; expected a path": lambda run, out: cs.ensemble([run, run], None),  # type: ignore[arg-type]
    "no entries; expected runs or predictions files": lambda run, out: cs.compare(),
    "an entry is a list; expected runs or paths": lambda run, out: cs.report([run], output=out),  # type: ignore[arg-type]
    "no runs; expected one or more": lambda run, out: cs.estimate(file="a.pkl"),
    "'run' is no run; expected runs": lambda run, out: cs.estimate("run", file="a.pkl", output=out),  # type: ignore[arg-type]
    "names are [1, 2]; expected a list": lambda run, out: cs.compare(run, run, names=[1, 2]),  # type: ignore[list-item]
    "runs are 'run'; expected a list of runs": lambda run, out: cs.submit("a.npz", out, runs="run"),
    "a run is a int; expected a run, or its directory": lambda run, out: cs.submit("a.npz", out, runs=[1]),  # type: ignore[list-item]
    "names are 'ab'; expected a list": lambda run, out: cs.compare(run, run, names="ab"),
    "predictions is a TrainedRun; expected the path": lambda run, out: cs.submit(run, out),  # type: ignore[arg-type]
}


@pytest.mark.parametrize(("message", "call"), list(WRONG.items()), ids=list(WRONG))
def test_a_wrong_argument_is_one_line_and_leaves_nothing(
    message: str, call: Callable[[cs.TrainedRun, Path], object], runs: list[cs.TrainedRun], tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        call(runs[0], tmp_path / "out")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_soup_has_no_epochs_to_show(runs: list[cs.TrainedRun]) -> None:
    soup = replace(runs[0], summary=runs[0].summary.updated(soup=[{"name": "a", "seed": 0, "weights_sha256": "0" * 64}]))
    for ask in (lambda: soup.metrics, soup.curves):
        with pytest.raises(UserError, match="is a soup, whose weights are a mean: it has no epochs"):
            ask()


def test_a_page_shows_mistakes_as_the_commands_does(
    runs: list[cs.TrainedRun], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for run in runs:
        run.predict("val")
    page = cs.report(*runs, output=tmp_path / "report.html").read_text(encoding="utf-8")
    assert "data:image/png;base64" in page
    assert "note: " not in capsys.readouterr().out

    def away(*_: object) -> None:
        raise UserError("the images are away")

    monkeypatch.setattr("cifar_small.inference.predict.images_of", away)
    assert "data:image/png;base64" not in cs.report(*runs, output=tmp_path / "bare.html").read_text(encoding="utf-8")
    assert capsys.readouterr().out.count("note: mistakes are not drawn: the images are away") in (
        1,
        2,
    )  # val, and test where it was read
