"""Kill a training run with SIGKILL at random moments and show that each resumes to the weights of an undisturbed run."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from cifar_small.config.loading import parse_config
from cifar_small.runs.checkpoints import load_checkpoint
from cifar_small.runs.directory import Run
from cifar_small.training.train import train

# What has state, in seconds: two phases, momentum, averages, Lookahead, mixing, dropout, depth, erasing, kept weights.
CONFIG = {
    "name": "kill_resume",
    "rules": {"max_params": 100_000, "rows": None},
    "data": {"source": "digits", "val_size": 200, "train_limit": 512},
    "model": {
        "family": "resnet", "widths": [8, 16, 32], "blocks": [1, 1, 1], "strides": [2, 2, 2],
        "dropout": 0.2, "stochastic_depth": 0.1,
    },
    "batch_size": 64,
    "ema_decay": 0.9,
    "augment": {"crop": 2, "flip": "alternating", "cutout": 6, "erasing": 0.3},
    "schedule": {"name": "cosine", "warmup_epochs": 1},
    "phases": [
        {"epochs": 5, "mixup_alpha": 0.5, "cutmix_alpha": 1.0},
        # other parameter groups, in another order
        {"epochs": 3, "dropout": 0.1, "optim": {"lr": 0.05, "decay": "all"}, "lookahead": {"steps": 2}},
    ],
    "engine": {"device": "cpu", "threads": 1, "checkpoint_steps": 3, "keep_every": 3, "keep_last": 2},
}  # fmt: skip


def fingerprint(folder: Path) -> str:
    """SHA-256 of weights, averages, momentum, slow weights, selected and kept weights and every epoch's loss and accuracy."""
    run = Run(folder)
    last = load_checkpoint(run.last)
    digest = hashlib.sha256()

    def feed(value: object, name: str) -> None:
        if hasattr(value, "numpy"):
            digest.update(name.encode() + np.ascontiguousarray(value.numpy()).tobytes())
        elif isinstance(value, dict):
            for key in value:
                feed(value[key], f"{name}.{key}")
        else:
            digest.update(f"{name}={value!r}".encode())

    for row in last["rows"]:
        row.pop("seconds"), row.pop("images_per_second"), row.pop("gpu_gib")
    for key in (
        "model",
        "optimizer",
        "average",
        "slow",
        "scaling",
        "totals",
        "epoch",
        "step",
        "rows",
        "best_accuracy",
        "best_epoch",
    ):
        feed(last[key], key)
    for path in (run.best, *(run.kept_file(epoch) for epoch in run.kept_epochs())):
        feed(load_checkpoint(path)["weights"], path.stem)
    return digest.hexdigest()


def start(folder: Path) -> int:
    """Train in a forked process, which has everything imported already; returns its process id."""
    child = os.fork()
    if child:
        return child
    try:
        train(parse_config(CONFIG), folder, resume=True, quiet=True)
    except BaseException as error:
        print(f"the child failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def kill_after(moment: float, folder: Path) -> bool:
    """Start a run and kill it so many seconds later; False if it had finished by then."""
    child = start(folder)
    time.sleep(moment)
    os.kill(child, signal.SIGKILL)
    return finish(child) == -signal.SIGKILL


def finish(child: int) -> int:
    """Wait for a process; returns its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> int:
    """Run the trials, print a line for each and a summary, and return 1 if any differed."""
    parser = argparse.ArgumentParser(prog="kill_resume", description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="runs killed once each (default 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as scratch:
        began = time.monotonic()
        if finish(start(Path(scratch, "undisturbed"))):
            return 1
        duration = time.monotonic() - began
        expected = fingerprint(Path(scratch, "undisturbed"))
        same, hit, torn = 0, 0, 0
        for number in range(1, options.kills + 1):
            folder = Path(scratch, f"run{number}")
            moment = rng.uniform(0, duration)
            while not (killed := kill_after(moment, folder)) and moment > duration / 100:
                moment /= 2  # the machine is faster now than in the undisturbed run
                shutil.rmtree(folder)
            hit += killed
            torn += bool(list(folder.glob(".*.tmp")) + list(folder.glob(".*.new"))) if folder.exists() else 0
            if finish(start(folder)):
                return 1
            equal = fingerprint(folder) == expected
            same += equal
            state = "killed" if killed else "had finished"
            verdict = "same" if equal else "DIFFERENT"
            print(
                f"{number:>3}: {state} at {moment:5.2f} s of {duration:.2f} s, resumed: {verdict} bits",
                flush=True,
            )
    figures = {"trials": options.kills, "killed_mid_run": hit, "inside_a_write": torn, "identical": same, "seed": options.seed}
    print(f"{same} of {options.kills} identical to the undisturbed run; {hit} killed mid-run, {torn} of them inside a write")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0 if same == options.kills else 1
