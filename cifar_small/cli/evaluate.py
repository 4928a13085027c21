"""Commands that evaluate predictions: evaluate, tta, uncertainty."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from cifar_small.cli.command import Command
from cifar_small.cli.options import (
    add_data_root,
    add_device,
    add_output,
    add_overwrite,
    add_run,
    load_onnx_form,
    print_note,
    reserve,
)
from cifar_small.errors import UserError

if TYPE_CHECKING:
    from cifar_small.data import Images
    from cifar_small.evaluation.uncertainty import Uncertainty
    from cifar_small.inference.predict import Net


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("predictions", type=Path, metavar="PREDICTIONS", help="a predictions file of val or test")
    parser.add_argument(
        "--temperature-from", type=Path, metavar="VAL_PREDICTIONS", help="the same run's predictions of val, to fit on"
    )
    add_output(parser, "folder to write (default: <PREDICTIONS without .npz>_evaluation)")
    add_data_root(parser, ", for the pictures of mistakes")
    add_overwrite(parser, "an existing evaluation")


def _evaluate(options: argparse.Namespace) -> int:
    """Score predictions of val or test: accuracy, classes, confusions, calibration, mistakes.

    Tables on the terminal; JSON, CSV and pictures in a folder. A temperature is fitted on val alone:
      cifar-small evaluate RUN/predictions/test.npz --temperature-from RUN/predictions/val.npz
    """
    from cifar_small.evaluation.evaluate import evaluate
    from cifar_small.inference.predict import images_or_note
    from cifar_small.reporting.evaluation_files import FILES, describe_evaluation, write_evaluation
    from cifar_small.runs.predictions import load_predictions

    folder = options.output or options.predictions.with_name(f"{options.predictions.stem}_evaluation")
    reserve(options.overwrite, *(folder / name for name in FILES))
    predictions = load_predictions(options.predictions)
    evaluation = evaluate(predictions, load_predictions(options.temperature_from) if options.temperature_from else None)
    print(describe_evaluation(evaluation))
    if evaluation.scaling is None:
        print("\n(add --temperature-from the same run's predictions of val to see calibration after temperature scaling)")
    images = images_or_note(predictions, options.data_root, print_note) if evaluation.mistakes else None
    _say_written(write_evaluation(evaluation, folder, images), folder)
    return 0


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    add_data_root(parser)
    add_device(parser)
    add_overwrite(parser, "an existing result")


def _load(folder: Path, data_root: str | None, device: str | None) -> tuple[Net, Images]:
    """A run's net and its images of val."""
    from cifar_small.inference.predict import load_net, load_own_splits, relocate_net
    from cifar_small.runs.directory import Run

    net = relocate_net(load_net(Run(folder)), device, data_root)
    return net, load_own_splits(net)[1]


def _tta_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    add_output(parser, "JSON to write (default: RUN/tta.json)")
    parser.add_argument("--onnx", type=Path, metavar="FILE", help="also with this ONNX file of the run (see onnx, quantize)")
    _run_arguments(parser)


def _tta(options: argparse.Namespace) -> int:
    """Compare all choices of views on val: accuracy, cost, paired tests, learned weights.

    Every distinct view is forwarded once. With an ONNX file, of int8 say, its choices too, each against the same set by the
    weights: what views cost and lose there. The test split is never read.
    """
    from cifar_small.evaluation.tta_ablation import ablate, plain_ablation
    from cifar_small.files import write_json
    from cifar_small.reporting.evaluation_files import describe_ablation

    target = options.output or options.directory / "tta.json"
    reserve(options.overwrite, target)
    net, val = _load(options.directory, options.data_root, options.device)
    form = None
    if options.onnx is not None:
        from cifar_small.runs.directory import Run

        form = load_onnx_form(Run(options.directory), options.onnx)
    ablation = ablate(net, val, form=form, progress=True)
    write_json(target, {"run": options.directory.name, **plain_ablation(ablation)})
    print(describe_ablation(ablation))
    file = "" if form is None else " --onnx FILE"
    print(f"-> {target}; choose by val, then: cifar-small predict RUN --split SPLIT --views SET{file}")
    return 0


