"""tools/bench: the arithmetic with numbers known beforehand, and each benchmark on digits or random images, in seconds."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from benchmarks import augment, cli, loops, report, steps, timing
from benchmarks.loops import BareModelLoop, DataLoaderLoop, Stopwatch, TrainerLoop
from benchmarks.report import Report
from conftest import tiny_raw

from cifar_small import __version__
from cifar_small.cli import main as package_cli
from cifar_small.config.hashing import config_hash
from cifar_small.config.loading import parse_config
from cifar_small.config.schema import Config
from cifar_small.data.datamodule import load_datamodule
from cifar_small.errors import CheckpointError, ConfigError, UserError
from cifar_small.metrics import spread
from cifar_small.metrics.spread import Spread
from cifar_small.models import build_model, convolutions
from cifar_small.reporting import tables
from cifar_small.runs.checkpoints import load_checkpoint
from cifar_small.runs.directory import Run
from cifar_small.training.signals import stopped_by_signals
from cifar_small.training.train import train
from cifar_small.transforms.preprocess import normalize

Tiny = Callable[..., Config]
CPU = torch.device("cpu")
SMALL = {"family": "resnet", "widths": [4, 8, 8], "blocks": [1, 1, 1], "strides": [2, 2, 2]}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_config(tmp_path / "tiny é.yaml")


def write_config(path: Path, **changes: Any) -> Path:
    path.write_text(yaml.safe_dump(tiny_raw(**{"model": SMALL, "phases": [{"epochs": 1}], **changes})), encoding="utf-8")
    return path


# ---- numbers and tables ----


def test_spread_ratios_and_deviation() -> None:
    assert spread.spread([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert spread.spread([4.0, 1.0, 2.0, 9.0]) == Spread(3.0, 1.0, 9.0)
    assert spread.ratios([2.0, 6.0, 9.0], [1.0, 1.0, 3.0]) == Spread(3.0, 2.0, 6.0)  # of each round, not of the medians: 6 / 1
    assert report.mean_and_sd([1.0, 2.0, 3.0]) == (2.0, 1.0)
    assert report.mean_and_sd([5.0]) == (5.0, None)
    assert Spread(2.0, 1.0, 3.456).text(".1f") == "2.0 (1.0 .. 3.5)"
    with pytest.raises(ValueError, match="shorter"):
        spread.ratios([1.0, 2.0], [1.0])


def test_table_lines_up() -> None:
    assert (
        tables.aligned(tables.Table("", ("loop", "s"), (("a", "1.25"), ("longer", "")))) == "loop       s\na       1.25\nlonger"
    )


def test_stopwatch_reads_the_clock_three_times(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 13.0, 19.0])
    monkeypatch.setattr(loops.time, "perf_counter", lambda: next(clock))
    watch = Stopwatch(CPU, 3)
    for _ in range(4):
        watch.update(64)
    assert (watch.a_step, watch.start_up, watch.total, watch.done) == (2.0, 1.0, 9.0, 4)


def test_start_up_is_shared_over_an_epoch_and_loops_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    now, turns = [0.0], list[str]()
    monkeypatch.setattr(loops.time, "perf_counter", lambda: now[0])

    class Fake:
        device, precision, layout = CPU, "fp32", "contiguous"

        def __init__(self, name: str, start_up_share: float) -> None:
            self.name, self.start_up_share = name, start_up_share

        def run(self, watch: Stopwatch) -> None:
            turns.append(f"{self.name}{watch.steps}")
            for step in range(watch.steps + 1):
                now[0] += 2.0 if step else 10.0  # 8 seconds beyond a step
                watch.update(1)

    seconds = loops.alternate({"a": Fake("a", 1 / 4), "b": Fake("b", 0.0)}, steps=7, rounds=2)
    assert seconds == {"a": [4.0, 4.0], "b": [2.0, 2.0]}
    assert turns == ["a4", "b4", "a7", "b7", "a7", "b7"]


def test_step_results_with_known_numbers() -> None:
    seconds = {"ours": [0.2, 0.4], "ceiling": [0.1, 0.3], "plain": [0.4, 0.4]}
    results = steps.step_results(seconds, batch=100, macs=1_000_000)
    ours = results["loops"]["ours"]
    assert ours["seconds_a_step"] == [0.2, 0.4]
    assert ours["images_per_second"] == pytest.approx({"median": 375, "low": 250, "high": 500})
    assert ours["gflops"] == pytest.approx({"median": 2.25, "low": 1.5, "high": 3.0})  # 6 x 1e6 x 500 = 3e9
    assert results["data_path_share"] == pytest.approx({"median": 0.375, "low": 0.25, "high": 0.5})
    assert results["ours_over_plain"] == pytest.approx({"median": 1.5, "low": 1.0, "high": 2.0})
    assert results["ours_over_ceiling"] == pytest.approx({"median": 0.625, "low": 0.5, "high": 0.75})
    assert results["ceiling_over_torch"] is None
    for loop in results["loops"].values():
        loop |= {"precision": "fp32", "layout": "contiguous"}
    text = steps.render_steps(results)
    assert "torch's gradients" not in text
    results |= steps.step_results(seconds | {"torch": [0.2, 0.45]}, batch=100, macs=1_000_000) | {"loops": results["loops"]}
    assert "the ceiling is 1.75 (1.50 .. 2.00) x itself with torch's gradients" in steps.render_steps(results)
    assert "data path, mixing and checks cost 37.5 (25.0 .. 50.0) % of a step" in text
    assert "our loop is 1.50 (1.00 .. 2.00) x the plain reference" in text
    assert text.splitlines()[1].split() == [
        "ours",
        "fp32",
        "contiguous",
        "3.75",
        "375",
        "2.2",
        "300.0",
        "(200.0",
        "..",
        "400.0)",
    ]


def test_every_engine_takes_its_turn_in_every_recipe(tiny: Tiny) -> None:
    workers = [("albumentations", 0), ("albumentations", 2), ("torchvision", 0), ("torchvision", 2)]
    of_a_recipe = [("tensor", 0), *workers, ("transforms.v2", 0)]
    entries = augment.contenders(tiny(), [0, 2])
    assert [(entry.recipe, entry.engine, entry.workers) for entry in entries] == [
        *(("crop, flip", *one) for one in of_a_recipe), *(("heavy", *one) for one in of_a_recipe), ("own", "tensor", 0),
    ]  # fmt: skip
    assert entries[-1].settings == tiny().augment
    torchvision = {"engine": "torchvision", "policy": "augmix"}
    own = augment.contenders(tiny(augment=torchvision), [1, 2])[-2:]
    assert [(entry.recipe, entry.engine, entry.workers) for entry in own] == [
        ("own", "torchvision", 1),
        ("own", "torchvision", 2),
    ]


def test_augment_rows_compare_with_the_first_of_their_recipe(tiny: Tiny) -> None:
    entries = [augment.Contender(recipe, "e", 0, None) for recipe in ("a", "a", "b")]
    rows = augment.augment_rows(entries, [[1.0, 2.0, 4.0], [2.0, 2.0, 2.0], [5.0, 5.0, 5.0]], images=100)
    assert rows[0]["images_per_second"] == {"median": 50.0, "low": 25.0, "high": 100.0}
    assert [row["time_over_first"] for row in rows] == [
        {"median": 1.0, "low": 1.0, "high": 1.0},
        {"median": 1.0, "low": 0.5, "high": 2.0},  # of the quotients of the rounds
        {"median": 1.0, "low": 1.0, "high": 1.0},
    ]
    assert augment.render_augment(rows).splitlines()[2].split() == [
        "a:", "e", "0", "50", "(50", "..", "50)", "1.00", "(0.50", "..", "2.00)",
    ]  # fmt: skip


def test_head_says_where_and_how_busy(tiny: Tiny) -> None:
    environment = report.begin("steps", tiny(), "").environment
    busy, idle = (Report("steps", tiny(), "", environment, load_average=(load, 9.0, 9.0)) for load in (1.84, 0.4))
    note = "note: load average 1.8 at start: other processes share these cores; ratios within a run are worth more"
    assert note in busy.head()
    assert "load" not in idle.head()
    for fact in (environment["device"], "1 of ", "fp32", f"torch {torch.__version__}", f"cifar_small {__version__}"):
        assert fact in idle.head()


# ---- the loops ----


def test_ours_is_the_training_of_train(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny(model=SMALL, augment={"crop": 2, "flip": "random", "cutout": 8}, mixup_alpha=0.5)
    train(config, tmp_path / "run", quiet=True)
    expected = load_checkpoint(Run(tmp_path / "run").last)["model"]
    ours = TrainerLoop(config, tmp_path)
    for epoch in (1, 0):  # of the phase's two, and back to the first
        watch = Stopwatch(CPU, 3)
        ours.run(watch)
        assert watch.done == 4
        assert ours.trainer.state.epoch == epoch
    assert ours.start_up_share == 1 / 4
    assert all(torch.equal(value, expected[name]) for name, value in ours.trainer.state.model.state_dict().items())


LITE = {"model": {"family": "timm/tf_efficientnet_lite0"}}


def test_the_last_steps_of_an_epoch_that_ends_early_are_made_too(tiny: Tiny, tmp_path: Path) -> None:
    ours = TrainerLoop(tiny(model=SMALL, phases=[{"epochs": 1.5}]), tmp_path)
    for epoch in (1, 0, 1):  # of four steps, and of two
        watch = Stopwatch(CPU, 1)
        ours.run(watch)
        assert watch.done == 2
        assert ours.trainer.state.epoch == epoch


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"sam": {"rho": 0.05}}, "sam, two passes a step"),
        ({"select": {"share": 0.5, "proxy": "runs/small"}}, "select, so that a part"),
        ({"freeze": "backbone", "cached_views": 2, **LITE}, "cached_views, so that the head is trained alone"),
    ],
)
def test_steps_refuse_what_the_bare_net_does_not_do(
    setting: dict[str, Any], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = setting.get("model", SMALL)
    phase = {"epochs": 2, **{key: value for key, value in setting.items() if key != "model"}}
    file = write_config(tmp_path / "odd.yaml", model=model, phases=[phase])
    assert cli.main(["steps", str(file), "--steps", "1", "--rounds", "1"]) == 2
    assert says in capsys.readouterr().err


def test_steps_of_a_phase_beside_one_with_sam(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_config(tmp_path / "two.yaml", phases=[{"epochs": 1, "sam": {"rho": 0.05}}, {"epochs": 1, "sam": None}])
    arguments = ["steps", str(file), "--steps", "1", "--rounds", "1", "--images", "128", "--workers", "0"]
    assert cli.main([*arguments, "--phase", "0"]) == 2
    assert "or choose another --phase" in capsys.readouterr().err
    assert cli.main([*arguments, "--phase", "1"]) == 0


def test_ours_starts_at_the_phase_asked_for(tiny: Tiny, tmp_path: Path) -> None:
    model = {**SMALL, "dropout": 0.4}
    config = tiny(model=model, phases=[{"epochs": 2}, {"epochs": 1, "dropout": 0.1, "optim": {"momentum": 0.5}}])
    ours = TrainerLoop(config, tmp_path, phase=1)
    watch = Stopwatch(CPU, 1)
    ours.run(watch)
    assert watch.done == 2  # of the epoch's four
    assert ours.trainer.state.epoch == 2
    assert ours.trainer.state.optimizer.param_groups[0]["momentum"] == 0.5
    assert [module.p for module in ours.trainer.state.model.modules() if isinstance(module, torch.nn.Dropout)] == [0.1]
    with pytest.raises(UserError, match=r"--phase 2: tiny has the phases 0 to 1"):
        TrainerLoop(config, tmp_path, phase=2)


def test_ceiling_does_the_work_of_a_step_without_learning(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny(
        model=SMALL, ema_decay=0.9, engine={"device": "cpu", "precision": "bf16", "threads": 1, "micro_batch_size": 32}
    )
    ceiling = BareModelLoop(TrainerLoop(config, tmp_path))
    state = ceiling.trainer.state
    before = [parameter.detach().clone() for parameter in state.model.parameters()]
    sizes: list[tuple[int, torch.dtype]] = []
    state.model.register_forward_hook(lambda _, inputs, output: sizes.append((len(inputs[0]), output.dtype)))
    watch = Stopwatch(CPU, 1)
    ceiling.run(watch)
    assert watch.done == 2
    assert sizes == [(32, torch.bfloat16)] * 4
    assert ceiling.pixels.is_contiguous(memory_format=torch.channels_last)
    assert state.average is not None
    assert state.average.n_averaged == 2
    for parameter, old in zip(state.model.parameters(), before, strict=True):
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0
        assert "momentum_buffer" in state.optimizer.state[parameter]
        assert torch.equal(parameter, old)


def test_the_ceiling_may_have_torchs_gradients(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    real = convolutions.convolve
    monkeypatch.setattr(
        convolutions, "convolve", lambda *given, **options: seen.append(options.get("fast")) or real(*given, **options)
    )
    for plain_gradients in (True, False):
        seen.clear()
        BareModelLoop(TrainerLoop(tiny(), tmp_path), plain_gradients=plain_gradients).run(Stopwatch(CPU, 1))
        assert set(seen) == {not plain_gradients}


def test_plain_reference_learns_and_its_pixels_are_ours(tiny: Tiny) -> None:
    config = tiny(batch_size=16, data={"source": "digits", "val_size": 200, "train_limit": 64})
    datamodule = load_datamodule(config)
    plain = DataLoaderLoop(config, datamodule, workers=0)
    assert plain.model.state_dict().keys() == build_model(config.model, 10).state_dict().keys()
    for _ in range(12):
        watch = Stopwatch(CPU, 3)
        plain.run(watch)
        assert watch.done == 4
    assert len(plain.losses) == 48
    assert sum(plain.losses[-4:]) < 0.8 * sum(plain.losses[:4])
    source = plain.loader.dataset
    assert isinstance(source, loops.PlainImages)
    fixed = loops.PlainImages(
        source.images, source.labels, loops.plain_transform(datamodule.mean, datamodule.std, augment=False)
    )
    pixels = torch.stack([fixed[index][0] for index in range(8)])
    torch.testing.assert_close(pixels, normalize(datamodule.images[:8], datamodule.mean, datamodule.std), rtol=0, atol=1e-5)
    assert [fixed[index][1] for index in range(8)] == datamodule.labels[:8].tolist()
    torch.manual_seed(0)
    assert not torch.equal(torch.stack([source[index][0] for index in range(8)]), pixels)  # the real one is augmented


def test_torchvisions_loop_crops_and_covers_as_the_recipes_say() -> None:
    image = torch.arange(3 * 32 * 32).view(3, 32, 32).remainder(251).byte() + 1
    crop = augment.loop_transform("crop, flip", (0.0, 0.0, 0.0), (1 / 255,) * 3)
    padded = torch.nn.functional.pad(image, (4, 4, 4, 4))
    windows = padded.unfold(1, 32, 1).unfold(2, 32, 1).permute(1, 2, 0, 3, 4).flatten(0, 1)
    both = torch.cat((windows, windows.flip(3)))
    torch.manual_seed(0)
    places = [(both == crop(image).round().byte()).flatten(1).all(1).nonzero().flatten().tolist() for _ in range(40)]
    assert all(len(found) == 1 for found in places)
    assert len({found[0] for found in places}) > 25
    assert {found[0] >= 81 for found in places} == {True, False}
    heavy = augment.loop_transform("heavy", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    made = torch.stack([heavy(torch.full((3, 32, 32), 200, dtype=torch.uint8)) for _ in range(200)])
    black = (made == 0).all(1).sum((1, 2))
    assert (made.dtype, made.shape) == (torch.float32, (200, 3, 32, 32))
    assert (black == 64).float().mean().item() > 0.1  # a hole, and nothing beyond an edge: a quarter but for changed contrast
    assert (black == 0).float().mean().item() > 0.1


def test_random_images_take_the_place_of_the_data(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny()
    datamodule = load_datamodule(loops.synthetic(config, 130, tmp_path))
    assert datamodule.images.shape == (130, 3, 32, 32)
    assert len(datamodule.classes) == 10
    assert datamodule.images.float().mean() == pytest.approx(127.5, abs=1)
    again = loops.synthetic(config, 130, tmp_path)
    assert again.model_copy(update={"data": config.data}) == config  # nothing else has changed


def test_too_few_steps_for_a_round_are_refused(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["steps", str(file), "--data", "real", "--steps", "4"]) == 2
    assert "--steps 4 needs 5 steps in an epoch" in (message := capsys.readouterr().err)
    assert "256 images in batches of 64 make 4" in message


# ---- the commands ----

FACTS = {"bench", "command", "started", "environment", "load_average", "config_sha256", "config", "results"}


def figures(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    assert set(content) == FACTS
    return content


def test_steps_prints_and_keeps_every_round(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "new" / "steps.json"
    arguments = ["steps", str(file), "--steps", "2", "--rounds", "2", "--images", "10", "--workers", "0", "--json", str(target)]
    assert cli.main([*arguments, "--batch_size", "32"]) == 0
    content = figures(target)
    assert content["command"] == f"tools/bench steps '{file}' {' '.join(arguments[2:])} --batch_size 32"
    assert content["config"]["batch_size"] == 32
    assert content["config"]["data"]["source"] == "digits"
    assert content["environment"]["threads"] == 1
    results = content["results"]
    assert results["images"] == 96  # as many as three steps take, since 10 are too few
    assert {name: len(loop["seconds_a_step"]) for name, loop in results["loops"].items()} == dict.fromkeys(
        ("ours", "ceiling", "torch", "plain"), 2
    )
    assert {name: loop["layout"] for name, loop in results["loops"].items()} == {
        "ours": "channels_last", "ceiling": "channels_last", "torch": "channels_last", "plain": "contiguous",
    }  # fmt: skip
    text = capsys.readouterr().out
    assert text.startswith("bench steps: tiny (config ")
    assert "x the plain reference" in text


def test_augment_measures_every_contender_on_one_thread(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    several = write_config(tmp_path / "tiny.yaml", engine={"device": "cpu", "precision": "fp32", "threads": 3})
    target = tmp_path / "augment.json"
    options = ["--workers", "0", "0", "--images", "100", "--rounds", "2", "--json", str(target)]
    assert cli.main(["augment", str(several), *options]) == 0
    content = figures(target)
    assert (content["environment"]["threads"], content["config"]["engine"]["device"]) == (1, "cpu")
    results = content["results"]
    assert (results["images"], results["batch_size"], results["rounds"]) == (64, 64, 2)  # whole batches
    assert len(results["rows"]) == 9
    assert all(len(row["seconds"]) == 2 and min(row["seconds"]) > 0 for row in results["rows"])
    for row in results["rows"]:
        assert row["images_per_second"]["high"] == pytest.approx(64 / min(row["seconds"]))
    assert results["rows"][1]["settings"]["pipeline"][0] == {"name": "Pad", "padding": 4}
    text = capsys.readouterr().out
    assert "heavy: tensor: flip random, erasing 0.5" in text
    assert "own: tensor: crop 2" in text
    assert "heavy: transforms.v2" in text


def test_settings_given_win_over_those_a_benchmark_measures_with(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Config] = []

    def keep(options: Any, config: Config) -> dict[str, Any]:
        found.append(config)
        return {}

    defaults = (("batch_size", "7"), ("optim.lr", "0.5"))
    monkeypatch.setattr(cli, "ALL", (report.Benchmark("x", "one", "two", lambda sub: None, keep, defaults),))
    assert cli.main(["x", str(file), "--optim.lr", "0.25"]) == 0
    assert (found[0].batch_size, found[0].optim.lr) == (7, 0.25)


@pytest.mark.parametrize("name", [command.name for command in cli.ALL])
def test_help_teaches_by_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--help"], [name, "--help"]):
        with pytest.raises(SystemExit, match="0"):
            cli.main(arguments)
        assert f"  tools/bench {name} configs/" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["steps", "nowhere.yaml"], "nowhere.yaml"),
        (["steps", "FILE", "--engine.threads"], "--engine.threads needs a value; write --engine.threads VALUE"),
        (["steps", "FILE", "--engine.treads", "1"], "did you mean"),
        (["steps", "FILE", "--workers", "-1"], "--workers -1: expected 0 or more"),
        (["steps", "FILE", "--data", "real", "--images", "9"], "--images has no effect on --data real"),
        (["augment", "FILE", "--workers", "0", "-1"], "--workers -1: expected 0 (this process) or more"),
        (["time", "FILE", "--targets", "90", "0"], "--targets 0 is no test accuracy in per cent"),
        (["time", "FILE", "--targets", "200"], "--targets 200 is no test accuracy"),
        (["time", "FILE", "--targets", "nan"], "--targets nan is no test accuracy"),
        (["time", "FILE", "--targets", "90", "--seeds", "1", "0", "1"], "--seeds names seed 1 more than once"),
        (["time", "FILE", "--targets", "90", "--seeds", "-1"], "seed"),
        (["time", "FILE", "--targets", "90", "--baseline-seeds", "1"], "--baseline-seeds has no effect without --baseline"),
        (["time", "FILE", "--targets", "90", "--baseline", "gone.yaml"], "gone.yaml"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    assert cli.main([str(file) if argument == "FILE" else argument for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("bench: error: ")
    assert error.count("\n") == 1
    assert message in error
    assert [path.name for path in file.parent.iterdir()] == [file.name]  # nothing was left behind


# ---- time to accuracy ----


def in_process(arguments: Sequence[str], log: Path) -> float:
    """In place of `wall_time`: the same command without a process of its own, which would take seconds to start."""
    log.parent.mkdir(parents=True, exist_ok=True)
    assert package_cli.main(list(arguments)) == 0
    return 30.0 if arguments[0] == "train" else 6.0


class Faked:
    """In place of `wall_time`: writes what the harness reads of a run, and keeps the commands."""

    def __init__(self, seconds: float = 60.0, sessions: int = 1) -> None:
        self.commands: list[list[str]] = []
        self.seconds, self.sessions = seconds, sessions

    def __call__(self, arguments: Sequence[str], log: Path) -> float:
        self.commands.append(list(arguments))
        train = arguments[0] == "train"
        run = Run(arguments[arguments.index("--output") + 1] if train else arguments[1])
        run.folder.mkdir(parents=True, exist_ok=not train)
        if train:
            sessions = [
                {
                    "started": "2026-11-21T00:00:00+00:00",
                    "command": "",
                    "device": "a CPU",
                    "threads": 1,
                    "precision": "fp32",
                    "commit": "c",
                    "dirty": False,
                }
            ] * self.sessions
            run.env_file.write_text(json.dumps({"sessions": sessions}))
        else:
            facts = {"command": "", "views": "none", "images": 20, "predictions": "test.npz", "predictions_sha256": "p"}
            run.append_test_reading(accuracy=0.95, **facts)
        return self.seconds if train else 0.0


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch) -> Faked:
    fake = Faked()
    monkeypatch.setattr(timing, "wall_time", fake)
    return fake


def test_two_seeds_on_digits_and_none_runs_again(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "wall_time", in_process)
    folder, target = tmp_path / "out", tmp_path / "time.json"
    options = ["--targets", "99.9", "1", "--seeds", "0", "1", "--output", str(folder), "--json", str(target)]
    assert cli.main(["time", str(file), *options]) == 0
    results = figures(target)["results"]
    runs, summary = results["runs"]["ours"], results["summaries"]["ours"]
    assert [(run["seed"], run["seconds"], run["interrupted"], run["attempt"]) for run in runs] == [
        (0, 36.0, False, 1), (1, 36.0, False, 1),
    ]  # fmt: skip
    accuracies = [Run(folder / "ours" / f"seed{seed}-run1").test_readings()[0].accuracy for seed in (0, 1)]
    assert [run["accuracy"] for run in runs] == accuracies
    assert summary["accuracy_mean"] == pytest.approx(sum(accuracies) / 2)
    assert [(one["target"], one["reached"], one["minutes"]) for one in summary["targets"]] == [
        (1, True, 0.6),
        (99.9, False, None),
    ]
    seeded = parse_config(yaml.safe_load(file.read_text(encoding="utf-8")) | {"seed": 1})
    assert json.loads((folder / "ours" / "seed1.json").read_text())["config_sha256"] == config_hash(seeded)
    assert Run(folder / "ours" / "seed1-run1").config() == seeded
    assert "seed 1: test" in capsys.readouterr().out

    monkeypatch.setattr(timing, "wall_time", None)  # calling it would fail
    assert cli.main(["time", str(file), *options]) == 0
    assert figures(target)["results"] == results
    assert capsys.readouterr().out.count("(read from its file)") == 2


def test_a_result_of_another_config_is_refused_before_any_run(
    file: Path, tmp_path: Path, faked: Faked, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["time", str(file), "--targets", "90", "--output", str(tmp_path / "out")]
    assert cli.main([*command, "--seeds", "1"]) == 0
    faked.commands.clear()
    assert cli.main([*command, "--seeds", "0", "1", "--optim.lr", "0.05"]) == 2
    assert "seed1.json is the result of another config" in capsys.readouterr().err
    assert faked.commands == []


def test_sides_take_turns_and_are_compared(
    file: Path, tmp_path: Path, faked: Faked, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    baseline = write_config(tmp_path / "baseline.yaml", phases=[{"epochs": 2}])
    times = iter([60.0, 120.0, 50.0, 200.0, 40.0])

    class Clock(datetime):
        time = datetime(2026, 1, 1, tzinfo=UTC)

        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return cls.time

    def wall_time(arguments: Sequence[str], log: Path) -> float:
        faked.seconds = next(times) if arguments[0] == "train" else 0.0
        Clock.time += timedelta(seconds=faked.seconds)
        return faked(arguments, log)

    monkeypatch.setattr(timing, "datetime", Clock)
    monkeypatch.setattr(timing, "wall_time", wall_time)
    folder, target = tmp_path / "out", tmp_path / "time.json"
    options = ["--seeds", "0", "1", "2", "--baseline", str(baseline), "--baseline-seeds", "5", "6", "--output", str(folder)]
    changed = ["--optim.lr", "0.05", "--json", str(target)]
    assert cli.main(["time", str(file), "--targets", "90", *options, *changed]) == 0
    trained = [command for command in faked.commands if command[0] == "train"]
    assert [Path(command[command.index("--output") + 1]).relative_to(folder).as_posix() for command in trained] == [
        "ours/seed0-run1", "baseline/seed5-run1", "ours/seed1-run1", "baseline/seed6-run1", "ours/seed2-run1",
    ]  # fmt: skip
    assert all(command[-2:] == ["--optim.lr", "0.05"] for command in trained)
    assert [command[2] for command in trained[:2]] == [str(file), str(baseline)]
    assert figures(target)["results"]["baseline_over_ours"] == {"pairs": 2, "median": 3.0, "low": 2.0, "high": 4.0}
    assert "the baseline takes 3.00 x as long as ours (2.00 .. 4.00 over 2 pairs of runs)" in capsys.readouterr().out


def test_a_run_that_was_cut_off_starts_anew(file: Path, tmp_path: Path, faked: Faked) -> None:
    left = tmp_path / "out" / "ours" / "seed0-run1"
    left.mkdir(parents=True)
    (left / "last.pt").write_bytes(b"half a run")
    assert cli.main(["time", str(file), "--targets", "90", "--seeds", "0", "--output", str(tmp_path / "out")]) == 0
    assert faked.commands[0][6] == str(left.with_name("seed0-run2"))
    assert "--resume" not in faked.commands[0]
    assert json.loads((tmp_path / "out" / "ours" / "seed0.json").read_text())["attempt"] == 2
    assert (left / "last.pt").read_bytes() == b"half a run"


def test_a_resumed_run_is_never_a_clean_time(
    file: Path, tmp_path: Path, faked: Faked, capsys: pytest.CaptureFixture[str]
) -> None:
    faked.sessions = 2
    command = ["time", str(file), "--targets", "90", "--output", str(tmp_path / "out"), "--json", str(tmp_path / "t.json")]
    assert cli.main([*command, "--seeds", "0"]) == 0
    assert figures(tmp_path / "t.json")["results"]["summaries"]["ours"]["seconds_mean"] is None
    assert "no run was done in one go, so there is no time" in capsys.readouterr().out
    faked.sessions, faked.seconds = 1, 90.0
    assert cli.main([*command, "--seeds", "0", "1"]) == 0
    results = figures(tmp_path / "t.json")["results"]
    assert [run["interrupted"] for run in results["runs"]["ours"]] == [True, False]
    assert (results["summaries"]["ours"]["seconds_mean"], results["summaries"]["ours"]["clean_times"]) == (90.0, 1)
    text = capsys.readouterr().out
    assert "1.00*" in text
    assert "* interrupted and resumed" in text


def test_summary_with_known_numbers() -> None:
    def result(accuracy: float, seconds: float, interrupted: bool = False) -> dict[str, Any]:
        return {"accuracy": accuracy, "seconds": seconds, "interrupted": interrupted}

    runs = [result(0.93, 60), result(0.95, 120), result(0.94, 9999, interrupted=True)]
    summary = timing.summarize(runs, (94, 94.5))
    assert summary["accuracy_mean"] == pytest.approx(0.94)
    assert summary["accuracy_sd"] == pytest.approx(0.01)
    assert (summary["n"], summary["clean_times"], summary["seconds_mean"]) == (3, 2, 90.0)
    assert summary["seconds_sd"] == pytest.approx(42.426, abs=1e-3)
    assert [target["minutes"] for target in summary["targets"]] == [1.5, None]
    assert timing.compare_times([result(0.9, 10, interrupted=True)], [result(0.9, 20)]) is None


def test_a_target_that_is_met_exactly_is_reached() -> None:
    runs = [{"accuracy": accuracy, "seconds": 60.0, "interrupted": False} for accuracy in (0.93, 0.9308)]
    assert report.mean_and_sd([0.93, 0.9308])[0] < 93.04 / 100  # in floating point
    assert [one["reached"] for one in timing.summarize(runs, (93.04, 93.05))["targets"]] == [True, False]


def test_times_of_two_machines_are_remarked_upon() -> None:
    def result(device: str) -> dict[str, Any]:
        numbers = {"seed": 0, "accuracy": 0.9, "seconds": 1.0, "train_seconds": 0.5, "predict_seconds": 0.5}
        return {**numbers, "interrupted": False, "environment": {"device": device, "commit": "c"}}

    for devices, remarked in ((("one", "two"), True), (("one", "one"), False)):
        text = timing.render({"ours": [result(device) for device in devices]}, {}, None)
        assert ("these runs differ in device," in text) == remarked


def test_a_config_that_changes_while_its_seeds_run_is_refused(
    file: Path, tmp_path: Path, faked: Faked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or one mean would be of two recipes."""

    def wall_time(arguments: Sequence[str], log: Path) -> float:
        file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text(encoding="utf-8")) | {"label_smoothing": 0.2}))
        return faked(arguments, log)

    before = config_hash(parse_config(yaml.safe_load(file.read_text(encoding="utf-8")) | {"seed": 0}))
    monkeypatch.setattr(timing, "wall_time", wall_time)
    with pytest.raises(UserError, match="was changed since this call began; change it back, or start again"):
        timing.time_sides([timing.Side("ours", file, (0, 1))], [], tmp_path / "out", lambda line: None)
    assert json.loads((tmp_path / "out" / "ours" / "seed0.json").read_text())["config_sha256"] == before


