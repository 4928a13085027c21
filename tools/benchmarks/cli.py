"""The harness behind `tools/bench`: what a config costs on this machine, in comparisons that anyone can repeat.

A benchmark is a `Benchmark` in a module of its own; `ALL` lists them, and another one is another entry. Each prints a head
(machine, threads, precision, versions, load) before it starts, takes turns between what it compares, and gives medians over
rounds and ratios with their spread. `--json` keeps every round.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.augment import AUGMENT
from benchmarks.report import begin
from benchmarks.steps import STEPS
from benchmarks.timing import TIME
from cifar_small.cli.command import exit_code
from cifar_small.cli.options import check_overrides, split_overrides
from cifar_small.config.loading import load_config
from cifar_small.files import probe_writable
from cifar_small.training.signals import stopped_by_signals

ALL = (STEPS, TIME, AUGMENT)
DESCRIPTION = """\
Measure what a config costs on this machine, mostly in training. (How fast trained nets answer: cifar-small bench.)

  tools/bench steps configs/resnet_hour.yaml                  training steps against the bare net and a plain loop
  tools/bench time configs/resnet_hour.yaml --targets 93 94   minutes to test accuracy, start-up and evaluation included
  tools/bench augment configs/resnet_hour.yaml                images a second of the augmentation engines

Any setting of the config is overridden by its dotted name after it, as in training: --engine.threads 1."""
EPILOG = """\
The figures belong to the machine, its threads and its load, which are printed, and kept by --json. On a busy machine the ratios
are worth more: each is taken between measurements that follow each other, and is given with its lowest and highest round.

exit codes: 0 done; 2 usage or config; 3 data; 4 result file or run directory; 143 interrupted"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one benchmark and return its exit code; a user's error is one line on stderr."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options, settings = _parser().parse_known_args(given)
    with stopped_by_signals():
        return exit_code("bench", lambda: _run(options, settings, shlex.join(["tools/bench", *given])))


def _run(options: argparse.Namespace, settings: Sequence[str], command: str) -> int:
    check_overrides(settings, [f"--{name}" for name in vars(options)])
    options.overrides = split_overrides(settings)
    config = load_config(options.config, [*options.command.defaults, *options.overrides])
    if options.json:
        probe_writable(options.json)  # now, not after minutes of work
    report = begin(options.command.name, config, command)
    print(report.head(), flush=True)
    results = options.command.run(options, config)
    if options.json:
        report.save(options.json, results)
    return 0


def _parser() -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="bench", description=DESCRIPTION, epilog=EPILOG, formatter_class=formatter)
    verbs = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in ALL:
        text = f"{command.summary[0].upper()}{command.summary[1:]}.\n\n{command.detail}"
        sub = verbs.add_parser(
            command.name, help=command.summary, description=text, epilog=EPILOG, formatter_class=formatter, allow_abbrev=False
        )
        sub.set_defaults(command=command)
        sub.add_argument("config", type=Path, metavar="CONFIG", help="YAML file; see configs/")
        command.add_options(sub)
        sub.add_argument("--json", type=Path, metavar="FILE", help="write facts, raw rounds and results here")
    return parser
