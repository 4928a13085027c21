"""Commands from a run to a net that runs elsewhere: onnx, quantize, bench, export, push."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from cifar_small.cli.command import Command
from cifar_small.cli.options import (
    add_checkpoint,
    add_data_root,
    add_output,
    add_overwrite,
    add_run,
    add_runs,
    print_overflow,
    reserve,
)
from cifar_small.errors import UserError
from cifar_small.wording import plural

if TYPE_CHECKING:
    from cifar_small.export.quantize import Int8Accuracy


def _onnx_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    add_output(parser, "file to write (default: RUN/fp32.onnx)", metavar="FILE")
    add_overwrite(parser)


def _onnx(options: argparse.Namespace) -> int:
    """Write a run's net as an ONNX file that takes images as they are, checked against torch.

    The file runs wherever ONNX does, with a batch of any size; its metadata holds classes, parameters and hashes.
      cifar-small predict RUN --split val --onnx RUN/fp32.onnx    predictions by the file, through the usual path
    Needs the extra `export` (onnx, onnxscript, onnxruntime).
    """
    from cifar_small.export.onnx_export import CHECKED, write_onnx
    from cifar_small.inference.predict import load_net
    from cifar_small.runs.directory import Run

    target = options.output or options.directory / "fp32.onnx"
    net = load_net(Run(options.directory))
    reserve(options.overwrite, target)
    content, difference, largest = write_onnx(net, target)
    print(f"{net.parameters:,} parameters, {len(content) / 1e6:.2f} MB -> {target}")
    print(
        f"input: uint8 images (N, {net.stored}, {net.stored}, 3), RGB, not normalized; output: logits (N, {len(net.classes)})"
    )
    print(f"checked against torch on {CHECKED} synthetic images: logits up to {largest:.1f} differ by at most {difference:.1e}")
    return 0


def _quantize_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    add_output(parser, "file to write (default: RUN/int8.onnx)", metavar="FILE")
    parser.add_argument("--images", type=int, metavar="N", help="training images for calibration (default: 1,000)")
    parser.add_argument(
        "--reduce-range",
        action=argparse.BooleanOptionalAction,
        help="weights of 7 bits, for x86 processors without VNNI (default: where this is one)",
    )
    parser.add_argument(
        "--backend",
        "--engine",
        choices=["onnxruntime", "dynamic"],
        default="onnxruntime",
        help="dynamic: torch's int8 of linear layers, measured but not saved (default: onnxruntime)",
    )
    add_data_root(parser)
    add_overwrite(parser)


def _quantize(options: argparse.Namespace) -> int:
    """Write a run's net in 8-bit integers (ONNX), and say what that costs in accuracy.

    Static quantization by ONNX Runtime: int8 weights with a scale per output channel, uint8 activations with ranges from
    training images without augmentation, never from val or test. The loss in accuracy is measured on val, against fp32.
      cifar-small quantize RUN
      cifar-small predict RUN --split submit --file cifar_test_nolabel.pkl --onnx RUN/int8.onnx
    --backend dynamic measures torch's dynamic quantization of the same net, for comparison; it changes only linear layers
    and leaves every convolution in fp32, so no file is written.
    Needs the extra `export` (onnx, onnxscript, onnxruntime), except for --backend dynamic.
    """
    if options.backend != "onnxruntime" and (options.output or options.overwrite or options.reduce_range is not None):
        raise UserError(f"--backend {options.backend} writes no file; drop --output, --overwrite and --reduce-range")
    measure = {"onnxruntime": _quantize_static, "dynamic": _try_dynamic}[options.backend]
    accuracy = measure(options)
    difference, low, high = (100 * value for value in accuracy.difference)
    print(
        f"val, {accuracy.images:,} images, one view: fp32 {accuracy.fp32:.2%}, int8 {accuracy.int8:.2%}; difference "
        f"{difference:+.2f} points (95 % interval {low:+.2f} to {high:+.2f}); the same class for {accuracy.agreement:.2%}"
    )
    return 0


def _quantize_static(options: argparse.Namespace) -> Int8Accuracy:
    from cifar_small.export.quantize import quantize
    from cifar_small.runs.directory import Run

    target = options.output or options.directory / "int8.onnx"
    result = quantize(
        Run(options.directory),
        target,
        count=options.images,
        reduce_range=options.reduce_range,
        data_root=options.data_root,
        overwrite=options.overwrite,
    )
    facts = result.facts
    print(
        f"ranges from {facts['calibration_images']:,} training images without augmentation; {facts['norms_merged']} of "
        f"{facts['norms']} BatchNorms merged into convolutions"
    )
    print(f"{result.size / 1e6:.2f} MB, fp32 {result.fp32_size / 1e6:.2f} MB -> {target}")
    if facts["reduce_range"]:
        print("weights of 7 bits, so that sums of products do not overflow on x86 without VNNI")
    print_overflow(target, facts)
    return result.accuracy


def _try_dynamic(options: argparse.Namespace) -> Int8Accuracy:
    from cifar_small.export.quantize import try_dynamic
    from cifar_small.runs.directory import Run

    if options.images is not None:
        raise UserError("--images has no effect with --backend dynamic; drop it")
    result = try_dynamic(Run(options.directory), data_root=options.data_root)
    facts = result.facts
    print(
        f"dynamic int8 of {plural(facts['layers'], 'linear layer')}: {100 * facts['weights_share']:.2g} % of the parameters; "
        "every convolution stays in fp32"
    )
    print(f"weights {result.size / 1e6:.2f} MB, fp32 {result.fp32_size / 1e6:.2f} MB")
    return result.accuracy


def _bench_arguments(parser: argparse.ArgumentParser) -> None:
    add_runs(parser)
    parser.add_argument(
        "--int8", type=Path, nargs="+", default=[], metavar="FILE", help="int8 files of these runs (default: made here)"
    )
    parser.add_argument("--threads", type=int, nargs="+", metavar="N", help="CPU threads (default: 1, and all there are)")
    parser.add_argument("--rounds", type=int, default=5, metavar="R", help="measurements, taking turns (default: 5)")
    parser.add_argument("--seconds", type=float, default=0.3, metavar="S", help="of each measurement (default: 0.3)")
    parser.add_argument("--dynamic", action="store_true", help="torch's dynamic int8 of linear layers too, for comparison")
    add_data_root(parser)
    add_output(parser, "write a Markdown table (.md), or every round (.json)", metavar="FILE")
    add_overwrite(parser)


def _bench(options: argparse.Namespace) -> int:
    """Time trained nets on the CPU: torch fp32 and bf16, ONNX fp32 and int8; size and accuracy beside it.

    Measures inference of trained nets. (How fast a config trains is measured by tools/bench of the project.)
      cifar-small bench runs/student-seed0 runs/resnet_hour-seed0 --output speed.md
    Latency at batch 1, throughput at 64 and 512, with one thread and with all, backends taking turns. Accuracies are on val
    with one view, with the paired difference to torch fp32. Int8 nets are made as by cifar-small quantize, or given by --int8.
    bf16 is left out where the processor does not compute in it.
    Needs the extra `export` (onnx, onnxscript, onnxruntime).
    Figures in a .json file can be shown on a page: cifar-small report RUN --bench speed.json
    """
    from cifar_small.environment import usable_cores

    given = tuple(dict.fromkeys(options.threads or (1, usable_cores())))
    if min(given) < 1 or options.rounds < 1 or not 0 < options.seconds <= 3600:
        raise UserError("--threads and --rounds must be whole numbers from 1 up, --seconds a positive number")
    if options.output is not None:
        if options.output.suffix not in (".md", ".json"):
            raise UserError(f"--output {options.output}: expected a name that ends in .md or .json")
        reserve(options.overwrite, options.output)
    from cifar_small.export.latency import Settings, bench_runs
    from cifar_small.runs.directory import Run

    text = bench_runs(
        [Run(folder) for folder in options.directories],
        options.int8,
        Settings(given, options.rounds, options.seconds, options.dynamic),
        data_root=options.data_root,
        output=options.output,
        command=options.command,
    )
    print(text)
    return 0


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    add_output(parser, "folder to write, new or empty", required=True, metavar="FOLDER")
    add_checkpoint(parser)
    add_overwrite(parser, "an earlier export")


def _export(options: argparse.Namespace) -> int:
    """Write a run's weights as safetensors, with config, model card and a program for plain torch.

    The card gives the figures that the run recorded, and says what was not measured. Load the folder in Python with
    cifar_small.export.weights_folder.load_exported. Needs the extra: pip install 'cifar_small[pretrained]'
    """
    from cifar_small.export.weights_folder import CARD, export, files_of_export
    from cifar_small.runs.directory import Run

    net = export(Run(options.directory), options.output, checkpoint=options.checkpoint, overwrite=options.overwrite)
    files = files_of_export(net.config)
    megabytes = sum((options.output / name).stat().st_size for name in files) / 1e6
    print(f"{net.parameters:,} parameters, {net.facts.checkpoint}.pt of epoch {net.facts.epoch}: {', '.join(files)}, "
          f"{megabytes:.1f} MB -> {options.output}")  # fmt: skip
    print(f"read {options.output / CARD} before publishing it: it names commands and hardware, and states no license")
    return 0


def _push_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder written by cifar-small export")
    parser.add_argument("repo", metavar="REPO", help="model repository on the hub, OWNER/NAME; created if it does not exist")
    visibility = parser.add_mutually_exclusive_group()
    visibility.add_argument("--private", action="store_true", help="visible to you and those you invite (default)")
    visibility.add_argument("--public", action="store_true", help="visible to everybody")


def _push(options: argparse.Namespace) -> int:
    """Upload an exported folder to the Hugging Face hub.

    The token is read from the environment variable HF_TOKEN alone. Needs the extra: pip install 'cifar_small[pretrained]'
    """
    from cifar_small.export.hub import push

    print(f"{options.folder} -> {push(options.folder, options.repo, private=not options.public)}")
    return 0


COMMANDS = (
    Command("onnx", _onnx_arguments, _onnx),
    Command("quantize", _quantize_arguments, _quantize),
    Command("bench", _bench_arguments, _bench),
    Command("export", _export_arguments, _export),
    Command("push", _push_arguments, _push),
)
