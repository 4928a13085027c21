"""Commands that make one of several: ensemble, soup."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from cifar_small.cli.command import Command
from cifar_small.cli.options import add_data_root, add_device, add_output, add_overwrite, add_runs
from cifar_small.files import probe_writable, refuse_existing

METHODS = ("logits", "probabilities", "vote", "weighted", "greedy")  # of blending.Method, without importing numpy for --help


def _ensemble_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "predictions", type=Path, nargs="+", metavar="PREDICTIONS", help="one file of each member, of one split"
    )
    add_output(parser, "predictions file to write", required=True)
    parser.add_argument("--method", choices=METHODS, default="logits", help="how several answers become one (default: logits)")
    parser.add_argument(
        "--val",
        type=Path,
        nargs="+",
        metavar="PREDICTIONS",
        help="the members' predictions of val, in any order (default: val*.npz beside each member's file)",
    )
    add_overwrite(parser)


def _ensemble(options: argparse.Namespace) -> int:
    from cifar_small.inference.ensemble import combine, find_val, judge, match_val
    from cifar_small.runs.predictions import label, load_predictions

    refuse_existing(options.output, options.overwrite)
    members = [load_predictions(path) for path in options.predictions]
    if options.val is not None:
        val = match_val(members, [load_predictions(path) for path in options.val])
    else:
        val = find_val(options.predictions, members)
    joined = combine(members, options.method, val)
    joined.save(options.output)
    print(f"{joined.meta['name']} -> {options.output}")
    for one in joined.meta["left_out"]:
        print(f"left out, with weight 0: {label(one)}")
    print(_parameters(joined.meta))
    fitted = joined.meta["fitted_on"]
    if joined.labels is not None:
        same = fitted is not None and fitted["images_sha256"] == joined.meta["images_sha256"]
        print(f"{judge(joined, members)}{'; these images chose the weights' if same else ''}")
    elif len(val) == len(members):
        print(f"on val{', which chose the weights' if fitted else ''}: {judge(combine(val, options.method, val), val)}")
    else:
        print("whether it is better than its best member is not known: predict --split val with every member to see it")
    return 0


def _parameters(meta: dict[str, Any]) -> str:
    """The parameters of each member and of the sum, against the budget of the rules."""
    counts, total, budget = [one["parameters"] for one in meta["members"]], meta["parameters"], meta["rules"]["max_params"]
    text = f"parameters {' + '.join(f'{count:,}' for count in counts)} = {total:,}"
    if total <= budget:
        return f"{text}, within the budget of {budget:,}"
    alone = "each member alone is within it" if max(counts) <= budget else "and so is a member alone"
    return f"{text}, {total - budget:,} over the budget of {budget:,}, so submit will refuse it; {alone}"


def _soup_arguments(parser: argparse.ArgumentParser) -> None:
    add_runs(parser, "run directories of one architecture")
    add_output(parser, "run directory to write", required=True, metavar="RUN_FOLDER")
    parser.add_argument(
        "--method",
        choices=["uniform", "greedy"],
        default="uniform",
        help="average all, or only those that do not lower val accuracy, best first (default: uniform)",
    )
    add_data_root(parser)
    add_device(parser)


def _soup(options: argparse.Namespace) -> int:
    from cifar_small.inference.soup import make_soup
    from cifar_small.runs.directory import Run
    from cifar_small.runs.predictions import label

    probe_writable(options.output / "best.pt")
    summary, verdict = make_soup(
        [Run(directory) for directory in options.directories],
        Run(options.output),
        options.method,
        device=options.device,
        data_root=options.data_root,
        command=options.command,
    )
    for one in summary["soup"]:
        print(f"{label(one, folder=True)}, val {one['val_accuracy']:.2%} without views{'' if one['taken'] else ', left out'}")
    print(f"val, views {summary['views']}: {verdict}")
    print(f"{summary['parameters']:,} parameters -> {options.output}")
    return 0


COMMANDS = (
    Command(
        "ensemble",
        "make one predictions file of several, joined by id",
        _ensemble_arguments,
        _ensemble,
        detail="""\
  logits         the mean of the logits
  probabilities  the mean of the probabilities
  vote           the majority; among classes with as many votes, the one with the largest mean probability
  weighted       the mean of probabilities with the weights, at least 0 and of sum 1, that have the least loss on val
  greedy         the mean over a bag of members, with replacement, each chosen for the bag's accuracy on val
The last two need every member's predictions of val by the same weights with the same views; what is scored is never fitted on.
A member whose weight comes out as 0 is left out, and its parameters are not counted.""",
    ),
    Command(
        "soup",
        "average the weights of several runs of one architecture into a run directory",
        _soup_arguments,
        _soup,
        detail="""\
BatchNorm statistics are taken anew from training images. The result costs the parameters of one net, and is predicted with like
any run. Weights average well when the runs share a start; those of nets from different seeds mostly do not: the line on val
says which it was.""",
    ),
)
