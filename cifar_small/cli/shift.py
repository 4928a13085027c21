"""Commands about images of other sources: shift (labelled stand-ins)."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifar_small.cli.command import Command
from cifar_small.cli.options import (
    add_data_root,
    add_device,
    add_output,
    add_overwrite,
    add_runs,
    load_onnx_form,
    reserve,
    views_given,
)
from cifar_small.errors import UserError
from cifar_small.wording import plural

if TYPE_CHECKING:
    from cifar_small.evaluation.shift import ShiftSet
    from cifar_small.inference.predict import Net
    from cifar_small.runs.directory import Run


def _shift_arguments(parser: argparse.ArgumentParser) -> None:
    add_runs(parser, "run directories; those of one config are seeds of one recipe")
    parser.add_argument("--split", choices=["val", "test"], default="val", help="images to shift (default: val)")
    parser.add_argument("--kinds", nargs="+", metavar="KIND", help="kinds of shift (default: all; a wrong name lists them)")
    parser.add_argument("--severities", nargs="+", type=int, metavar="N", help="severities, 1 to 5 (default: all)")
    parser.add_argument("--images", type=int, metavar="N", help="a stratified part of the images (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers in shifts (default: 0)")
    parser.add_argument("--official", type=Path, metavar="FOLDER", help="CIFAR-10-C, unpacked, in place of the kinds it has")
    parser.add_argument(
        "--pair",
        nargs="+",
        default=[],
        metavar="NAME=FILES",
        help="labelled sets such as CIFAR-10.1, as NAME=IMAGES.npy,LABELS.npy, or 10.2, as NAME=FILE.npz",
    )
    parser.add_argument(
        "--views", type=views_given, help="test-time augmentation (default: as the config says; none is the fastest)"
    )
    parser.add_argument(
        "--precision", choices=["fp32", "bf16", "int8"], help="int8: RUN/int8.onnx of quantize (default: as the config says)"
    )
    add_output(parser, "folder for predictions, table and picture (default: runs/shift)", Path("runs/shift"))
    parser.add_argument("--cache", type=Path, metavar="FOLDER", help="where shifted images are kept (default: OUTPUT/sets)")
    add_data_root(parser)
    add_device(parser)
    add_overwrite(parser, "predictions of other weights, views or images")


def _shift(options: argparse.Namespace) -> int:
    """Measure runs on labelled stand-ins for other sources: corruptions, JPEG, resampling, color casts, crops.

    The images are made from val (or test, which each run's record then says), the same for the same seed, and kept; a command
    that stopped goes on where it was. Writes accuracies by kind and severity, the mean corruption error, paired tests of the
    recipes against the first, and a picture.
      cifar-small shift runs/a-seed0 runs/b-seed0                          all kinds at all severities, on val
      cifar-small shift runs/a-seed0 --kinds fog jpeg_420 --severities 1 5 --images 1000
      cifar-small shift runs/a-seed? --split test --official CIFAR-10-C --pair v6=data.npy,labels.npy
    """
    from cifar_small.evaluation.shift import predict_shifts
    from cifar_small.reporting.shift_files import describe_matrix, write_matrix
    from cifar_small.runs.directory import Run

    reserve(True, options.output / "matrix.csv")
    runs = [(run := Run(folder), _net(run, options)) for folder in options.directories]
    sets = _sets(runs, options)
    print(f"{plural(len(sets), 'set')} of images, {plural(len(runs), 'run')}")
    precision = None if options.precision == "int8" else options.precision
    matrix = predict_shifts(
        runs,
        sets,
        options.output,
        views=options.views,
        precision=precision,
        command=options.command,
        overwrite=options.overwrite,
    )
    print(describe_matrix(matrix))
    for path in write_matrix(matrix, options.output):
        print(f"-> {path}")
    return 0


def _net(run: Run, options: argparse.Namespace) -> Net:
    from cifar_small.inference.predict import load_net, relocate_net

    if options.precision == "int8":
        return relocate_net(load_onnx_form(run, run.folder / "int8.onnx"), None, options.data_root)
    return relocate_net(load_net(run), options.device, options.data_root)


def _sets(runs: list[tuple[Any, Net]], options: argparse.Namespace) -> list[ShiftSet]:
    from cifar_small.evaluation.shift import check_pair, load_base, made_sets, official_sets, pair_set

    nets = [net for _, net in runs]
    classes = nets[0].classes
    if options.official and options.split != "test":
        raise UserError("CIFAR-10-C is made from CIFAR-10's test images; add --split test, so that the runs' records say so")
    sets = made_sets(
        load_base(nets, options.split, options.images),
        options.split,
        options.kinds,
        options.severities,
        options.seed,
        options.cache or options.output / "sets",
    )
    asked = (options.severities, options.kinds, options.images)
    official = official_sets(options.official, classes, *asked) if options.official else []
    there = {one.facts.kind for one in official}
    pairs = [pair_set(argument, classes) for argument in options.pair]
    names = [one.facts.kind for one in pairs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"two sets are called {twice[0]}; give one another name")
    trained = {net.facts.data.trained_on: net for net in nets}  # on a part of the images, or with another val, they differ
    for one in pairs:
        for net in trained.values():
            check_pair(net, one, options.split)
    return [*(one for one in sets if one.facts.kind not in there), *official, *pairs]


COMMANDS = (Command("shift", _shift_arguments, _shift),)