@pytest.mark.parametrize(
    ("begins", "pairs"), [(60, 1), (659, 1), (661, None), (-120, 1), (-721, None), (-60, None), (30, None)]
)
def test_runs_of_different_hours_make_no_ratio(begins: int, pairs: int | None) -> None:
    """TrainerLoop takes a minute, from 12:00; the baseline begins so many seconds later and takes two."""

    def result(seconds: float, second: int) -> dict[str, Any]:
        start = datetime(2026, 1, 1, 12, tzinfo=UTC) + timedelta(seconds=second)
        return {"seconds": seconds, "interrupted": False, "started": start.isoformat()}

    found = timing.compare_times([result(60.0, 0)], [result(120.0, begins)])
    assert (found and found["pairs"]) == pairs
    assert ("no ratio: " in timing.render({"ours": [], "baseline": []}, {}, found)) == (pairs is None)


@pytest.mark.parametrize("content", ['{"seed": 0', "[]", '{"seed": 0}'])
def test_a_damaged_result_is_named(content: str, file: Path, tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "seed0.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"seed0\.json (is damaged|lacks .*config_sha256).*remove it"):
        timing.time_sides([timing.Side("ours", file, (0,))], [], tmp_path, print)


def test_wall_time_runs_this_package_wherever_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cifar_small").mkdir()
    (tmp_path / "cifar_small" / "__init__.py").write_text("raise SystemExit('the wrong package')")
    monkeypatch.chdir(tmp_path)
    log = tmp_path / "logs" / "one.log"
    assert timing.wall_time(["--version"], log) > 0.02
    assert log.read_text() == f"cifar-small {__version__}\n"
    with pytest.raises(
        UserError, match=r"cifar-small train ended with exit code 2: cifar-small: error: .*gone\.yaml.*one\.log"
    ):
        timing.wall_time(["train", "--config", "gone.yaml"], log)


def test_a_bench_that_is_stopped_leaves_no_training_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    children: list[subprocess.Popen[bytes]] = []

    def popen(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        children.append(start(*arguments, **options))
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
        return children[0]

    start = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", popen)
    with stopped_by_signals(), pytest.raises(KeyboardInterrupt):
        timing.wall_time(["train", "--config", "configs/smoke.yaml", "--output", str(tmp_path / "run")], tmp_path / "log")
    assert children[0].returncode in (-signal.SIGTERM, 143)  # not 0: it was stopped, and waited for


@pytest.mark.slow
def test_real_processes_are_timed(file: Path, tmp_path: Path) -> None:
    target = tmp_path / "time.json"
    options = ["--targets", "5", "--seeds", "3", "--output", str(tmp_path / "out"), "--json", str(target)]
    assert cli.main(["time", str(file), *options]) == 0
    (run,) = figures(target)["results"]["runs"]["ours"]
    summary = Run(tmp_path / "out" / "ours" / "seed3-run1").summary()
    assert summary is not None
    assert run["train_seconds"] > summary.seconds  # the process starts before the clock of the training
    assert run["seconds"] == run["train_seconds"] + run["predict_seconds"]
    assert not run["interrupted"]


def test_worker_processes_may_import_the_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    """As multiprocessing does in each of them, under another name than that of a program."""
    tools = Path(__file__).resolve().parents[2] / "tools"
    monkeypatch.syspath_prepend(tools)
    monkeypatch.setattr(sys, "argv", ["bench", "--help"])
    assert "main" not in runpy.run_path(str(tools / "bench"), run_name="__mp_main__")


def test_config_errors_keep_their_class(tmp_path: Path) -> None:
    side = timing.Side("ours", tmp_path / "gone.yaml", (0,))
    with pytest.raises(ConfigError, match=r"gone\.yaml"):
        timing.time_sides([side], [], tmp_path, print)
