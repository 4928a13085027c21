"""The command `levels`: two published reports on transfer learning, level by level."""

from __future__ import annotations

import argparse
from pathlib import Path

from cifar_small.cli.command import Command
from cifar_small.cli.options import add_output, split_overrides
from cifar_small.config.renamed import LADDER_NAMES
from cifar_small.errors import UserError


def _levels_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = f"{parser.prog} LADDER [options] [--SETTING VALUE ...]"
    parser.add_argument(
        "ladder",
        type=lambda name: LADDER_NAMES.get(name, name),
        choices=list(LADDER_NAMES.values()),
        metavar="LADDER",
        help="resnet18_ladder: five levels of 5 epochs, the last of 3; resnet50_ladder: four, with longer recipes",
    )
    parser.add_argument("--level", type=int, nargs="+", metavar="N", help="only these (default: all, in order)")
    parser.add_argument("--lite", action="store_true", help="EfficientNet-Lite0, 1 and 2 in place of the reports' nets")
    parser.add_argument("--weights-dir", type=Path, metavar="D", help="folder with the files of the ImageNet weights")
    add_output(parser, "folder of everything (default: runs/levels)", Path("runs/levels"))
    parser.add_argument("--configs", type=Path, help="folder of the levels' configs (default: the shipped configs/levels)")
    parser.add_argument(
        "--test", action="store_true", help="also evaluate each run on test, once for each choice of views; this is recorded"
    )
    parser.add_argument("--smoke", action="store_true", help="smoke test on digits at 64 px, from random weights")


def _levels(options: argparse.Namespace) -> int:
    """Run the levels of two published reports on transfer learning, and put our figures beside theirs.

    Each level is a config in configs/levels/, with the comparison, vote, distillation, int8 or latency that belongs to it.
    Every command is printed before it runs. Finished runs are kept, killed ones resumed, evaluations repeated.
      cifar-small levels resnet18_ladder                              all five, from ImageNet weights
      cifar-small levels resnet50_ladder --level 1 --weights-dir D    from files such as timm_resnet50.pth
      cifar-small levels resnet18_ladder --smoke --output /tmp/levels a smoke test: digits, random weights
      cifar-small levels resnet18_ladder --lite                       with weights that `weights fetch` installs
    With --lite the table says which net stands in for which.
    Any setting can be overridden by its dotted name, for every run of the levels:
      cifar-small levels resnet18_ladder --level 1 2 --weights null --input.size 64 --data.train_limit 10000
    Writes a folder for each level (weights, curves, confusion, per-class table, comparison), and one table of them all.
    """
    from cifar_small.sweep.levels import CONFIGS, LADDERS, Plan, run_levels

    known = LADDERS[options.ladder]
    numbers = tuple(sorted(set(options.level or known)))
    if unknown := [number for number in numbers if number not in known]:
        raise UserError(f"{options.ladder} has no level {unknown[0]}; expected some of {', '.join(map(str, known))}")
    if options.smoke and options.weights_dir is not None:
        raise UserError("--smoke trains from random weights, so --weights-dir has no effect; drop one of them")
    plan = Plan(
        options.ladder,
        numbers,
        options.output,
        options.configs or CONFIGS,
        weights=options.weights_dir,
        smoke=options.smoke,
        test=options.test,
        overrides=tuple(split_overrides(options.overrides)),
        lite=options.lite,
    )
    return run_levels(plan, options.call)


COMMANDS = (Command("levels", _levels_arguments, _levels, overrides=True),)
