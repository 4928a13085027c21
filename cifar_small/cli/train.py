"""Commands up to a trained run: demo, train, slurm, preview, schedule, sweep."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from cifar_small.cli.command import Command
from cifar_small.cli.options import (
    add_config_anyhow,
    add_config_with_overrides,
    add_output,
    add_overwrite,
    config_given,
    load_config_of,
    place_of_config,
    print_note,
    reserve,
)
from cifar_small.errors import UserError
from cifar_small.wording import plural

if TYPE_CHECKING:
    from cifar_small.config.schema import Config


def _add_epochs(parser: argparse.ArgumentParser) -> None:
    text = "train N epochs in all: phases, warm-up, milestones, patience scale in proportion (default: as the config says)"
    parser.add_argument("--epochs", type=int, metavar="N", help=text)


def _load_config(options: argparse.Namespace, *, trusted: bool = True) -> Config:
    """The config that a command was given, with or without --config, with the overrides and epochs of its command line."""
    config = load_config_of(options, trusted=trusted)
    if options.epochs is None:
        return config
    from cifar_small.config.shortening import with_epochs

    scaled, changes = with_epochs(config, options.epochs)
    print(f"{config.epochs} -> {scaled.epochs} epochs: {'; '.join(changes) or 'as they are'}", file=sys.stderr)
    return scaled


def _demo_arguments(parser: argparse.ArgumentParser) -> None:
    add_output(parser, "folder to write (default: demo)", Path("demo"))


def _demo(options: argparse.Namespace) -> int:
    """Show every step on the digits of scikit-learn: no data, no network, no GPU, half a minute."""
    from cifar_small.cli.demo import run_demo

    run_demo(options.output, options.command)
    return 0


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_with_overrides(parser)
    add_output(parser, "run directory (default: runs/<name>-seed<seed>)")
    text = "continue the run in the run directory, if there is one; --resume RUN needs no config: the run has its own"
    parser.add_argument("--resume", type=Path, nargs="?", const=True, default=False, metavar="RUN", help=text)
    _add_epochs(parser)
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--print-config", "--print_config", action="store_true", help="print the resolved config and stop")
    shown.add_argument(
        "--dry-run",
        action="store_true",
        help="print size, steps, work, memory on a GPU and each phase, and stop",
    )
    shown.add_argument(
        "--smoke", action="store_true", help="try every phase on two small batches, in seconds; keeps nothing without --output"
    )


def _config_and_folder(options: argparse.Namespace) -> tuple[Config, Path]:
    """What to train and where to."""
    from cifar_small.runs.directory import Run

    if isinstance(options.resume, Path) and options.resume.is_file():  # train --resume CONFIG
        options.overrides, options.resume = [str(options.resume), *options.overrides], True
    trusted = True
    if isinstance(options.resume, Path):
        if options.output not in (None, options.resume):
            raise UserError(f"--resume {options.resume} and --output {options.output} are two run directories; drop --output")
        if options.config is None and place_of_config(options.overrides) is None:
            options.config = Run(options.resume).require().config_file
            trusted = False  # the run may be somebody else's; code of one's own runs is known by its hash
        options.output = options.resume
    config = _load_config(options, trusted=trusted)
    return config, options.output or Path("runs") / f"{config.name}-seed{config.seed}"


def _train(options: argparse.Namespace) -> int:
    """Train a config into a run directory.

    Any setting of the config can be overridden by its dotted name:
      cifar-small train --config configs/resnet_hour.yaml --seed 1 --optim.lr 0.2 --phases.0.epochs 5
    Before hours of work, see what they would be:
      cifar-small train --config configs/resnet_5m.yaml --dry-run
      cifar-small train --config configs/resnet_5m.yaml --smoke         does all of it work?
      cifar-small train --config configs/resnet_5m.yaml --epochs 30     the same recipe at a tenth of its length
    A killed run continues with --resume, to the same weights bit for bit:
      cifar-small train --resume runs/resnet_hour-seed0
    Several processes (GPUs, or CPUs) can share a run:
      torchrun --nproc-per-node 4 -m cifar_small train --config configs/resnet_hour.yaml
    """
    from cifar_small.config.hashing import dump_config

    config, folder = _config_and_folder(options)
    if options.print_config:
        print(dump_config(config), end="")
        return 0
    if options.dry_run:
        from cifar_small.reporting.dry_run import describe_run

        print(describe_run(config))
        return 0
    if options.smoke:
        return _smoke(config, options)
    from cifar_small.runs.directory import Run
    from cifar_small.training.train import train

    if options.resume and not Run(folder).begun and os.environ.get("RANK", "0") == "0":
        print_note(f"{folder} holds nothing to resume; training starts from the beginning")
    train(config, folder, resume=bool(options.resume), command=options.command)
    return 0


def _smoke(config: Config, options: argparse.Namespace) -> int:
    from cifar_small.config.shortening import smoke_config
    from cifar_small.training.train import train

    if options.resume:
        raise UserError("--resume has no effect with --smoke, which starts anew; drop it")
    if options.output is None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("--smoke of several processes needs a run directory that all of them see; name one with --output")
    short = smoke_config(config)
    with TemporaryDirectory(prefix="cifar-small-") as scratch:
        train(short, options.output or Path(scratch) / short.name, command=options.command)
    print(
        f"{config.name}: everything ran, {plural(len(config.phases), 'phase')} of two small batches; the figures mean nothing"
    )
    return 0


def _slurm_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_with_overrides(parser)
    add_output(parser, "run directory on the shared file system (default: runs/<name>-seed<seed>)")
    _add_epochs(parser)
    parser.add_argument("--nodes", type=int, default=1, help="machines (default: 1)")
    parser.add_argument("--processes-per-node", type=int, default=1, help="ranks, and GPUs, of each machine (default: 1)")
    parser.add_argument("--cpus", type=int, default=4, help="processor cores for each rank (default: 4)")
    parser.add_argument("--cpu-only", action="store_true", help="ask for no GPUs; so does --engine.device cpu")
    parser.add_argument("--hours", type=float, default=1.0, help="time limit (default: 1)")


def _slurm(options: argparse.Namespace) -> int:
    """Print the SLURM batch file of a training over several processes or machines.

    Edit the file as your cluster needs:
      cifar-small slurm --config configs/resnet_hour.yaml --nodes 2 --processes-per-node 4 > run.sbatch && sbatch run.sbatch
    """
    from cifar_small.sweep.slurm import batch_file
    from cifar_small.training.distributed import refuse_one_gpu, share_batch

    config = _load_config(options)
    ranks = options.nodes * options.processes_per_node
    # Refused now rather than after a night in the queue.
    share_batch(config.batch_size, config.engine.micro_batch_size, ranks, synced=config.engine.sync_batchnorm)
    refuse_one_gpu(config.engine.device, ranks)
    arguments = ["--config", str(options.config), *(["--output", str(options.output)] if options.output else [])]
    arguments += ["--epochs", str(options.epochs)] if options.epochs is not None else []
    text = batch_file(
        config.name,
        [*arguments, *options.overrides],
        nodes=options.nodes,
        processes=options.processes_per_node,
        gpus=not options.cpu_only and config.engine.device != "cpu",
        hours=options.hours,
        cpus=options.cpus,
    )
    print(text, end="")
    return 0


def _preview_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_with_overrides(parser)
    _add_epochs(parser)
    parser.add_argument(
        "--epoch", type=int, metavar="E", help="start at this epoch and draw only its phase (default: every phase)"
    )
    parser.add_argument("--images", type=int, metavar="N", help="rows (default: one a class, 8 to 20)")
    parser.add_argument("--columns", type=int, default=4, metavar="N", help="epochs of each phase (default: 4)")
    add_output(parser, "PNG to write (default: <name>-preview.png)")
    add_overwrite(parser)


def _preview(options: argparse.Namespace) -> int:
    """Draw training images as each phase of a config augments and mixes them.

    Uses the random draws of a training run; a row per image.
    """

    config = _load_config(options)
    target = options.output or Path(f"{config.name}-preview.png")
    reserve(options.overwrite, target)
    from cifar_small.reporting.preview import draw_preview

    print(draw_preview(config, target, epoch=options.epoch, images=options.images, columns=options.columns))
    return 0


def _schedule_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_with_overrides(parser)
    _add_epochs(parser)
    parser.add_argument("--steps-per-epoch", type=int, metavar="N", help="needed if the size of the data source is unknown")
    add_output(parser, "PNG to write (default: <name>-schedule.png)")
    add_overwrite(parser)


def _schedule(options: argparse.Namespace) -> int:
    """Draw the learning rate of every step and the settings of every phase of a config.

    Reads no data.
    """
    from cifar_small.reporting.timeline import draw_config, steps_per_epoch

    config = _load_config(options)
    if options.steps_per_epoch is not None and options.steps_per_epoch < 1:
        raise UserError(f"--steps-per-epoch {options.steps_per_epoch} is below 1; expected training images / batch_size")
    target = options.output or Path(f"{config.name}-schedule.png")
    reserve(options.overwrite, target)
    print(draw_config(config, options.steps_per_epoch or steps_per_epoch(config), target))
    print(f"-> {target}")
    return 0


def _sweep_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_anyhow(parser, "YAML file, or a name such as sweeps/ablation_augment", "SWEEP")
    add_output(parser, "folder of the sweep (default: runs/<name>)")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--list", action="store_true", help="print the cells with their parameters and states and stop")
    mode.add_argument("--table", action="store_true", help="write table and picture of the finished runs and stop")
    mode.add_argument("--against", type=Path, metavar="FULL", help="say whether this cheap sweep ranks its cells as FULL does")
    mode.add_argument("--submit", choices=["slurm", "local"], help="send workers as jobs through submitit")
    mode.add_argument("--retry-failed", action="store_true", help="resume the runs that failed")
    parser.add_argument("--jobs", type=int, metavar="N", help="workers to send (with --submit)")
    parser.add_argument(
        "--slurm",
        nargs="+",
        metavar="KEY=VALUE",
        help="settings of the jobs, such as partition=gpu time=600 (minutes) gpus_per_node=1",
    )


def _sweep(options: argparse.Namespace) -> int:
    """Train every cell of a sweep with every seed, and say which is best on val.

    A sweep file names a base config, what varies, and the seeds, and may stop poor trials early (prune); docs/sweeps.md has
    its keys, and cifar-small configs sweeps copies some:
      cifar-small sweep configs/sweeps/ablation_augment.yaml --list   cells, parameters, states; trains nothing
      cifar-small sweep configs/sweeps/ablation_augment.yaml          train all open runs, then write table and picture
    Start it any number of times, on all machines that share the folder: each run is trained once, killed runs are resumed,
    finished ones kept. Or send workers: --submit local --jobs 2, --submit slurm --jobs 8 --slurm partition=gpu time=600.
    A cheap proxy (fewer epochs, half the width) serves a search only if it ranks settings as the full recipe does: train a few
    of them in both, and ask: cifar-small sweep proxy.yaml --against full.yaml
    Cells over the parameter budget are refused before anything trains. The test split is never read.
    """
    options.file = config_given(options)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("a sweep trains one run per worker, not one run on several processes; start it without torchrun")
    if options.submit is None and (options.jobs is not None or options.slurm):
        raise UserError("--jobs and --slurm have no effect without --submit; add --submit slurm or --submit local")
    if options.submit:
        from cifar_small.sweep.cluster import parse_settings, submit_workers

        if options.jobs is None or options.jobs < 1:
            raise UserError(f"--submit needs --jobs N, a number of workers from 1 up; got {options.jobs}")
        if options.slurm and options.submit != "slurm":
            raise UserError("--slurm has no effect with --submit local; drop it")
        settings = parse_settings(options.slurm or [])
        code = submit_workers(
            options.file, options.output, cluster=options.submit, jobs=options.jobs, settings=settings, command=options.command
        )
        if options.submit == "slurm":
            same = f"cifar-small sweep {options.file}" + (f" --output {options.output}" if options.output else "")
            print(f"progress: {same} --list; the table so far: {same} --table")
        return code
    from cifar_small.sweep.run import compare_ranks, finish, prepare, run_sweep, show

    if options.list:
        print(show(options.file, options.output))
        return 0
    if options.table:
        return finish(*prepare(options.file, options.output))
    if options.against:
        print(compare_ranks(options.file, options.against, options.output))
        return 0
    return run_sweep(options.file, options.output, command=options.command, retry_failed=options.retry_failed)


COMMANDS = (
    Command("demo", _demo_arguments, _demo),
    Command("train", _train_arguments, _train, overrides=True),
    Command("slurm", _slurm_arguments, _slurm, overrides=True),
    Command("preview", _preview_arguments, _preview, overrides=True),
    Command("schedule", _schedule_arguments, _schedule, overrides=True),
    Command("sweep", _sweep_arguments, _sweep),
)
