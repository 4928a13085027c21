"""Time to test accuracy: `cifar-small train` and `cifar-small predict --split test` as processes, everything inside the clock.

A config is a fixed schedule, so its time to a target is its whole time if the mean accuracy over seeds reached the target, and
none if not. A seed with a result file is not run again. A training that was cut off is never gone on with: its seed starts anew
in another run directory, because the time of a run in two parts is not the time of a run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.report import ROOT, Benchmark, mean_and_sd
from cifar_small.config.hashing import config_hash
from cifar_small.config.loading import load_config
from cifar_small.config.schema import Config
from cifar_small.errors import CheckpointError, UserError
from cifar_small.files import write_json
from cifar_small.metrics.spread import ratios
from cifar_small.reporting.tables import Table, aligned
from cifar_small.runs.directory import Run

Overrides = Sequence[tuple[str, str]]
KEYS = {"seed", "config_sha256", "accuracy", "seconds", "train_seconds", "predict_seconds", "interrupted", "environment"}
DETAIL = """\
Runs `cifar-small train` and then `cifar-small predict --split test` for each seed, as processes, with everything inside the
clock from process start to accuracy printed: imports, reading data, compilation, evaluation. A config is a fixed schedule, so
"time to a target" is the total time of the config if the mean test accuracy over the seeds reached the target, and nothing
otherwise. To reach a target sooner, write a shorter schedule.

A seed with a result in --output is not run again; one that was cut off starts anew, because the time of a run in two parts is
not the time of a run. With --baseline the two configs take turns: ours, baseline, ours, ... settings hold for both.
The ratio is of the turns in which one was run right after the other.
The test split is read, which each run's record says: measure configs with this, choose them on val.

  tools/bench time configs/resnet_hour.yaml --targets 93 94 --seeds 0 1 2
  tools/bench time configs/speed/cifar10_94.yaml --targets 94 --seeds 0 1 2 --baseline configs/speed/airbench94_muon.yaml
  tools/bench time configs/resnet_hour.yaml --targets 93 --engine.threads 2 --output runs/timing --json timing.json"""
MACHINE = ("device", "threads", "precision", "platform", "packages", "commit", "dirty")  # what times to compare must share
SIDE_BY_SIDE = 600.0  # seconds between two runs beyond which the machine may have another speed; they make no ratio then


@dataclass(frozen=True)
class Side:
    """A config and its seeds: ours, or the baseline."""

    name: str
    config: Path
    seeds: tuple[int, ...]


def check_targets(targets: Sequence[float]) -> tuple[float, ...]:
    """Targets in per cent, rising. Raises UserError for one that no accuracy can be measured against."""
    for target in targets:
        if not 0 < target < 100:
            raise UserError(
                f"--targets {target:g} is no test accuracy in per cent; give numbers above 0 and below 100, such as 94"
            )
    return tuple(sorted(set(targets)))


def check_seeds(seeds: Sequence[int], flag: str) -> tuple[int, ...]:
    """The seeds as given. Raises UserError for one that stands twice: it would count one run as two."""
    for seed in seeds:
        if seeds.count(seed) > 1:
            raise UserError(f"{flag} names seed {seed} more than once, which would count one run as several; give each once")
    return tuple(seeds)


def time_sides(sides: Sequence[Side], overrides: Overrides, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Run, or read, every seed of every side, the sides taking turns; returns each side's results in the order of its seeds.

    Raises UserError for a result of another config, for a config that changes meanwhile, or when a process fails.
    """
    results: dict[str, Any] = {side.name: [] for side in sides}
    hashes = {(side.name, seed): config_hash(_config(side, seed, overrides)) for side in sides for seed in side.seeds}
    for side in sides:  # before hours of work
        for seed in side.seeds:
            _known(side, seed, hashes[side.name, seed], folder)
    for turn in range(max(len(side.seeds) for side in sides)):
        for side in sides:
            if turn < len(side.seeds):
                seed = side.seeds[turn]
                expected = hashes[side.name, seed]
                result = _known(side, seed, expected, folder)
                how = "read from its file" if result else "measured"
                if result is None:
                    if config_hash(_config(side, seed, overrides)) != expected:
                        raise UserError(f"{side.config} was changed since this call began; change it back, or start again")
                    result = _measure(side, seed, overrides, folder, expected)
                results[side.name].append(result)
                flag = "  INTERRUPTED: not counted as a time" if result["interrupted"] else ""
                minutes = f"{result['seconds'] / 60:.2f} minutes"
                say(f"{side.name}, seed {seed}: test {result['accuracy']:.2%} in {minutes} ({how}){flag}")
    return results


