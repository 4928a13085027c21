"""The command line: where and which, never what. The other files here hold what each command takes."""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
import textwrap
from collections.abc import Sequence

from cifar_small import __version__
from cifar_small.cli import (
    compare,
    completion,
    configs,
    data,
    ensemble,
    estimate,
    evaluate,
    export,
    levels,
    predict,
    report,
    runs,
    settings,
    shift,
    submit,
    train,
    weights,
)
from cifar_small.cli.command import exit_code
from cifar_small.cli.options import check_overrides
from cifar_small.cli.parser import OneLineParser, unknown_options

DESCRIPTION = """\
Train, predict and submit small image classifiers under a parameter budget.

The usual way, each step a file the next one reads:
  cifar-small param_count resnet_hour         is it legal? (before training; cifar-small configs lists what comes with it)
  cifar-small train --config resnet_hour      -> runs/resnet_hour-seed0/
  cifar-small predict runs/resnet_hour-seed0 --split submit --file cifar_test_nolabel.pkl
  cifar-small submit runs/resnet_hour-seed0/predictions/submit.npz --output submissions/mine/submission.csv
  cifar-small check submissions/mine/submission.csv --file cifar_test_nolabel.pkl
"""
EXIT_CODES = """\
exit codes: 0 done; 1 a check found faults, or param_count a net over the budget; 2 usage, config or budget; 3 data;
4 checkpoint or run directory; 5 training diverged; 143 stopped by a signal and saved"""
MODULES = (
    compare, completion, configs, data, ensemble, estimate, evaluate, export, levels, predict, report, runs, settings, shift,
    submit, train, weights,
)  # fmt: skip
ALL = tuple(command for module in MODULES for command in module.COMMANDS)
# The order of the help, and of README's table.
STAGES = {
    "look": ("demo", "param_count", "configs", "preview", "schedule", "settings", "completion", "data", "diagnose"),
    "train": ("train", "sweep", "slurm", "weights", "levels", "runs", "remove"),
    "predict": ("predict", "unlabelled"),
    "judge": ("evaluate", "compare", "report", "shift", "calibrate", "estimate", "tta", "uncertainty"),
    "combine": ("ensemble", "soup"),
    "hand in": ("submit", "check", "audit", "diff", "record", "results"),
    "deploy": ("export", "push", "onnx", "quantize", "bench"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; a user's error is one line on stderr."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    options, rest = parser.parse_known_args(given)
    if rest and not options.chosen.overrides:
        options.own.error(unknown_options(rest, options.known))
    options.overrides, options.command, options.call = rest, shlex.join(["cifar-small", *given]), main
    options.parser, options.commands = parser, ALL
    return exit_code("cifar-small", lambda: _run(options), options)


def _run(options: argparse.Namespace) -> int:
    if options.overrides:
        check_overrides(options.overrides, options.known)
    return int(options.chosen.run(options))


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="cifar-small",
        usage="cifar-small [-h] [--version] COMMAND ...",
        description=f"{DESCRIPTION}\n{_commands_by_stage()}\n\ncifar-small COMMAND --help explains each, with examples.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"cifar-small {__version__}")
    commands = parser.add_subparsers(prog="cifar-small", metavar="COMMAND", required=True, help=argparse.SUPPRESS)
    for command in ALL:
        sub = commands.add_parser(
            command.name,
            help=command.summary,
            description=command.detail,
            epilog=EXIT_CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.add_arguments(sub)
        sub.set_defaults(chosen=command, known=sub.options, own=sub)
    return parser


def _commands_by_stage() -> str:
    """Every command and its summary, under the stage of an entry at which it is used."""
    indent, width = " " * 14, max(shutil.get_terminal_size().columns - 2, 40)
    summaries = {command.name: command.summary for command in ALL}
    lines = []
    for stage, names in STAGES.items():
        lines.append(f"{stage}:")
        for name in names:
            lines += textwrap.wrap(summaries[name], width, initial_indent=f"  {name:<12}", subsequent_indent=indent)
    return "\n".join(lines)
