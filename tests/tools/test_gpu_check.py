"""tools/gpu_check: its stages exist, time is kept, what is done is not repeated, what was cut off goes on."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.gpu_check import SAVING, Stage, main, run_stages, stages
from synthetic import made

from cifar_small.cli.main import _parser
from cifar_small.config.loading import load_config

ROOT = Path(__file__).resolve().parents[2]


def shell(text: str) -> tuple[str, ...]:
    return (sys.executable, "-c", text)


def counting(file: Path, then: str = "") -> tuple[str, ...]:
    return shell(f"open({str(file)!r}, 'a').write('x'); {then}")


def test_stages_are_those_of_commands_and_configs_that_exist(tmp_path: Path) -> None:
    planned = stages(tmp_path, Path("/data"), "cuda", tiny=False)
    assert [stage.name for stage in planned] == [
        "tests", "steps_cifar10_94_gpu", "steps_resnet_5m", "steps_wrn_28_10_cifar100",
        "94", "94_test", "94_record", "compiled", "5m", "5m_test", "5m_record",
    ]  # fmt: skip
    assert {stage.name: stage.needs for stage in planned if stage.needs} == {
        "94_test": "94", "94_record": "94", "5m_test": "5m", "5m_record": "5m"
    }  # fmt: skip
    assert {stage.name: stage.aim for stage in planned if stage.predictions} == {"94_test": 94.0, "5m_test": None}
    goes_on = [stage for stage in planned if stage.goes_on]
    assert [stage.name for stage in goes_on] == ["94", "5m"]
    assert all(min(stage.least, stage.limit) - SAVING >= 30 for stage in goes_on)  # what is left to train in
    for stage in planned:
        if "cifar_small" in stage.command:
            given = list(stage.command[stage.command.index("cifar_small") + 1 :])
            options, _ = _parser().parse_known_args(given)
            assert options.chosen.name in ("train", "predict", "record")
        for word in stage.command:
            if word.endswith((".yaml", ".py")):
                assert (ROOT / word).exists(), word
    train = planned[4].command
    overrides = list(
        zip(train[train.index("--engine.device") :: 2], train[train.index("--engine.device") + 1 :: 2], strict=True)
    )
    config = load_config(ROOT / "configs/speed/cifar10_94_gpu.yaml", [(key[2:], value) for key, value in overrides])
    assert (config.engine.compile, config.engine.device, config.data.root) == ("reduce-overhead", "cuda", "/data")


def test_what_is_done_is_not_repeated_and_what_failed_is(tmp_path: Path) -> None:
    once, again = tmp_path / "once", tmp_path / "again"
    planned = [Stage("a", counting(once), 60, 0), Stage("b", counting(again, "raise SystemExit(3)"), 60, 0)]
    for _ in range(2):
        report = run_stages(planned, tmp_path, 60)
    assert (once.read_text(), again.read_text()) == ("x", "xx")
    assert {name: stage["rc"] for name, stage in report["stages"].items()} == {"a": 0, "b": 3}
    assert json.loads((tmp_path / "report.json").read_text()) == report


def test_all_tests_for_a_gpu_are_in_a_stage(tmp_path: Path) -> None:
    """Those that the project's own options leave out as slow have a stage too."""
    planned = {stage.name: stage.command for stage in stages(tmp_path, None, "cuda", tiny=False)}
    assert planned["tests"][-1] == "tests/training/test_cuda.py"
    assert planned["compiled"] == (*planned["tests"], "-m", "slow")


def test_what_is_taken_home_holds_all_but_weights(tmp_path: Path) -> None:
    folder, bundle = tmp_path / "gpu", tmp_path / "out" / "gpu.tar.gz"
    (folder / "runs" / "94").mkdir(parents=True)
    (folder / "runs" / "94" / "last.pt").write_bytes(b"weights")
    (folder / "runs" / "94" / "metrics.csv").write_text("epoch\n")
    held = []
    for name in ("a", "b"):
        run_stages([Stage(name, shell("print('done')"), 60, 0)], folder, 60, bundle)
        with tarfile.open(bundle) as archive:
            held.append(sorted(archive.getnames()))
    assert held == [["a.log", "report.json", "runs/94/metrics.csv"], ["a.log", "b.log", "report.json", "runs/94/metrics.csv"]]