def _known(side: Side, seed: int, expected: str, folder: Path) -> dict[str, Any] | None:
    """The result of an earlier call for the config of this hash and seed, if there is one."""
    file = _file(side, seed, folder)
    if not file.exists():
        return None
    try:
        result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        missing = KEYS - set(result)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{file} is damaged ({error}); expected a result as this tool writes it: remove it") from None
    if missing:
        raise CheckpointError(f"{file} lacks {', '.join(sorted(missing))}; expected a result as this tool writes it: remove it")
    if result["config_sha256"] != expected:
        raise UserError(
            f"{file} is the result of another config ({result['config_sha256'][:12]}; {side.config} with these settings is "
            f"{expected[:12]}); choose another --output, or remove the file to measure anew"
        )
    return result


def _measure(side: Side, seed: int, overrides: Overrides, folder: Path, config_sha256: str) -> dict[str, Any]:
    """Train and predict in processes of their own, and write the result file."""
    place = folder / side.name
    # A directory that is there was left by an attempt that did not end; its training must not be gone on with.
    attempt = next(number for number in range(1, 1000) if not (place / f"seed{seed}-run{number}").exists())
    run = Run(place / f"seed{seed}-run{attempt}")
    log = place / f"seed{seed}-run{attempt}.log"
    settings = [text for key, value in overrides for text in (f"--{key}", value)]
    load, started = os.getloadavg(), datetime.now(UTC).isoformat(timespec="seconds")
    train_seconds = wall_time(
        ["train", "--config", str(side.config), "--seed", str(seed), "--output", str(run.folder), *settings], log
    )
    predict_seconds = wall_time(["predict", str(run.folder), "--split", "test"], log)
    sessions = run.sessions()
    result = {
        "seed": seed,
        "config_sha256": config_sha256,
        "started": started,
        "accuracy": run.test_readings()[-1].accuracy,
        "seconds": train_seconds + predict_seconds,
        "train_seconds": train_seconds,
        "predict_seconds": predict_seconds,
        "interrupted": len(sessions) != 1,  # by somebody who resumed it beside us
        "attempt": attempt,
        "load_average": list(load),
        "run": str(run.folder),
        "environment": sessions[-1].plain(),
    }
    write_json(_file(side, seed, folder), result)
    return result


def wall_time(arguments: Sequence[str], log: Path) -> float:
    """Seconds of `cifar-small ARGUMENTS` from process start to its end; what it prints is appended to `log`.

    Raises UserError with the last line it printed when it fails.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    # This checkout's package, whatever the current folder holds (-P) and wherever the environment's own copy points.
    command = [sys.executable, "-P", "-m", "cifar_small", *arguments]
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    with open(log, "ab") as file:
        began = time.perf_counter()
        child = subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, "PYTHONPATH": path})
        try:
            code = child.wait()
        finally:
            child.terminate()  # when we are stopped: an orphan would train on; a child that has ended does not mind
            child.wait()
        seconds = time.perf_counter() - began
    if code:
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "it printed nothing")
        raise UserError(f"cifar-small {arguments[0]} ended with exit code {code}: {last.strip()}; all it said: {log}")
    return seconds


def summarize(results: Sequence[dict[str, Any]], targets: Sequence[float]) -> dict[str, Any]:
    """Mean, deviation and targets of one side. Accuracies count all runs, times only those that were done in one go."""
    accuracy, accuracy_sd = mean_and_sd([result["accuracy"] for result in results])
    clean = [result["seconds"] for result in results if not result["interrupted"]]
    seconds, seconds_sd = mean_and_sd(clean) if clean else (None, None)
    outcomes = []
    for target in targets:
        reached = accuracy >= target / 100 - 1e-9  # 93.04 / 100 lies a little above 0.9304
        minutes = seconds / 60 if seconds is not None and reached else None
        outcomes.append({"target": target, "reached": reached, "minutes": minutes})
    return {
        "n": len(results),
        "accuracy_mean": accuracy,
        "accuracy_sd": accuracy_sd,
        "clean_times": len(clean),
        "seconds_mean": seconds,
        "seconds_sd": seconds_sd,
        "targets": outcomes,
    }


def compare_times(ours: Sequence[dict[str, Any]], baseline: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """How many times as long the baseline takes, over the turns in which both ran in one go, one right after the other.

    None if there is no such turn.
    """
    turns = zip(ours, baseline, strict=False)  # the baseline may have fewer seeds
    pairs = [
        (one["seconds"], other["seconds"])
        for one, other in turns
        if not one["interrupted"] and not other["interrupted"] and _pause(one, other) <= SIDE_BY_SIDE
    ]
    if not pairs:
        return None
    return {"pairs": len(pairs), **ratios([other for _, other in pairs], [one for one, _ in pairs]).plain()}


def _pause(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Seconds from the end of the earlier run to the start of the later one; infinite if they overlapped or a file lacks it."""
    starts = [run.get("started") or run["environment"].get("started") for run in (one, other)]
    if None in starts:
        return float("inf")
    (began, seconds), (later, _) = sorted(
        (datetime.fromisoformat(start).timestamp(), run["seconds"]) for start, run in zip(starts, (one, other), strict=True)
    )
    pause = later - began - float(seconds)
    return pause if pause >= -2 else float("inf")  # starts are written in whole seconds


