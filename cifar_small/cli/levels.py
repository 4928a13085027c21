"""The command `levels`: two published reports on transfer learning, level by level."""

from __future__ import annotations

import argparse
from pathlib import Path

from cifar_small.cli.command import Command
from cifar_small.errors import UserError


def _levels_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("report", choices=["r1", "r2"], help="r1: five levels, 5 epochs each; r2: four, with longer recipes")
    parser.add_argument("--level", type=int, nargs="+", metavar="N", help="only these (default: all, in order)")
    parser.add_argument("--weights-dir", type=Path, metavar="D", help="folder with the files of the ImageNet weights")
    parser.add_argument("--output", type=Path, default=Path("runs/levels"), help="folder of everything (default: runs/levels)")
    parser.add_argument("--configs", type=Path, help="folder of the levels' configs (default: configs/levels)")
    parser.add_argument("--test", action="store_true", help="read the test split too, once for each run, on record")
    parser.add_argument("--smoke", action="store_true", help="digits at 64 px from random weights: does it all work?")


def _levels(options: argparse.Namespace) -> int:
    from cifar_small.config.loading import split_overrides
    from cifar_small.sweep.levels import CONFIGS, ROWS, Plan, run_levels

    known = ROWS[options.report]
    numbers = tuple(sorted(set(options.level or known)))
    if unknown := [number for number in numbers if number not in known]:
        raise UserError(f"{options.report} has no level {unknown[0]}; expected some of {', '.join(map(str, known))}")
    if options.smoke and options.weights_dir is not None:
        raise UserError("--smoke trains from random weights, so --weights-dir has no effect: drop one of them")
    plan = Plan(
        options.report,
        numbers,
        options.output,
        options.configs or CONFIGS,
        weights=options.weights_dir,
        smoke=options.smoke,
        test=options.test,
        overrides=tuple(split_overrides(options.overrides)),
    )
    return run_levels(plan, options.call)


COMMANDS = (
    Command(
        "levels",
        "run the levels of two published reports on transfer learning, and put our figures beside theirs",
        _levels_arguments,
        _levels,
        detail="""\
Each level is a config in configs/levels/, with the comparison, vote, distillation, int8 or latency that belongs to it. Every
command is printed before it runs; what is trained is not trained again, a killed run goes on, evaluations are made anew.
  cifar-small levels r1                                  all five, from ImageNet weights (cifar-small weights fetch)
  cifar-small levels r2 --level 1 --weights-dir D        from files, such as resnet50.a1_in1k.safetensors or timm_resnet50.pth
  cifar-small levels r1 --smoke --output /tmp/levels     a few hundred images, random weights: does it all work?
Settings after that hold for every run of the levels, by their dotted names:
  cifar-small levels r1 --level 1 2 --weights null --input.size 64 --data.train_limit 10000
Leaves a folder for each level (weights, curves, confusion, per-class table, comparison), and a table over all of them.""",
        overrides=True,
    ),
)
