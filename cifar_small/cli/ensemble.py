"""Commands that make one of several: ensemble, soup."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from cifar_small.cli.command import Command
from cifar_small.cli.options import (
    add_config,
    add_data_root,
    add_device,
    add_output,
    add_overwrite,
    add_runs,
    reserve,
    rules_or_none,
)
from cifar_small.errors import DataError
from cifar_small.files import probe_writable
from cifar_small.wording import plural

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cifar_small.runs.predictions import Predictions
    from cifar_small.runs.records import PredictionsMeta

METHODS = (
    "logits",
    "probabilities",
    "vote",
    "weighted",
    "greedy",
)  # inference.blend.Method, without numpy


def _ensemble_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "predictions", type=Path, nargs="+", metavar="PREDICTIONS", help="one file of each member, of one split"
    )
    add_output(parser, "predictions file to write", required=True)
    parser.add_argument("--method", choices=METHODS, default="logits", help="how predictions are combined (default: logits)")
    parser.add_argument(
        "--val",
        type=Path,
        nargs="+",
        metavar="PREDICTIONS",
        help="the members' predictions of val, in any order (default: val*.npz beside each member's file)",
    )
    add_config(parser, "config whose rules hold (default: the members' rules, which must agree)")
    add_overwrite(parser)


def _ensemble(options: argparse.Namespace) -> int:
    """Make one predictions file of several, joined by id.

      logits         the mean of the logits
      probabilities  the mean of the probabilities
      vote           the majority; ties go to the class with the largest mean probability
      weighted       the mean of the probabilities, with non-negative weights of sum 1 that minimize the loss on val
      greedy         the mean over a bag of members, with replacement, each added for the bag's accuracy on val
    The last two need every member's predictions of val, by the same weights and views; they are fitted on val alone.
    A member whose weight is 0 is left out, and its parameters are not counted.
    """
    from cifar_small.inference.ensemble import combine, find_val, judge, match_val
    from cifar_small.runs.predictions import load_predictions

    reserve(options.overwrite, options.output)
    members = [load_predictions(path) for path in options.predictions]
    if options.val is not None:
        val = match_val(members, [load_predictions(path) for path in options.val])
    else:
        val = find_val(options.predictions, members)
    rules = rules_or_none(options)
    joined = combine(members, options.method, val, rules)
    joined.save(options.output)
    print(f"{joined.meta.name} -> {options.output}")
    for one in joined.meta.left_out:
        print(f"left out, with weight 0: {one.label()}")
    print(_parameters(joined.meta))
    fitted = joined.meta.fitted_on
    if note := _held_out_by_all(val if fitted else members):
        print(note)
    if joined.labels is not None:
        same = fitted is not None and fitted.images_sha256 == joined.meta.images_sha256
        print(f"{judge(joined, members)}{'; the weights were fitted on these images' if same else ''}")
    elif len(val) < len(members):
        print("not compared with its best member; run predict --split val for every member first")
    else:
        try:
            verdict = judge(combine(val, options.method, val, rules), val)
        except DataError as error:  # the file is made, and good without it
            print(f"not compared with its best member on val: {error}")
        else:
            if not fitted and (note := _held_out_by_all(val)):
                print(note)
            print(f"on val{', which fitted the weights' if fitted else ''}: {verdict}")
    return 0


def _held_out_by_all(val: Sequence[Predictions]) -> str:
    """Which images of val count, where the members held out others; empty where they held out the same."""
    from cifar_small.inference.ensemble import on_shared_images

    images, held_out = len(on_shared_images(val)[0].ids), [len(member.ids) for member in val]
    if all(count == images for count in held_out):
        return ""
    each = " or ".join(f"{count:,}" for count in sorted({min(held_out), max(held_out)}))
    used = f"used of val: the {plural(images, 'image')} that all of them held out"
    return f"the members held out different images, {each} each; {used}"


def _parameters(meta: PredictionsMeta) -> str:
    """The parameters of each member and of the sum, against the budget of the rules."""
    counts, total, budget = [one.parameters for one in meta.members], meta.parameters, meta.rules["max_params"]
    text = f"parameters {' + '.join(f'{count:,}' for count in counts)} = {total:,}"
    if total <= budget:
        return f"{text}, within the budget of {budget:,}"
    alone = "each member alone is within it" if max(counts) <= budget else "a member alone is over it too"
    return f"{text}, {total - budget:,} over the budget of {budget:,}, so it cannot be submitted; {alone}"


def _soup_arguments(parser: argparse.ArgumentParser) -> None:
    add_runs(parser, "run directories of one architecture, or kept checkpoints such as RUN/epoch-0010.pt")
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
    """Average the weights of several runs of one architecture, or of several epochs of one, into a run directory.

      cifar-small soup runs/a-seed0 runs/b-seed0 --output runs/soup
      cifar-small soup runs/a-seed0/epoch-*.pt --output runs/soup     of a run trained with engine.keep_last or keep_every
    BatchNorm statistics are recomputed on training images. The result has the parameters of one net, and predicts like any
    run. Averaging works for runs that share their initial weights, and mostly not for nets of different seeds: the line on
    val says which.
    """
    from cifar_small.inference.soup import make_soup
    from cifar_small.runs.directory import Run
    from cifar_small.runs.records import members_were_chosen

    probe_writable(options.output / "best.pt")
    files = [path.is_file() and path.suffix == ".pt" for path in options.directories]
    summary, verdict = make_soup(
        [Run(path.parent if file else path) for path, file in zip(options.directories, files, strict=True)],
        Run(options.output),
        options.method,
        checkpoints=[path.stem if file else "best" for path, file in zip(options.directories, files, strict=True)],
        device=options.device,
        data_root=options.data_root,
        command=options.command,
    )
    for one in summary.soup:
        print(f"{one.label(folder=True)}, val {one.val_accuracy:.2%} without views{'' if one.taken else ', left out'}")
    chose = ", which chose its members" if members_were_chosen(summary.soup) else ""
    print(f"val{chose}, views {summary.views}: {verdict}")
    print(f"{summary.parameters:,} parameters -> {options.output}")
    return 0


COMMANDS = (
    Command("ensemble", _ensemble_arguments, _ensemble),
    Command("soup", _soup_arguments, _soup),
)