def _uncertainty_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sources",
        type=Path,
        nargs="+",
        metavar="RUN_OR_PREDICTIONS",
        help="a run directory, or two or more predictions files",
    )
    add_output(parser, "folder to write (default for a run: RUN/uncertainty)")
    parser.add_argument("--passes", type=int, metavar="T", help="predictions per image with dropout on (default: 20)")
    parser.add_argument("--seed", type=int, help="seed of the dropout masks (default: 0)")
    parser.add_argument("--dropout", type=float, metavar="P", help="dropout probability (default: as in training)")
    _run_arguments(parser)


def _uncertainty(options: argparse.Namespace) -> int:
    """Monte-Carlo dropout of a run, or the disagreement of several predictions files.

    Predictive entropy, expected entropy and mutual information of each image, and accuracy against coverage:
      cifar-small uncertainty RUN --passes 50                                  one net's dropout, on val
      cifar-small uncertainty A.npz B.npz C.npz --output runs/uncertainty_abc  an ensemble, of any split
    """
    from cifar_small.evaluation.uncertainty import ensemble_uncertainty, selective
    from cifar_small.reporting.uncertainty_files import FILES, describe_uncertainty, write_uncertainty
    from cifar_small.runs.predictions import load_predictions

    folder = options.output or options.sources[0] / "uncertainty"
    if _is_run(options):
        reserve(options.overwrite, *(folder / name for name in FILES))
        uncertainty = _monte_carlo(options)
    else:
        uncertainty = ensemble_uncertainty([load_predictions(path) for path in options.sources])
        reserve(options.overwrite, *(folder / name for name in FILES))
    found = None if uncertainty.labels is None else selective(uncertainty)
    print(describe_uncertainty(uncertainty, found))
    _say_written(write_uncertainty(uncertainty, found, folder), folder)
    return 0


def _monte_carlo(options: argparse.Namespace) -> Uncertainty:
    from cifar_small.evaluation.uncertainty import monte_carlo, trained_dropout

    net, val = _load(options.sources[0], options.data_root, options.device)
    trained, passes = trained_dropout(net), 20 if options.passes is None else options.passes
    if options.dropout not in (None, trained):
        print_note(f"the weights were trained with dropout {trained:g}, not {options.dropout:g}")
    return monte_carlo(net, val, passes=passes, seed=options.seed or 0, dropout=options.dropout, progress=True)


def _is_run(options: argparse.Namespace) -> bool:
    """True for a run directory, False for predictions files. Raises UserError for options that do not fit."""
    sources = options.sources
    folders = [path for path in sources if path.is_dir()]
    if folders and len(sources) > 1:
        raise UserError(
            f"{folders[0]} is a folder; expected one run directory alone, or predictions files such as "
            f"{folders[0] / 'predictions' / 'val.npz'}"
        )
    if folders:
        if options.passes is not None and options.passes < 2:
            raise UserError(f"--passes {options.passes}: expected 2 or more, since disagreement needs two predictions")
        if options.seed is not None and options.seed < 0:
            raise UserError(f"--seed {options.seed}: expected 0 or more")
        if options.dropout is not None and not 0 < options.dropout < 1:
            raise UserError(f"--dropout {options.dropout:g}: expected a probability between 0 and 1, neither included")
        return True
    only_runs = ("passes", "seed", "dropout", "data_root", "device")
    if unused := [f"--{name.replace('_', '-')}" for name in only_runs if getattr(options, name) is not None]:
        raise UserError(f"{', '.join(unused)} has no effect on predictions files, only on a run directory; drop it")
    if options.output is None and len(sources) > 1:
        raise UserError("several predictions files need a folder to write to; add --output")
    return False


def _say_written(paths: list[Path], folder: Path) -> None:
    print(f"-> {folder}: {', '.join(path.name for path in paths)}")


COMMANDS = (
    Command("evaluate", _evaluate_arguments, _evaluate),
    Command("tta", _tta_arguments, _tta),
    Command("uncertainty", _uncertainty_arguments, _uncertainty),
)
