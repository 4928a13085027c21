"""The command line: where and which, never what. The other files here hold what each command takes."""

from __future__ import annotations

import argparse
import shlex
import sys
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
ALL = (
    *configs.COMMANDS,
    *data.COMMANDS,
    *train.COMMANDS,
    *weights.COMMANDS,
    *predict.COMMANDS,
    *evaluate.COMMANDS,
    *shift.COMMANDS,
    *estimate.COMMANDS,
    *ensemble.COMMANDS,
    *compare.COMMANDS,
    *submit.COMMANDS,
    *report.COMMANDS,
    *runs.COMMANDS,
    *levels.COMMANDS,
    *settings.COMMANDS,
    *export.COMMANDS,
    *completion.COMMANDS,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; a user's error is one line on stderr."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    options, rest = parser.parse_known_args(given)
    if rest and not options.chosen.overrides:
        parser.error(unknown_options(rest, options.known))
    options.overrides, options.command, options.call = rest, shlex.join(["cifar-small", *given]), main
    options.parser, options.commands = parser, ALL
    return exit_code("cifar-small", lambda: _run(options), options)


def _run(options: argparse.Namespace) -> int:
    if options.overrides:
        check_overrides(options.overrides, options.known)
    return int(options.chosen.run(options))


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="cifar-small", description=DESCRIPTION, epilog=EXIT_CODES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"cifar-small {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
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
        sub.set_defaults(chosen=command, known=sub.options)
    return parser