def test_a_tool_without_a_venv_runs_where_the_packages_are(tmp_path: Path) -> None:
    """As on a lent machine, whose torch is not to be replaced."""
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "_venv.py", tmp_path / "tools")
    (tmp_path / "tools" / "tool.py").write_text("from _venv import enter\nprint(enter())\n")
    tool = str(tmp_path / "tools" / "tool.py")
    done = subprocess.run([sys.executable, tool], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(tmp_path)
    bare = subprocess.run([sys.executable, "-S", tool], capture_output=True, text=True, check=False)  # no site-packages
    assert bare.returncode == 2
    assert ".venv is missing: run `make setup`" in bare.stderr


def test_a_stage_waits_for_the_one_it_is_about(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    after = Stage("94_test", counting(mark), 60, 0, needs="94")
    for first in ([], [Stage("94", shell("pass"), 60, 1e6)], [Stage("94", shell("raise SystemExit(5)"), 60, 0)]):
        report = run_stages([*first, after], tmp_path, 60)  # not there, not begun for want of time, failed
        assert "94_test" not in report["stages"]
        assert not mark.exists()
    run_stages([Stage("94", shell("pass"), 60, 0), after], tmp_path, 60)
    assert mark.exists()


def test_a_stage_that_does_not_end_when_asked_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.gpu_check.SAVING", 0.2)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    report = run_stages([Stage("5m", shell(deaf), 4, 0), Stage("next", shell("pass"), 60, 0)], tmp_path, 60)
    assert [stage["rc"] for stage in report["stages"].values()] == [-9, 0]


def test_a_stage_is_ended_when_its_time_is_over_and_goes_on_later(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asleep = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); print('ready'); time.sleep(60)"
    planned = [Stage("5m", shell(asleep), 1, 0), Stage("late", shell("pass"), 60, 1e6)]
    report = run_stages(planned, tmp_path, 60)
    assert report["stages"]["5m"]["rc"] in (143, -15)
    assert "late" not in report["stages"]
    assert "late: not begun" in capsys.readouterr().out
    report = run_stages([Stage("5m", shell("pass"), 60, 0)], tmp_path, 60)
    assert report["stages"]["5m"]["rc"] == 0


@pytest.mark.parametrize(
    ("right", "code", "verdict"),
    [(93, 1, "93.00 % right, 94 % missed by 1.00 points"), (94, 0, "94.00 % right, 94 % reached")],
)
def test_an_accuracy_is_compared_with_its_aim_and_a_miss_is_said_in_every_call(
    right: int, code: int, verdict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "test.npz"
    made([1] * 100, labels=[1] * right + [2] * (100 - right), split="test").save(file)
    planned = [
        Stage("94_test", shell("pass"), 60, 0, predictions=file, aim=94.0),
        Stage("5m_test", shell("pass"), 60, 0, predictions=file),
    ]
    monkeypatch.setattr("benchmarks.gpu_check.stages", lambda *_, **__: planned)
    arguments = ["--output", str(tmp_path / "out"), "--device", "cpu"]
    assert main(arguments) == code
    said = capsys.readouterr().out
    assert f"; {verdict}\n" in said
    assert re.search(rf"5m_test: exit code 0 after \d+ s; {right}\.00 % right\n", said)
    report = json.loads((tmp_path / "out" / "report.json").read_text())["stages"]
    assert [(report[name]["accuracy"], report[name]["aim"]) for name in ("94_test", "5m_test")] == [
        (float(right), 94.0),
        (float(right), None),
    ]
    assert main(arguments) == code  # both are done by now
    assert capsys.readouterr().out == ("" if code == 0 else f"94_test: {verdict}\n")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--output", str(tmp_path / "out")]) == 2
    assert "no GPU was found" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_tests_that_hang_have_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are ended at a limit of their own, and do not go on in a later call."""
    hung = Stage("tests", shell("import time; time.sleep(60)"), 1, 0)
    monkeypatch.setattr("benchmarks.gpu_check.stages", lambda *_: [hung])
    assert main(["--output", str(tmp_path), "--device", "cpu"]) == 1
    assert "failed: tests" in capsys.readouterr().out


def test_it_reports_what_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def planned(*_: Any, **__: Any) -> list[Stage]:
        return [Stage("tests", shell("raise SystemExit(1)"), 60, 0)]

    monkeypatch.setattr("benchmarks.gpu_check.stages", planned)
    assert main(["--output", str(tmp_path), "--device", "cpu"]) == 1
    assert "failed: tests" in capsys.readouterr().out
    assert json.loads((tmp_path / "machine.json").read_text())["device_type"] == "cpu"
