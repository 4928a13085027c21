"""How long the parameter count takes as a command, and prediction by views."""

from __future__ import annotations

import argparse
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor, nn

from cifar_small.bench.loops import synthetic
from cifar_small.bench.report import ROOT, Command, add_data, add_rounds, ratios, spread, table
from cifar_small.config import dump_config
from cifar_small.environment import memory_format
from cifar_small.errors import UserError
from cifar_small.files import write_atomic
from cifar_small.models import build_model
from cifar_small.predict import compute_logits
from cifar_small.preprocess import Preprocess
from cifar_small.problem import Problem, load_problem
from cifar_small.schema import Config

IMAGES = 2000
VIEWS = ("none", "flip", "flip_shift")
DETAIL = """\
tools/param_count is timed as a process, from start to end; prediction through the path that `cifar-small predict` takes, from
images on the device to logits on the host, by views of test-time augmentation, after a warm-up.

  tools/bench commands configs/resnet_hour.yaml
  tools/bench commands configs/resnet_hour.yaml --data real --images 5000 --rounds 5"""


def _add_options(sub: argparse.ArgumentParser) -> None:
    add_data(sub, IMAGES)
    add_rounds(sub)


def _run(options: argparse.Namespace, config: Config) -> dict[str, Any]:
    count = options.images or IMAGES
    with TemporaryDirectory(prefix="cifar_small_bench_") as temporary:
        scratch = Path(temporary)
        file = options.config
        if options.overrides:
            file = scratch / f"{config.name}.yaml"
            write_atomic(file, dump_config(config).encode())
        counted = [_seconds_of_param_count(file) for _ in range(options.rounds)]
        print(f"tools/param_count {options.config}: {spread(counted).text()} s from process start to end", flush=True)
        problem = load_problem(
            synthetic(config, max(count, config.batch_size), scratch) if options.data == "synthetic" else config
        )
        images = problem.images[:count]
        net = build_model(config.model, len(problem.classes))
        net = net.to(device=problem.device, memory_format=memory_format(config.engine))  # type: ignore[call-overload]
        for views in VIEWS:
            predict_seconds(net, images[: config.engine.eval_batch_size], problem, config, views)
        seconds: dict[str, list[float]] = {views: [] for views in VIEWS}
        for _ in range(options.rounds):
            for views in VIEWS:
                seconds[views].append(predict_seconds(net, images, problem, config, views))
    rates = {views: spread([len(images) / value for value in values]) for views, values in seconds.items()}
    slower = {views: ratios(values, seconds["none"]) for views, values in seconds.items()}
    print(f"prediction of {len(images):,} {options.data} images, {problem.precision}, {config.engine.layout}:")
    rows = [[views, rates[views].text(",.0f"), slower[views].text()] for views in VIEWS]
    print(table(("views", "images/s (lowest .. highest)", "time, none = 1"), rows))
    return {
        "param_count_seconds": {"rounds": counted, **spread(counted).plain()},
        "data": options.data,
        "images": len(images),
        "prediction_seconds": seconds,
        "images_per_second": {views: rate.plain() for views, rate in rates.items()},
        "time_over_none": {views: ratio.plain() for views, ratio in slower.items()},
    }


def _seconds_of_param_count(file: Path) -> float:
    began = time.perf_counter()
    command = [str(ROOT / "tools" / "param_count"), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode not in (0, 1):  # 1: over the budget, which says nothing about the time
        raise UserError(f"tools/param_count {file} ended with exit code {done.returncode}: {done.stderr.strip()}")
    return seconds


def predict_seconds(net: nn.Module, images: Tensor, problem: Problem, config: Config, views: str) -> float:
    """Seconds from uint8 images (N, 3, 32, 32) on the device to logits on the host."""
    began = time.perf_counter()
    preprocess = Preprocess(problem.mean, problem.std, config.side, config.interpolation)
    compute_logits(net, images, preprocess, views, problem.precision, config.engine.eval_batch_size).cpu()
    return time.perf_counter() - began


COMMANDS = Command("commands", "how long the parameter count and prediction take", DETAIL, _add_options, _run)
