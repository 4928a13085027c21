"""Commands from a run to predictions files: predict, ensemble, unlabelled."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import get_args

from cifar_small.commands import Command
from cifar_small.files import refuse_existing
from cifar_small.schema import Views


def _predict_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, metavar="RUN", help="run directory")
    parser.add_argument("--split", choices=["val", "test", "submit"], required=True)
    parser.add_argument(
        "--file", type=Path, help="the unlabelled file (--split submit): competition pickle, .npz, or folder of PNGs"
    )
    parser.add_argument(
        "--checkpoint",
        default="best",
        metavar="NAME",
        help="which weights of the run: best, final, epoch-0010 ... (default: best; see engine.keep_every)",
    )
    parser.add_argument("--views", choices=get_args(Views), help="test-time augmentation (default: the config's)")
    parser.add_argument("--output", type=Path, help="predictions file (default: RUN/predictions/<split>.npz)")
    parser.add_argument("--allow-rows", type=int, metavar="N", help="accept N images where the rules expect another number")
    parser.add_argument(
        "--layout", choices=["auto", "HWC", "CHW"], default="auto", help="pixel order of flat rows (default: by content)"
    )
    parser.add_argument("--data-root", help="where the run's data lies now (default: the config's)")
    parser.add_argument("--device", help="auto, cpu or cuda (default: the config's)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")


def _predict(options: argparse.Namespace) -> int:
    from cifar_small.metrics import wilson_interval
    from cifar_small.predict import predict
    from cifar_small.runs import Run

    target, predictions, notes = predict(
        Run(options.directory),
        options.split,
        file=options.file,
        checkpoint=options.checkpoint,
        views=options.views,
        output=options.output,
        overwrite=options.overwrite,
        allow_rows=options.allow_rows,
        layout=options.layout,
        device=options.device,
        data_root=options.data_root,
        command=options.command,
    )
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    if predictions.labels is not None:
        low, high = wilson_interval(int(predictions.correct.sum()), len(predictions.ids))
        interval = f"95 % interval {low:.2%} to {high:.2%}"
        print(f"{options.split} accuracy {predictions.accuracy:.2%} of {len(predictions.ids):,} images, {interval}")
    weights = "" if options.checkpoint == "best" else f"weights {options.checkpoint}, "
    print(f"{len(predictions.ids):,} images, {weights}views {predictions.meta['views']} -> {target}")
    return 0


def _ensemble_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("predictions", type=Path, nargs="+", metavar="PREDICTIONS")
    parser.add_argument("--output", type=Path, required=True, help="predictions file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")


def _ensemble(options: argparse.Namespace) -> int:
    from cifar_small.ensemble import mean_logits
    from cifar_small.predictions import load_predictions

    refuse_existing(options.output, options.overwrite)
    joined = mean_logits([load_predictions(path) for path in options.predictions])
    joined.save(options.output)
    each = " + ".join(f"{member['parameters']:,}" for member in joined.meta["members"])
    print(f"{len(options.predictions)} members, parameters {each} = {joined.meta['parameters']:,} -> {options.output}")
    if joined.labels is not None:
        print(f"accuracy {joined.accuracy:.2%} of {len(joined.ids):,} images")
    return 0


def _unlabelled_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="pickle to write, in the competition's format")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")


def _unlabelled(options: argparse.Namespace) -> int:
    from cifar_small.config import load_config
    from cifar_small.data import load_test, write_unlabelled

    refuse_existing(options.output, options.overwrite)
    images = load_test(load_config(options.config).data)
    write_unlabelled(options.output, images.images, images.ids)
    print(f"{len(images):,} images of {images.source}, without labels -> {options.output}")
    return 0


COMMANDS = (
    Command(
        "predict",
        "predict a split or an unlabelled file with a run's selected weights, or others it kept",
        _predict_arguments,
        _predict,
        detail="""\
Reading the test split is recorded in the run directory; choose nothing by it.""",
    ),
    Command("ensemble", "average the logits of several predictions files, joined by id", _ensemble_arguments, _ensemble),
    Command(
        "unlabelled",
        "write the test images of a config as an unlabelled pickle, to practise on",
        _unlabelled_arguments,
        _unlabelled,
    ),
)
