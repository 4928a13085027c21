"""What every benchmark shares: medians with their spread, tables, and the facts without which a figure means nothing.

A ratio is taken within a round, between measurements that follow each other, and its spread is that of the rounds: on a machine
that does other work too, such ratios hold where seconds do not.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cifar_small.config.hashing import config_dict, config_hash
from cifar_small.config.schema import Config
from cifar_small.environment import machine_facts, prepare_process, resolve_device, resolve_precision
from cifar_small.files import write_json
from cifar_small.metrics.spread import BUSY

ROOT = Path(__file__).resolve().parents[2]


def mean_and_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n - 1); one number has no deviation."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


@dataclass(frozen=True)
class Report:
    """One benchmark under way: what is measured, by which command, on which machine, and how busy that was at the start."""

    bench: str
    config: Config
    command: str
    environment: dict[str, Any]
    load_average: tuple[float, float, float] = field(default_factory=os.getloadavg)  # over 1, 5 and 15 minutes
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def head(self) -> str:
        """The lines above the figures: machine, threads, precision, versions, commit, load."""
        facts = self.environment
        commit = f"commit {facts['commit'][:12]}" if facts["commit"] else "no commit known"
        lines = [
            f"bench {self.bench}: {self.config.name} (config {config_hash(self.config)[:12]})",
            f"{facts['device']}, {facts['threads']} of {facts['cpu_count']} CPU threads, {facts['precision']}, "
            f"torch {facts['packages']['torch']}, Python {facts['python']}, cifar_small {facts['cifar_small']}, {commit}"
            + (" with local changes" if facts["dirty"] else ""),
        ]
        if self.load_average[0] > BUSY:
            lines.append(
                f"note: load average {self.load_average[0]:.1f} at start: other processes share these cores; ratios within "
                "a run are worth more than the figures"
            )
        return "\n".join(lines)

    def save(self, path: Path, results: dict[str, Any]) -> None:
        """Write the facts and all results, raw rounds included, as JSON. Raises UserError naming the path."""
        facts = {
            "bench": self.bench,
            "command": self.command,
            "started": self.started,
            "environment": self.environment,
            "load_average": list(self.load_average),
            "config_sha256": config_hash(self.config),
            "config": config_dict(self.config),
        }
        write_json(path, {**facts, "results": results})


def begin(bench: str, config: Config, command: str) -> Report:
    """The report of a benchmark about to start; sets the config's CPU threads.

    Raises UserError for a device that is not there.
    """
    prepare_process(config.engine)
    device = resolve_device(config.engine.device)
    return Report(bench, config, command, machine_facts(device, resolve_precision(config.engine.precision, device)))


@dataclass(frozen=True)
class Benchmark:
    """A benchmark: its name and help, its own options, and what it does; `run` prints and returns results for JSON."""

    name: str
    summary: str
    detail: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, Config], dict[str, Any]]
    defaults: tuple[tuple[str, str], ...] = ()  # settings it measures with unless others are given


def positive(text: str) -> int:
    """An option's whole number above 0."""
    if not (text.isascii() and text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return int(text)


def add_rounds(sub: argparse.ArgumentParser) -> None:
    """The option --rounds."""
    sub.add_argument("--rounds", type=positive, default=3, metavar="R", help="measurements, taking turns (default: 3)")


def add_data(sub: argparse.ArgumentParser, images: int) -> None:
    """The options --data and --images."""
    sub.add_argument(
        "--data", choices=["synthetic", "real"], default="synthetic", help="random images, or the config's (default: synthetic)"
    )
    sub.add_argument("--images", type=positive, metavar="N", help=f"how many (default: {images:,})")
