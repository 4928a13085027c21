"""The command that looks at a data set before anything is trained on it: data."""

from __future__ import annotations

import argparse
from pathlib import Path

from cifar_small.cli.command import Command
from cifar_small.cli.options import add_config, add_output, add_overwrite, load_config_of, reserve
from cifar_small.errors import UserError


def _data_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser, "YAML file, or a name that cifar-small configs lists; the option name --config may be left out")
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


COMMANDS = (Command("data", _data_arguments, _data, overrides=True),)
