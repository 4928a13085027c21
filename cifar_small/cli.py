"""The command line: where and which, never what. Every verb is a thin call into the module that does the work."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from cifar_small import __version__
from cifar_small.errors import DataError, UserError
from cifar_small.exits import exit_code
from cifar_small.files import probe_writable, refuse_existing, write_atomic
from cifar_small.schema import Views

DESCRIPTION = """\
Train, predict and submit small image classifiers under a parameter budget.

The usual way, each step a file the next one reads:
  tools/param_count configs/resnet_hour.yaml            is it legal? (before training)
  cifar-small train --config configs/resnet_hour.yaml   -> runs/resnet_hour-seed0/
  cifar-small predict runs/resnet_hour-seed0 --split submit --file cifar_test_nolabel.pkl
  cifar-small submit runs/resnet_hour-seed0/predictions/submit.npz --output submissions/mine/submission.csv
  cifar-small check submissions/mine/submission.csv --file cifar_test_nolabel.pkl
"""
EXIT_CODES = """\
exit codes: 0 done; 1 a check found faults; 2 usage, config or budget; 3 data; 4 checkpoint or run directory;
5 training diverged; 143 stopped by SIGINT or SIGTERM and saved"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; a user's error is one line on stderr."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    options, rest = parser.parse_known_args(given)
    options.overrides = rest
    if rest and options.run not in (_train, _slurm, _preview, _schedule):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.command = shlex.join(["cifar-small", *given])
    return exit_code("cifar-small", lambda: int(options.run(options)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cifar-small", description=DESCRIPTION, epilog=EXIT_CODES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"cifar-small {__version__}")
    verbs = parser.add_subparsers(metavar="COMMAND", required=True)

    def verb(name: str, run: Any, summary: str, detail: str = "") -> argparse.ArgumentParser:
        sub = verbs.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.\n\n{detail}".rstrip(),
            epilog=EXIT_CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        sub.set_defaults(run=run)
        return sub

    sub = verb("demo", _demo, "the whole way on digits that come with scikit-learn: no data, no network, no GPU, two minutes")
    sub.add_argument("--output", type=Path, default=Path("demo"), help="folder for everything it writes (default: demo)")
    sub = verb(
        "train",
        _train,
        "train a config into a run directory",
        """\
Any setting of the config can be overridden by its dotted name:
  cifar-small train --config configs/resnet_hour.yaml --seed 1 --optim.lr 0.2 --phases.0.epochs 5
A run that was killed goes on with --resume, to the same weights bit for bit. Several processes (GPUs, or CPUs) share one run:
  .venv/bin/torchrun --nproc-per-node 4 -m cifar_small train --config configs/resnet_hour.yaml""",
    )
    sub.add_argument("--config", type=Path, required=True, help="YAML file; see configs/")
    sub.add_argument("--output", type=Path, help="run directory (default: runs/<name>-seed<seed>)")
    sub.add_argument("--resume", action="store_true", help="go on where the run directory stopped; start it if it is empty")
    sub.add_argument("--print_config", action="store_true", help="print the resolved config and stop")
    sub = verb(
        "slurm",
        _slurm,
        "print the SLURM batch file of a training over several processes or machines",
        """\
Settings are overridden as in train; what is printed is yours to change:
  cifar-small slurm --config configs/resnet_hour.yaml --nodes 2 --processes-per-node 4 > run.sbatch && sbatch run.sbatch""",
    )
    sub.add_argument("--config", type=Path, required=True, help="YAML file; see configs/")
    sub.add_argument("--output", type=Path, help="run directory on the shared file system (default: runs/<name>-seed<seed>)")
    sub.add_argument("--nodes", type=int, default=1, help="machines (default: 1)")
    sub.add_argument("--processes-per-node", type=int, default=1, help="ranks, and GPUs, of each machine (default: 1)")
    sub.add_argument("--cpus", type=int, default=4, help="processor cores for each rank (default: 4)")
    sub.add_argument("--cpu-only", action="store_true", help="ask for no GPUs")
    sub.add_argument("--hours", type=float, default=1.0, help="time limit (default: 1)")
    sub = verb(
        "preview",
        _preview,
        "draw training images as each phase of a config augments and mixes them",
        """\
The very draws of a training run, a row per image. Settings are overridden as for train, after CONFIG.""",
    )
    sub.add_argument("config", type=Path, metavar="CONFIG")
    sub.add_argument("--epoch", type=int, metavar="E", help="only the phase of this epoch, from it on (default: every phase)")
    sub.add_argument("--images", type=int, default=8, metavar="N", help="rows (default: 8)")
    sub.add_argument("--columns", type=int, default=4, metavar="N", help="epochs of each phase (default: 4)")
    sub.add_argument("--output", type=Path, help="PNG to write (default: <name>-preview.png)")
    sub.add_argument("--overwrite", action="store_true", help="replace an existing file")
    sub = verb(
        "schedule",
        _schedule,
        "draw the learning rate of every step and the settings of every phase of a config",
        """\
Reads no data. Settings are overridden as for train, after CONFIG.""",
    )
    sub.add_argument("config", type=Path, metavar="CONFIG")
    sub.add_argument("--steps-per-epoch", type=int, metavar="N", help="needed where the source's size is not known")
    sub.add_argument("--output", type=Path, help="PNG to write (default: <name>-schedule.png)")
    sub.add_argument("--overwrite", action="store_true", help="replace an existing file")
    sub = verb(
        "predict",
        _predict,
        "predict a split or an unlabelled file with a run's selected weights",
        """\
Reading the test split is recorded in the run directory; choose nothing by it.""",
    )
    sub.add_argument("directory", type=Path, metavar="RUN", help="run directory")
    sub.add_argument("--split", choices=["val", "test", "submit"], required=True)
    sub.add_argument(
        "--file", type=Path, help="the unlabelled file (--split submit): competition pickle, .npz, or folder of PNGs"
    )
    sub.add_argument("--views", choices=get_args(Views), help="test-time augmentation (default: the config's)")
    sub.add_argument("--output", type=Path, help="predictions file (default: RUN/predictions/<split>.npz)")
    sub.add_argument("--allow-rows", type=int, metavar="N", help="accept N images where the rules expect another number")
    sub.add_argument(
        "--layout", choices=["auto", "HWC", "CHW"], default="auto", help="pixel order of flat rows (default: by content)"
    )
    sub.add_argument("--data-root", help="where the run's data lies now (default: the config's)")
    sub.add_argument("--device", help="auto, cpu or cuda (default: the config's)")
    sub.add_argument("--overwrite", action="store_true", help="replace an existing file")
    sub = verb("ensemble", _ensemble, "average the logits of several predictions files, joined by id")
    sub.add_argument("predictions", type=Path, nargs="+", metavar="PREDICTIONS")
    sub.add_argument("--output", type=Path, required=True, help="predictions file to write")
    sub.add_argument("--overwrite", action="store_true", help="replace an existing file")
    sub = verb(
        "submit",
        _submit,
        "write the submission CSV and the record of what made it",
        """\
The record, curves and config are put beside the CSV, so give each submission a folder of its own:
  cifar-small submit runs/mine/predictions/submit.npz --output submissions/2026-11-20_mine/submission.csv""",
    )
    sub.add_argument("predictions", type=Path, metavar="PREDICTIONS", help="a predictions file of --split submit")
    sub.add_argument("--output", type=Path, required=True, help="CSV to write")
    sub.add_argument("--overwrite", action="store_true", help="replace an existing file")
    sub = verb("check", _check, "validate any submission CSV against the unlabelled file and name every fault")
    sub.add_argument("csv", type=Path, metavar="CSV")
    sub.add_argument("--file", type=Path, required=True, help="the unlabelled file the CSV answers")
    sub.add_argument("--config", type=Path, help="config whose rules and classes hold (default: CIFAR-10, ID,Labels)")
    sub.add_argument("--allow-rows", type=int, metavar="N", help="accept N images where the rules expect another number")
    sub.add_argument(
        "--layout", choices=["auto", "HWC", "CHW"], default="auto", help="pixel order of flat rows (default: by content)"
    )
    sub = verb("unlabelled", _unlabelled, "write the test images of a config as an unlabelled pickle, to practise on")
    sub.add_argument("--config", type=Path, required=True)
    sub.add_argument("--output", type=Path, required=True, help="pickle to write, in the competition's format")
    sub.add_argument("--overwrite", action="store_true", help="replace an existing file")
    sub = verb(
        "sweep",
        _sweep,
        "train every cell of a sweep with every seed, and say which is best on val",
        """\
A sweep file names a base config, what varies, and the seeds; see configs/sweeps/:
  cifar-small sweep configs/sweeps/ablation_augment.yaml --list   cells, parameters, states; trains nothing
  cifar-small sweep configs/sweeps/ablation_augment.yaml          train until nothing is left, then table and picture
Start it as often as you like, on as many machines as share the folder: each run is trained once, a killed one goes on, and
what is done stays. Or send workers: --submit local --jobs 2, --submit slurm --jobs 8 --slurm partition=gpu time=600.
Cells over the parameter budget are refused before anything trains. The test split is never read.""",
    )
    sub.add_argument("file", type=Path, metavar="SWEEP", help="YAML file; see configs/sweeps/")
    sub.add_argument("--output", type=Path, help="folder of the sweep (default: runs/<name>)")
    mode = sub.add_mutually_exclusive_group()
    mode.add_argument("--list", action="store_true", help="print the cells with their parameters and states and stop")
    mode.add_argument("--table", action="store_true", help="write table and picture of what is done so far and stop")
    mode.add_argument("--submit", choices=["slurm", "local"], help="send workers as jobs through submitit")
    mode.add_argument("--retry-failed", action="store_true", help="forget recorded failures and try these runs again")
    sub.add_argument("--jobs", type=int, metavar="N", help="workers to send (with --submit)")
    sub.add_argument(
        "--slurm", nargs="+", metavar="KEY=VALUE", help="settings of the jobs, such as partition=gpu time=600 gpus_per_node=1"
    )
    sub = verb("record", _record, "put the record of a run (summary, config, curves, test readings) into a folder for git")
    sub.add_argument("directory", type=Path, metavar="RUN")
    sub.add_argument("--output", type=Path, required=True, help="folder, such as submissions/2026-11-20_mine")
    sub.add_argument("--overwrite", action="store_true", help="replace an existing file")
    sub = verb("results", _results, "print the results table made from the records under submissions/")
    sub.add_argument("--records", type=Path, default=Path("submissions"))
    sub.add_argument("--write", type=Path, metavar="README", help="put the table between the results markers of this file")
    sub.add_argument("--picture", type=Path, metavar="PNG", help="draw accuracy against time of the recorded runs instead")
    sub.add_argument("--source", default="cifar10", help="data set of the picture (default: cifar10)")
    return parser


def _demo(options: argparse.Namespace) -> int:
    from cifar_small.demo import run_demo

    run_demo(options.output, options.command)
    return 0


def _train(options: argparse.Namespace) -> int:
    from cifar_small.config import dump_config, load_config, split_overrides

    config = load_config(options.config, split_overrides(options.overrides))
    if options.print_config:
        print(dump_config(config), end="")
        return 0
    from cifar_small.train import train

    train(
        config,
        options.output or Path("runs") / f"{config.name}-seed{config.seed}",
        resume=options.resume,
        command=options.command,
    )
    return 0


def _slurm(options: argparse.Namespace) -> int:
    from cifar_small.config import load_config, split_overrides
    from cifar_small.distributed import share_batch
    from cifar_small.slurm import batch_file

    config = load_config(options.config, split_overrides(options.overrides))
    share_batch(config, options.nodes * options.processes_per_node)  # better refused now than after a night in the queue
    arguments = ["--config", str(options.config), *(["--output", str(options.output)] if options.output else [])]
    text = batch_file(
        config.name,
        [*arguments, *options.overrides],
        nodes=options.nodes,
        processes=options.processes_per_node,
        gpus=not options.cpu_only,
        hours=options.hours,
        cpus=options.cpus,
    )
    print(text, end="")
    return 0


def _preview(options: argparse.Namespace) -> int:
    from cifar_small.config import load_config, split_overrides

    config = load_config(options.config, split_overrides(options.overrides))
    target = options.output or Path(f"{config.name}-preview.png")
    refuse_existing(target, options.overwrite)
    probe_writable(target)
    from cifar_small.preview import draw_preview

    print(draw_preview(config, target, epoch=options.epoch, images=options.images, columns=options.columns))
    return 0


def _schedule(options: argparse.Namespace) -> int:
    from cifar_small.config import load_config, split_overrides
    from cifar_small.timeline import draw_config, steps_per_epoch

    config = load_config(options.config, split_overrides(options.overrides))
    if options.steps_per_epoch is not None and options.steps_per_epoch < 1:
        raise UserError(f"--steps-per-epoch {options.steps_per_epoch} is below 1; expected training images / batch_size")
    target = options.output or Path(f"{config.name}-schedule.png")
    refuse_existing(target, options.overwrite)
    print(draw_config(config, options.steps_per_epoch or steps_per_epoch(config), target))
    print(f"-> {target}")
    return 0


def _predict(options: argparse.Namespace) -> int:
    from cifar_small.metrics import wilson_interval
    from cifar_small.predict import predict
    from cifar_small.runs import Run

    target, predictions, notes = predict(
        Run(options.directory),
        options.split,
        file=options.file,
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
    print(f"{len(predictions.ids):,} images, views {predictions.meta['views']} -> {target}")
    return 0


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


def _submit(options: argparse.Namespace) -> int:
    from cifar_small.predictions import load_predictions
    from cifar_small.runs import Run
    from cifar_small.submission import submit

    predictions = load_predictions(options.predictions)
    run = Run(options.predictions.resolve().parent.parent)
    found = run if run.config_file.exists() and not predictions.meta.get("members") else None
    record = submit(predictions, options.output, run=found, overwrite=options.overwrite, command=options.command)
    record_file = options.output.with_suffix(".json")
    print(f"{record['rows']:,} rows, {predictions.meta['parameters']:,} parameters -> {options.output}; record: {record_file}")
    return 0


def _check(options: argparse.Namespace) -> int:
    from cifar_small.budget import num_classes_of
    from cifar_small.config import load_config
    from cifar_small.data import class_names, load_unlabelled
    from cifar_small.schema import Data, Rules
    from cifar_small.submission import find_faults

    config = load_config(options.config) if options.config else None
    rules = config.rules if config else Rules()
    number = num_classes_of(config) if config else 10
    if rules.submission == "ID,Labels" and number:
        classes = tuple(str(label) for label in range(number))  # no names are needed, so no data is read for them
    else:
        classes = class_names(config.data if config else Data())
    rows = options.allow_rows if options.allow_rows is not None else rules.rows
    images, _ = load_unlabelled(options.file, rows=rows, layout=options.layout)
    try:
        content = options.csv.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {options.csv}: {error.strerror}; expected a submission CSV") from None
    faults = find_faults(content, images.ids, classes, rules)
    for fault in faults:
        print(f"{options.csv}: {fault}")
    count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    print(f"{options.csv}: {count}" if faults else f"{options.csv}: valid, {len(images):,} rows")
    return 1 if faults else 0


def _unlabelled(options: argparse.Namespace) -> int:
    from cifar_small.config import load_config
    from cifar_small.data import load_test, write_unlabelled

    refuse_existing(options.output, options.overwrite)
    images = load_test(load_config(options.config).data)
    write_unlabelled(options.output, images.images, images.ids)
    print(f"{len(images):,} images of {images.source}, without labels -> {options.output}")
    return 0


def _sweep(options: argparse.Namespace) -> int:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("a sweep shares runs among its workers, not a run among processes: start it without torchrun")
    if options.submit is None and (options.jobs is not None or options.slurm):
        raise UserError("--jobs and --slurm have no effect without --submit; add --submit slurm or --submit local")
    if options.submit:
        from cifar_small.sweep.cluster import parse_settings, submit_workers

        if options.jobs is None or options.jobs < 1:
            raise UserError(f"--submit needs --jobs N, a number of workers from 1 up; got {options.jobs}")
        if options.slurm and options.submit != "slurm":
            raise UserError("--slurm has no effect with --submit local; drop it")
        settings = parse_settings(options.slurm or [])
        return submit_workers(
            options.file, options.output, cluster=options.submit, jobs=options.jobs, settings=settings, command=options.command
        )
    from cifar_small.sweep.run import finish, prepare, run_sweep, show

    if options.list:
        print(show(options.file, options.output))
        return 0
    if options.table:
        return finish(*prepare(options.file, options.output))
    return run_sweep(options.file, options.output, command=options.command, retry_failed=options.retry_failed)


def _record(options: argparse.Namespace) -> int:
    from cifar_small.results import write_record
    from cifar_small.runs import Run

    print(write_record(Run(options.directory), options.output, overwrite=options.overwrite))
    return 0


def _results(options: argparse.Namespace) -> int:
    from cifar_small.results import draw_records, render_results, replace_section

    if options.picture is not None:
        if options.write is not None:
            raise UserError("--picture and --write make different things; give one of them")
        lines = draw_records(options.records, options.source, options.picture)
        print(f"{lines} recipe{'s' if lines > 1 else ''} -> {options.picture}")
        return 0
    table = render_results(options.records)
    if options.write is None:
        print(table)
        return 0
    try:
        text = options.write.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"cannot read {options.write}: {error.strerror}; expected a text file with the results markers"
        ) from None
    except UnicodeDecodeError:
        raise DataError(f"{options.write} is not UTF-8 text; expected a text file with the results markers") from None
    write_atomic(options.write, replace_section(text, table, str(options.write)).encode())
    return 0
