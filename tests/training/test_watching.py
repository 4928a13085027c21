"""A run that is watched: curves that cost little, metrics after each epoch, a log for TensorBoard, the hook for others."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
from conftest import tiny_raw, train_until_save

from cifar_small.config.hashing import recipe_hash
from cifar_small.config.schema import Config
from cifar_small.config.strict_yaml import dump_yaml
from cifar_small.errors import ConfigError
from cifar_small.runs.directory import Run, read_metrics
from cifar_small.training import watching
from cifar_small.training.train import train
from cifar_small.training.watching import FIRST_COST, SHARE, LiveCurves

PAGE = Path(__file__).resolve().parents[2] / "docs" / "watching.md"
Tiny = Callable[..., Config]


def test_curves_are_drawn_when_they_cost_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, drawn = [0.0], []

    def draw(run: Run) -> str:
        now[0] += 3.0  # what a drawing takes
        drawn.append(now[0])
        return "figure"

    monkeypatch.setattr(watching, "draw_run", draw)
    monkeypatch.setattr(watching, "save", lambda figure, path: path.write_text(figure))
    curves = LiveCurves(Run(tmp_path), clock=lambda: now[0])
    for now[0] in (10.0, FIRST_COST / SHARE - 1):
        curves.after_epoch([])
    assert drawn == []
    for _ in range(100):
        now[0] += 10.0
        curves.after_epoch([])
    assert drawn[0] == pytest.approx(62.0)  # 49 s, one epoch more, and the drawing
    assert [later - before for before, later in pairwise(drawn)] == [153.0] * (len(drawn) - 1)
    assert len(drawn) * 3.0 / now[0] <= SHARE + 0.001
    assert (tmp_path / "curves.png").read_text() == "figure"


def test_metrics_and_curves_are_there_while_it_trains(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "FIRST_COST", 0.0)
    monkeypatch.setattr(watching, "save", lambda _, path: path.write_text("a picture"))
    monkeypatch.setattr(watching, "draw_run", lambda _: None)
    found = []
    run = Run(tmp_path / "run")

    def look(row: dict[str, object]) -> None:
        assert [name for name, value in row.items() if isinstance(value, str)] == ["train_targets"]  # as docs/watching.md says
        found.append((len(read_metrics(run.metrics_file)), (run.folder / "curves.png").exists(), run.summary_file.exists()))

    train(tiny(phases=[{"epochs": 2}]), run.folder, quiet=True, on_epoch=look)
    assert found == [(1, True, False), (2, True, False)]


def test_the_package_is_not_needed_unless_asked_for(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    train(tiny(phases=[{"epochs": 1}]), tmp_path / "run", quiet=True)
    with pytest.raises(ConfigError, match=r"engine\.track tensorboard needs the package tensorboard, which is not installed"):
        train(tiny(engine={"device": "cpu", "track": "tensorboard"}), tmp_path / "other", quiet=True)
    assert not (tmp_path / "other").exists()


def test_a_log_changes_no_recipe(tiny: Tiny) -> None:
    logged = tiny(engine={**tiny_raw()["engine"], "track": "tensorboard"})
    assert recipe_hash(logged) == recipe_hash(tiny())


class Writer:
    """In place of torch's: what was logged, by folder."""

    logs: ClassVar[dict[str, dict[tuple[str, int], float]]] = {}

    def __init__(self, folder: str) -> None:
        Path(folder).mkdir()
        self.log = self.logs[folder] = {}
        self.file_writer = self

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        assert (tag, step) not in self.log
        self.log[tag, step] = value

    def add_summary(self, part: Any) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[tuple[str, int], float]]:
    module, summary = ModuleType("tensorboard"), ModuleType("summary")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    summary.hparams = lambda settings, scores: [settings, scores]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.summary", summary)
    monkeypatch.setattr(Writer, "logs", {})
    return Writer.logs


