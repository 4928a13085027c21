"""Commands about accuracy without labels: estimate, and calibrate, which says how far to trust it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from cifar_small.cli.command import Command
from cifar_small.cli.options import add_config, add_data_root, add_layout, add_output, add_overwrite, config_or_none, reserve
from cifar_small.errors import DataError, UserError

if TYPE_CHECKING:
    from cifar_small.runs.predictions import Predictions


def _estimate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", type=Path, nargs="+", metavar="PREDICTIONS", help="predictions of one unlabelled file")
    parser.add_argument(
        "--val",
        type=Path,
        nargs="+",
        required=True,
        metavar="PREDICTIONS",
        help="predictions of val by the same runs with the same views, in any order",
    )
    parser.add_argument("--calibration", type=Path, metavar="JSON", help="calibration.json of calibrate (default: the study's)")
    parser.add_argument(
        "--images", type=Path, metavar="FILE", help="the unlabelled file itself, to warn by what diagnose finds in it"
    )
    add_config(parser, "config whose rules and data FILE is checked against (default: that of the first predictions)")
    add_data_root(parser, ", for --images")
    add_layout(parser)
    add_output(parser, "JSON to write: the record that the file was looked at (default: estimate.json)", Path("estimate.json"))
    add_overwrite(parser)


def _estimate(options: argparse.Namespace) -> int:
    """Estimate what runs and ensembles will score on a file without labels, with an interval, and say when not to trust it.

    Five published estimators from the predictions of val and of the file; the one that was nearest on labelled shifts gives the
    estimate. Labels of the file are never used and nothing is trained on it. Three runs or more add agreement on the line.
      cifar-small estimate runs/a-seed0/predictions/submit.npz --val runs/a-seed0/predictions/val.npz
      cifar-small estimate runs/*/predictions/submit.npz --val runs/*/predictions/val.npz --images cifar_test_nolabel.pkl
    """
    reserve(options.overwrite, options.output)
    if options.images is None and (options.config or options.data_root or options.layout != "auto"):
        raise UserError("--config, --data-root and --layout say how --images is read and compared; add it, or drop them")
    from cifar_small.data import load_unlabelled
    from cifar_small.evaluation.estimate import DEFAULT, estimate
    from cifar_small.files import write_json
    from cifar_small.reporting.estimate_files import describe_estimation, estimation_record, load_calibration
    from cifar_small.runs.predictions import load_predictions

    files, vals = ([load_predictions(path) for path in paths] for paths in (options.files, options.val))
    calibration = load_calibration(options.calibration) if options.calibration else DEFAULT
    if options.images is not None:
        seen, _ = load_unlabelled(options.images, classes=files[0].classes, layout=options.layout)
        if seen.sha256 != files[0].meta.images_sha256:
            raise DataError(f"{options.images} holds other images than {files[0].meta.file} predicts; name the file predicted")
    estimation = estimate(files, vals, calibration, _suspicions(options, files[0]))
    print(describe_estimation(estimation))
    write_json(options.output, estimation_record(estimation, options.command).plain())
    print(f"-> {options.output}, the record that this file was looked at")
    return 0


def _suspicions(options: argparse.Namespace, predictions: Predictions) -> list[str]:
    """The faults and warnings that a diagnosis of the file finds, beside the data that its predictor was trained on."""
    if options.images is None:
        return []
    from cifar_small.config.loading import parse_config
    from cifar_small.config.schema import Data, Rules
    from cifar_small.submission.diagnose import diagnose

    config = config_or_none(options)
    if config is None and (own := next(iter(predictions.meta.nets())).config):  # older versions kept none
        config = parse_config(own, f"the config in {predictions.meta.file}")
    data = config.data if config else Data()
    data = data.model_copy(update={"root": options.data_root}) if options.data_root else data
    rules = config.rules if config else Rules(rows=None)
    found = diagnose(options.images, rules, data, layout=options.layout).findings
    return [f"{one.subject}: {one.text}" for one in found if one.level in ("warn", "fault")]


def _calibrate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="SHIFTS", help="folder that shift wrote predictions to")
    parser.add_argument(
        "--val",
        type=Path,
        nargs="+",
        required=True,
        metavar="PREDICTIONS",
        help="predictions of val by the same runs and views",
    )
    parser.add_argument(
        "--untouched", nargs="+", default=[], metavar="KIND", help="kinds or families judged once, after all is chosen"
    )
    add_output(parser, "folder to write (default: SHIFTS)")
    add_overwrite(parser, "an existing calibration")


def _calibrate(options: argparse.Namespace) -> int:
    """Say how wrong the estimators are on labelled shifts, and choose the one that estimate uses.

    Each family of shifts is judged by what was fitted on the others. Writes a table, every estimate beside its truth, a scatter
    picture, and calibration.json for estimate --calibration.
      cifar-small shift runs/a-seed? --views none
      cifar-small calibrate runs/shift --val runs/a-seed?/predictions/val_none.npz --untouched crop
    """
    from cifar_small.evaluation.calibrate import calibrate
    from cifar_small.reporting.estimate_files import FILES, describe_study, write_study
    from cifar_small.runs.predictions import load_predictions

    folder = options.output or options.folder
    reserve(options.overwrite, *(folder / name for name in FILES))
    study = calibrate(options.folder, [load_predictions(path) for path in options.val], options.untouched)
    print(describe_study(study))
    for path in write_study(study, folder, options.command):
        print(f"-> {path}")
    return 0


COMMANDS = (Command("estimate", _estimate_arguments, _estimate), Command("calibrate", _calibrate_arguments, _calibrate))