def render(sides: dict[str, list[dict[str, Any]]], summaries: dict[str, Any], comparison: dict[str, Any] | None) -> str:
    """The table of all runs, a paragraph for each side, and the comparison."""
    rows = [
        [
            name,
            str(one["seed"]),
            f"{one['accuracy']:.2%}",
            f"{one['seconds'] / 60:.2f}" + ("*" if one["interrupted"] else ""),
            f"{one['seconds']:.1f}",
            f"{one['train_seconds']:.1f}",
            f"{one['predict_seconds']:.1f}",
        ]
        for name, results in sides.items()
        for one in results
    ]
    header = ("run", "seed", "test", "minutes", "seconds", "train s", "predict s")
    lines = [aligned(Table("", header, tuple(map(tuple, rows))))]
    everything = [one for results in sides.values() for one in results]
    if any(one["interrupted"] for one in everything):
        lines.append("* interrupted and resumed: this is not the time of a run, and is in no mean and no ratio")
    for name, summary in summaries.items():
        lines.append("\n".join(_paragraph(name, summary)))
    if comparison:
        ends = f"{comparison['low']:.2f} .. {comparison['high']:.2f} over {comparison['pairs']} pairs of runs"
        ends = "one pair of runs" if comparison["pairs"] == 1 else ends
        lines.append(f"the baseline takes {comparison['median']:.2f} x as long as ours ({ends})")
    elif len(sides) > 1:
        lines.append(
            f"no ratio: no two runs of a turn were done in one go and within {SIDE_BY_SIDE / 60:.0f} minutes of each other, "
            "and a machine's speed may change; choose another --output to measure them side by side"
        )
    differing = [key for key in MACHINE if len({str(one["environment"].get(key)) for one in everything}) > 1]
    if differing:
        lines.append(
            f"note: these runs differ in {', '.join(differing)}, so their times are not of one machine and one program"
        )
    return "\n".join(lines)


def _paragraph(name: str, summary: dict[str, Any]) -> list[str]:
    accuracy = f"{name}: mean test accuracy {summary['accuracy_mean']:.2%}{_sd(summary['accuracy_sd'], 100, ' points')}"
    count = f"n = {summary['n']}" + ("" if summary["n"] > 1 else ": one seed says nothing about the spread")
    time_text = "no run was done in one go, so there is no time"
    if summary["seconds_mean"] is not None:
        time_text = f"{summary['seconds_mean'] / 60:.2f} minutes{_sd(summary['seconds_sd'], 1 / 60, '')} from process start to "
        time_text += "accuracy printed"
    lines = [f"{accuracy}, {time_text} ({count})"]
    for target in summary["targets"]:
        reached = "reached" if target["reached"] else "not reached"
        minutes = (
            f" in {target['minutes']:.2f} minutes ({60 * target['minutes']:.1f} s)" if target["minutes"] is not None else ""
        )
        lines.append(f"  target {target['target']:g} %: {reached} by the mean{minutes}")
    return lines


def _sd(value: float | None, scale: float, unit: str) -> str:
    return "" if value is None else f" (sd {value * scale:.2f}{unit})"


def _config(side: Side, seed: int, overrides: Overrides) -> Config:
    return load_config(side.config, [*overrides, ("seed", str(seed))])


def _file(side: Side, seed: int, folder: Path) -> Path:
    return folder / side.name / f"seed{seed}.json"


def _add_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--targets", type=float, nargs="+", required=True, metavar="PERCENT", help="test accuracies, in per cent")
    sub.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="SEED", help="(default: 0 1 2)")
    sub.add_argument("--output", type=Path, help="folder of runs and results (default: runs/bench-<name>)")
    sub.add_argument("--baseline", type=Path, metavar="CONFIG", help="a second config, which takes turns with the first")
    sub.add_argument("--baseline-seeds", type=int, nargs="+", metavar="SEED", help="(default: the first of --seeds)")


def _run(options: argparse.Namespace, config: Config) -> dict[str, Any]:
    targets = check_targets(options.targets)
    seeds = check_seeds(options.seeds, "--seeds")
    sides = [Side("ours", options.config, seeds)]
    if options.baseline:
        sides.append(Side("baseline", options.baseline, check_seeds(options.baseline_seeds or seeds[:1], "--baseline-seeds")))
    elif options.baseline_seeds:
        raise UserError("--baseline-seeds has no effect without --baseline CONFIG: add it or drop the seeds")
    folder = options.output or Path("runs") / f"bench-{config.name}"
    results = time_sides(sides, options.overrides, folder, lambda line: print(line, flush=True))
    summaries = {name: summarize(of_side, targets) for name, of_side in results.items()}
    comparison = compare_times(results["ours"], results["baseline"]) if options.baseline else None
    print(render(results, summaries, comparison))
    return {"runs": results, "summaries": summaries, "baseline_over_ours": comparison}


TIME = Benchmark("time", "minutes to test accuracy over seeds, start-up and evaluation included", DETAIL, _add_options, _run)
