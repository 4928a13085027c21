"""What a lent GPU is used for: prepared stages within a few minutes, each recorded as it ends, so that a later call goes on."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cifar_small.cli.command import exit_code
from cifar_small.environment import machine_facts, resolve_device
from cifar_small.errors import UserError
from cifar_small.files import write_json
from cifar_small.runs.directory import Run
from cifar_small.runs.predictions import load_predictions
from cifar_small.training.signals import stopped_by_signals

ROOT = Path(__file__).resolve().parents[2]
DESCRIPTION = """\
Check training on a GPU within minutes.

Stages, each with a log and an entry of report.json, written as soon as it ends; a later call does not repeat what is done:
  tests     the tests that need a GPU
  steps     training steps of cifar10_94_gpu, resnet_5m and wrn_28_10_cifar100 against bare net and plain loop
  94        cifar10_94_gpu, compiled with CUDA graphs, from scratch; its accuracy on test, reached or missed; its record
  compiled  the tests of compiled training
  5m        resnet_5m until the time is over; saved then, and continued by the next call; at its end the same, without an aim

  tools/gpu_check --output gpu --data FOLDER               eight minutes on one GPU
  tools/gpu_check --output gpu --bundle out/gpu.tar.gz     and all but the weights in one file, to take home from a lent machine
  tools/gpu_check --output try --device cpu --tiny         the same stages on any machine, in about two minutes"""
AIM = 94.0  # % of the test images that cifar10_94_gpu is to have right; smoke.yaml in its place has no aim
SAVING = 40  # seconds that a training is given to save after it was asked to end


@dataclass(frozen=True)
class Stage:
    """A command, the seconds it may take at most, the least with which it is begun, and the stage that must have ended well."""

    name: str
    command: tuple[str, ...]
    limit: float
    least: float
    needs: str = ""
    goes_on: bool = False  # does it save when it is asked to end, and continue by the same command?
    predictions: Path | None = None  # a file that it makes, whose accuracy is part of its result
    aim: float | None = None  # the accuracy, in %, that was set beforehand


def stages(folder: Path, data: Path | None, device: str, tiny: bool) -> list[Stage]:
    """The stages in their order."""
    python, small = sys.executable, (sys.executable, "-P", "-m", "cifar_small")
    source = ("--data.root", str(data)) if data else ()
    on = ("--engine.device", device)
    kinds = {"cifar10_94_gpu": "speed/cifar10_94_gpu", "resnet_5m": "resnet_5m", "wrn_28_10_cifar100": "wrn_28_10_cifar100"}
    tests = (python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/training/test_cuda.py")
    found = [Stage("tests", tests, 120, 20)]
    for name, path in kinds.items():
        config = "configs/smoke.yaml" if tiny else f"configs/{path}.yaml"
        few = ("--steps", "1", "--rounds", "1") if tiny else ("--steps", "10", "--rounds", "3")
        steps = (python, "tools/bench", "steps", config, *few, "--engine.device", device)
        found.append(Stage(f"steps_{name}", (*steps, "--json", str(folder / f"steps_{name}.json")), 60, 20))
    for name, path, limit, aim in (("94", "speed/cifar10_94_gpu", 240, None if tiny else AIM), ("5m", "resnet_5m", 3600, None)):
        if name == "5m":
            found.append(Stage("compiled", (*tests, "-m", "slow"), 150, 60))
        config, run = "configs/smoke.yaml" if tiny else f"configs/{path}.yaml", str(folder / "runs" / name)
        graphs = () if tiny else ("--engine.compile", "reduce-overhead" if name == "94" else "true")
        train = (*small, "train", "--config", config, "--output", run, "--resume", *on, *source, *graphs)
        least = SAVING + 30  # so that it trains before it has to save
        found.append(Stage(name, (*train, "--engine.checkpoint_steps", "200"), limit, least, goes_on=True))
        test, file = (*small, "predict", run, "--split", "test", "--overwrite"), Run(run).predictions / "test.npz"
        found.append(Stage(f"{name}_test", test, 60, 10, needs=name, predictions=file, aim=aim))
        record = (*small, "record", run, "--output", str(folder / f"record_{name}"), "--overwrite")
        found.append(Stage(f"{name}_record", record, 30, 5, needs=name))
    return found


def run_stages(planned: Sequence[Stage], folder: Path, seconds: float, bundle: Path | None = None) -> dict[str, Any]:
    """Run what is not done yet until `seconds` are over; returns the report, which is also written after every stage.

    bundle: so is a tar.gz of all files but weights.
    """
    end = time.monotonic() + seconds
    report: dict[str, Any] = {"stages": {}}
    file = folder / "report.json"
    if file.exists():
        report = json.loads(file.read_text(encoding="utf-8"))
    for stage in planned:
        done: dict[str, Any] = report["stages"]
        left = end - time.monotonic()
        if done.get(stage.name, {}).get("rc") == 0:
            continue
        if stage.needs and done.get(stage.needs, {}).get("rc") != 0:
            print(f"{stage.name}: not begun, {stage.needs} has not ended well", flush=True)
            continue
        if left < stage.least:
            print(f"{stage.name}: not begun, {left:.0f} s are left", flush=True)
            continue
        spent = done.get(stage.name, {}).get("seconds", 0.0)
        began = time.monotonic()
        limit = min(stage.limit, left - (SAVING if stage.goes_on else 0))
        rc = _run(stage, folder / f"{stage.name}.log", limit)
        took = time.monotonic() - began
        done[stage.name] = {"rc": rc, "seconds": round(spent + took, 1), "command": shlex.join(stage.command)}
        if rc != 0 and took >= stage.limit and not stage.goes_on:  # its own limit, not what was left for all
            done[stage.name]["too_long"] = True
        said = _last_line(folder / f"{stage.name}.log")
        if rc == 0 and stage.predictions is not None:
            accuracy = round(100 * load_predictions(stage.predictions).accuracy, 4)
            done[stage.name] |= {"accuracy": accuracy, "aim": stage.aim}
            said = _judged(accuracy, stage.aim)
        write_json(file, report)
        if bundle is not None:
            _pack(folder, bundle)
        print(f"{stage.name}: exit code {rc} after {took:.0f} s; {said}", flush=True)
    return report


def _pack(folder: Path, bundle: Path) -> None:
    """Write the files of a folder, all but weights, into one tar.gz."""
    bundle.parent.mkdir(parents=True, exist_ok=True)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pt" and path != bundle)
    with tarfile.open(bundle, "w:gz") as archive:
        for path in files:
            archive.add(path, path.relative_to(folder))


def _judged(accuracy: float, aim: float | None) -> str:
    """An accuracy in % against what it was to be."""
    if aim is None:
        return f"{accuracy:.2f} % right"
    verdict = "reached" if accuracy >= aim else f"missed by {aim - accuracy:.2f} points"
    return f"{accuracy:.2f} % right, {aim:g} % {verdict}"


def _run(stage: Stage, log: Path, limit: float) -> int:
    """The exit code; -15 or 143 where the time was over, so that the stage is not done; -9 where it did not end when asked."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    with open(log, "ab") as output:
        child = subprocess.Popen(stage.command, stdout=output, stderr=output, cwd=ROOT, env={**os.environ, "PYTHONPATH": path})
        try:
            return child.wait(timeout=max(1.0, limit))
        except subprocess.TimeoutExpired:
            child.terminate()
            with suppress(subprocess.TimeoutExpired):
                return child.wait(timeout=SAVING) or -15
            return -9  # by the next line
        finally:
            child.kill()
            child.wait()


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").split("\n") if line.strip()]
    return lines[-1].strip()[:200] if lines else "it printed nothing"


