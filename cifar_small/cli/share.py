"""Commands that hand a trained net on: export, push."""

from __future__ import annotations

import argparse
from pathlib import Path

from cifar_small.cli.command import Command


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, metavar="RUN", help="run directory")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="folder to write, new or empty")
    parser.add_argument(
        "--checkpoint",
        default="best",
        metavar="NAME",
        help="best, final, epoch-0010 ... (default: best)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export")


def _export(options: argparse.Namespace) -> int:
    from cifar_small.export.weights_folder import CARD, FILES, export
    from cifar_small.runs.directory import Run

    net = export(Run(options.directory), options.output, checkpoint=options.checkpoint, overwrite=options.overwrite)
    megabytes = sum((options.output / name).stat().st_size for name in FILES) / 1e6
    print(f"{net.parameters:,} parameters, {net.facts['checkpoint']}.pt of epoch {net.facts['epoch']}: {', '.join(FILES)}, "
          f"{megabytes:.1f} MB -> {options.output}")  # fmt: skip
    print(f"read {options.output / CARD} before you hand it on: it names commands and hardware, and states no licence")
    return 0


def _push_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder written by cifar-small export")
    parser.add_argument("repo", metavar="REPO", help="model repository of the hub: OWNER/NAME; made if it is not there")
    visibility = parser.add_mutually_exclusive_group()
    visibility.add_argument("--private", action="store_true", help="for yourself and whom you let in (default)")
    visibility.add_argument("--public", action="store_true", help="for everybody")


def _push(options: argparse.Namespace) -> int:
    from cifar_small.export.hub import push

    print(f"{options.folder} -> {push(options.folder, options.repo, private=not options.public)}")
    return 0


COMMANDS = (
    Command(
        "export",
        "write a run's weights as safetensors, with config, model card and a program for plain torch",
        _export_arguments,
        _export,
        detail="""\
The card's figures are those the run recorded; what was not measured is said to be so. Load the folder again by
cifar_small.export.weights_folder.load_exported. Needs the extra: pip install -e '.[pretrained]'""",
    ),
    Command(
        "push",
        "upload an exported folder to the Hugging Face hub",
        _push_arguments,
        _push,
        detail="""\
The token is read from the environment variable HF_TOKEN alone. Needs the extra: pip install -e '.[pretrained]'""",
    ),
)
