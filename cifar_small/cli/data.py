"""The commands that look at data: a labelled data set before training, an unlabelled file before predicting."""

from __future__ import annotations

import argparse
from pathlib import Path

from cifar_small.cli.command import Command
from cifar_small.cli.options import (
    add_allow_rows,
    add_config,
    add_config_with_overrides,
    add_data_root,
    add_layout,
    add_output,
    add_overwrite,
    config_or_none,
    load_config_of,
    print_default,
    reserve,
)
from cifar_small.errors import UserError
from cifar_small.files import write_atomic
from cifar_small.wording import plural


def _data_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_with_overrides(parser)
    parser.add_argument(
        "--predictions",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="predictions of val by runs on this data, of any seeds and data.split_seed; their labels are checked",
    )
    add_output(parser, "folder for the page (data.md), its pictures, copies.csv and suspects.csv (default: none is written)")
    add_overwrite(parser, "an existing page")


def _data(options: argparse.Namespace) -> int:
    """Survey the data of a config: classes, statistics, copies within and between splits, suspected label errors.

    examples:
      cifar-small data resnet_hour --output cifar10
      cifar-small data resnet_hour --data.source folder --data.root pictures --data.val_size 500
      cifar-small data resnet_hour --predictions runs/*/predictions/val.npz --output cifar10

    Labels are checked by confident learning: an image is suspected where nets that did not train on it take it for another
    class. Each run tells of its own val images; runs with other --data.split_seed, or a larger --data.val_size, tell of more.
    Images of test are counted by class and compared as pixels; their labels are not checked, and no predictions of test are
    taken.
    """
    from cifar_small.evaluation.data_survey import survey
    from cifar_small.reporting.data_files import FILES, describe_survey, write_survey
    from cifar_small.runs.predictions import load_predictions

    config = load_config_of(options)
    folder = options.output
    if folder is not None and folder.is_file():
        raise UserError(f"{folder} is a file; expected a folder", remedy="output")
    if folder is not None:
        reserve(options.overwrite, *(folder / name for name in FILES))
    found = survey(config.data, [load_predictions(path) for path in options.predictions])
    written = [] if folder is None else write_survey(found, folder)
    print(describe_survey(found))
    if written:
        print(f"-> {folder}: {', '.join(path.name for path in written)}")
    return 0


def _diagnose_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="pickle, .npz, .npy, .mat, .parquet, .bin, or folder of pictures"
    )
    add_config(parser, "config whose rules and data it is checked against (default: CIFAR-10)")
    add_allow_rows(parser)
    add_layout(parser)
    add_data_root(parser)
    add_output(parser, "CSV to write with every copied image")
    add_overwrite(parser)


def _diagnose(options: argparse.Namespace) -> int:
    """Look at an unlabelled file before predicting: layout, values, colors, copies of CIFAR's images.

    Prints a card of ok, note, warn and fault lines; exits with 1 on a fault. Looks for exact and near duplicates within the
    file and among the training and test images, if these are on this machine (nothing is downloaded).
    """
    reserve(options.overwrite, options.output)
    from cifar_small.config.schema import Data, Rules
    from cifar_small.submission.diagnose import copies_csv, diagnose, render_card

    config = config_or_none(options)
    rules, data = (config.rules, config.data) if config else (Rules(), Data())
    if options.allow_rows is not None:
        rules = rules.model_copy(update={"rows": options.allow_rows})
    if options.data_root:
        data = data.model_copy(update={"root": options.data_root})
    found = diagnose(options.file, rules, data, layout=options.layout)
    print(render_card(found))
    if config is None:
        print_default("compared with CIFAR-10 and its rules")
    if options.output is not None:
        write_atomic(options.output, copies_csv(found).encode())
        print(f"{plural(len(found.copies), 'copy', 'copies')} -> {options.output}")
    faults, warnings = (found.count(level) for level in ("fault", "warn"))
    print(f"{options.file}: {plural(faults, 'fault')}, {plural(warnings, 'warning')}")
    return 1 if faults else 0


COMMANDS = (
    Command("data", _data_arguments, _data, overrides=True),
    Command("diagnose", _diagnose_arguments, _diagnose),
)