def parser() -> argparse.ArgumentParser:
    """The options of tools/gpu_check."""
    parser = argparse.ArgumentParser(
        prog="gpu_check", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of report, logs and runs")
    parser.add_argument("--bundle", type=Path, metavar="TAR_GZ", help="also write all but the weights there, after every stage")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="where CIFAR-10 is (default: $CIFAR_SMALL_DATA)")
    parser.add_argument("--minutes", type=float, default=8.0, help="time for all stages together (default: 8)")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try the stages (default: cuda)")
    parser.add_argument("--tiny", action="store_true", help="the smoke config in place of all others, few steps")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stages; returns 0 if all are done or under way, 1 if one failed or missed its aim.

    A user's error is one line on stderr.
    """
    options = parser().parse_args(arguments)
    with stopped_by_signals():
        return exit_code("gpu_check", lambda: _check(options), options)


def _check(options: argparse.Namespace) -> int:
    if options.minutes <= 0:
        raise UserError(f"--minutes {options.minutes:g}: expected a number above 0")
    device = resolve_device(options.device)
    folder = options.output.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "machine.json", machine_facts(device, "bf16") | {"torch": torch.__version__})
    report = run_stages(
        stages(folder, options.data, options.device, options.tiny), folder, 60 * options.minutes, options.bundle
    )
    failed = [name for name, stage in report["stages"].items() if stage["rc"] not in (0, 143, -15) or stage.get("too_long")]
    if failed:
        print(f"failed: {', '.join(failed)}; see their logs in {options.output}")
    results = {name: (stage["accuracy"], stage["aim"]) for name, stage in report["stages"].items() if stage.get("aim")}
    missed = {name: _judged(*result) for name, result in results.items() if result[0] < result[1]}
    for name, verdict in missed.items():  # in every call, though its stage is done
        print(f"{name}: {verdict}")
    return 1 if failed or missed else 0