def test_the_log_says_what_metrics_say_after_a_kill_too(
    tiny: Tiny, tmp_path: Path, logs: dict[str, dict[tuple[str, int], float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(phases=[{"epochs": 3}], engine={**tiny_raw()["engine"], "track": "tensorboard"})
    run = Run(tmp_path / "run")
    train_until_save(config, run.folder, 2, monkeypatch)
    train(config, run.folder, resume=True, quiet=True)
    (log,) = logs.values()
    rows, summary = read_metrics(run.metrics_file), run.summary()
    assert summary is not None
    for row in rows:
        assert log["accuracy/val", int(row["epoch"])] == pytest.approx(row["val_accuracy"])
        assert log["learning rate", int(row["epoch"])] == pytest.approx(row["lr"])
    assert log["final/val accuracy", 3] == summary.val_accuracy
    assert len(log) == 3 * len(watching.SCALARS) + 4


def test_tensorboard_itself_reads_the_log(tiny: Tiny, tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    run = Run(tmp_path / "run")
    train(tiny(phases=[{"epochs": 2}], engine={**tiny_raw()["engine"], "track": "tensorboard"}), run.folder, quiet=True)
    log = reader.EventAccumulator(str(run.folder / "tensorboard")).Reload()
    rows, summary = read_metrics(run.metrics_file), run.summary()
    assert summary is not None
    for tag, key in watching.SCALARS.items():
        events = log.Scalars(tag)
        assert [event.step for event in events] == [1, 2]
        assert [event.value for event in events] == pytest.approx([row[key] for row in rows], rel=1e-6)
    final = {
        "final/val accuracy": summary.val_accuracy,
        "final/parameters": summary.parameters,
        "final/minutes": summary.seconds / 60,
        "final/selected epoch": summary.selected_epoch,
    }
    assert set(log.Tags()["scalars"]) == {*watching.SCALARS, *final}
    for tag, value in final.items():
        (event,) = log.Scalars(tag)
        assert (event.step, event.value) == (2, pytest.approx(value, rel=1e-6))
    plugin = log.summary_metadata["_hparams_/session_start_info"].plugin_data
    settings = HParamsPluginData.FromString(plugin.content).session_start_info.hparams
    assert settings["batch_size"].number_value == 64
    assert settings["optim.name"].string_value == "sgd"
    scores = HParamsPluginData.FromString(log.summary_metadata["_hparams_/experiment"].plugin_data.content)
    assert {info.name.tag for info in scores.experiment.metric_infos} == set(final)


def hook_of_the_docs(tracker: str) -> str:
    (block,) = re.findall(rf"```python\n(import {tracker}\n.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    return block  # type: ignore[no-any-return]


def test_the_hook_of_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    block = hook_of_the_docs("trackio")
    tracked: list[Any] = []
    trackio = ModuleType("trackio")
    for name in ("init", "log", "finish"):
        setattr(trackio, name, partial(lambda called, *given, **named: tracked.append((called, given, named)), name))
    monkeypatch.setitem(sys.modules, "trackio", trackio)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(dump_yaml(tiny_raw(phases=[{"epochs": 2}])))
    exec(compile(block, str(PAGE), "exec"), {})
    assert [name for name, _, _ in tracked] == ["init", "log", "log", "log", "finish"]
    assert tracked[0][2]["config"]["batch_size"] == 64
    assert [given[0]["epoch"] for name, given, _ in tracked[1:3]] == [1, 2]
    assert 0 < tracked[3][1][0]["final val accuracy"] <= 1


def test_the_hook_for_mlflow_gives_it_numbers_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    block = hook_of_the_docs("mlflow")
    logged: list[tuple[dict[str, Any], int | None]] = []
    mlflow = ModuleType("mlflow")
    mlflow.set_tracking_uri = mlflow.log_params = lambda given: None  # type: ignore[attr-defined]
    mlflow.start_run = lambda run_name: nullcontext()  # type: ignore[attr-defined]
    mlflow.log_metrics = lambda metrics, step=None: logged.append((metrics, step))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(dump_yaml(tiny_raw(phases=[{"epochs": 2}])))
    exec(compile(block, str(PAGE), "exec"), {})
    assert [step for _, step in logged] == [1, 2, None]
    assert {float(value) for metrics, _ in logged for value in metrics.values()}  # it refuses anything else
    assert logged[0][0].keys() >= {"val_accuracy", "train_loss", "lr"}
    assert logged[2][0]["parameters"] > 0
