"""Commands from a run to predictions files: predict, unlabelled."""

from __future__ import annotations

import argparse
from pathlib import Path

from cifar_small.cli.command import Command
from cifar_small.cli.options import (
    add_allow_rows,
    add_checkpoint,
    add_config_anyhow,
    add_data_root,
    add_device,
    add_file,
    add_layout,
    add_output,
    add_overwrite,
    add_run,
    config_given,
    load_onnx_form,
    print_note,
    reserve,
    views_given,
)
from cifar_small.config.schema import VIEW_SETS
from cifar_small.errors import UserError
from cifar_small.wording import plural


def _predict_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument(
        "--split",
        choices=["train", "val", "test", "submit"],
        required=True,
        help="part of the run's data; submit: the unlabelled --file; test is recorded in the run",
    )
    add_file(parser, "the unlabelled file (--split submit): pickle, .npz, .npy, .mat, .parquet, .bin, or folder of pictures")
    add_checkpoint(parser)
    parser.add_argument(
        "--views",
        type=views_given,
        metavar="SET",
        help=f"test-time augmentation: {', '.join(VIEW_SETS)}; flip_shift@0.25: the whole set for the least certain quarter "
        "of the images alone (default: as the config says)",
    )
    add_output(parser, "predictions file (default: RUN/predictions/<split>.npz)")
    add_allow_rows(parser)
    add_layout(parser)
    add_data_root(parser)
    parser.add_argument("--onnx", type=Path, metavar="FILE", help="predict with this ONNX file of the run (see onnx, quantize)")
    add_device(parser)
    add_overwrite(parser)


def _predict(options: argparse.Namespace) -> int:
    """Predict a split or an unlabelled file with a run's selected weights, or others it kept.

    Every evaluation on test is recorded in the run directory; do not make choices by it.
      cifar-small predict runs/resnet_hour-seed0 --split submit --file cifar_test_nolabel.pkl
      cifar-small predict runs/resnet_hour-seed0 --split val --views none   -> runs/resnet_hour-seed0/predictions/val_none.npz
      cifar-small predict runs/resnet_hour-seed0 --split test               the accuracy to report, once
    """
    from cifar_small.inference.predict import predict
    from cifar_small.runs.directory import Run

    run, net = Run(options.directory), None
    if options.onnx is not None:
        if options.device not in (None, "cpu"):
            raise UserError(f"--device {options.device} has no effect with --onnx, which runs on the CPU; drop one of them")
        net = load_onnx_form(run, options.onnx, options.checkpoint)
    target, predictions, notes = predict(
        run,
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
        net=net,
        command=options.command,
    )
    for note in notes:
        print_note(note)
    if predictions.labels is not None:
        low, high = predictions.interval
        interval = f"95 % interval {low:.2%} to {high:.2%}"
        print(f"{options.split} accuracy {predictions.accuracy:.2%} of {len(predictions.ids):,} images, {interval}")
    weights = "" if options.checkpoint == "best" else f"weights {options.checkpoint}, "
    print(f"{plural(len(predictions.ids), 'image')}, {weights}views {predictions.meta.views} -> {target}")
    return 0


def _unlabelled_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_anyhow(parser, "config whose test images are taken; also with --config")
    add_output(parser, "pickle to write, in the competition's format", required=True)
    add_overwrite(parser)


def _unlabelled(options: argparse.Namespace) -> int:
    """Write the test images of a config as an unlabelled pickle, to practice with.

    For a rehearsal of the competition with images whose labels are known afterwards:
      cifar-small unlabelled --config configs/resnet_hour.yaml --output practice.pkl
      cifar-small predict runs/resnet_hour-seed0 --split submit --file practice.pkl
    """
    from cifar_small.config.loading import load_config
    from cifar_small.data import load_test, write_unlabelled
    from cifar_small.data.images import SIDE

    config_name = config_given(options)
    reserve(options.overwrite, options.output)
    config = load_config(config_name)
    images = load_test(config.data, config.read_at, enlarge=False)
    if images.side != SIDE:
        raise UserError(
            f"the test pictures of {images.source} are read at {images.side}x{images.side}, and the competition's pickle holds "
            f"{SIDE}x{SIDE}; rehearse with a folder of pictures named by number, such as 0.png, as predict --file"
        )
    write_unlabelled(options.output, images.images, images.ids)
    print(f"{len(images):,} images of {images.source}, without labels -> {options.output}")
    return 0


COMMANDS = (
    Command("predict", _predict_arguments, _predict),
    Command("unlabelled", _unlabelled_arguments, _unlabelled),
)
