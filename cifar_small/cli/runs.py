"""Commands over many runs: runs, remove."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from cifar_small.cli.command import Command
from cifar_small.cli.options import add_runs
from cifar_small.errors import UserError

SECONDS = 5.0  # between two looks at the runs
CLEAR = "\x1b[H\x1b[2J"  # what a terminal shows from its first line on


def _runs_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs"), help="folder of the runs (default: runs)")
    parser.add_argument("--watch", action="store_true", help="draw the table again every few seconds, until Ctrl-C")


def _runs(options: argparse.Namespace) -> int:
    """List the runs below a folder: state, epoch, best accuracy on val, parameters, size, how to go on.

    A run is in training, finished, ended early (by patience) or stopped; a stopped one goes on by the command in its row.
      cifar-small runs                    those in runs/
      cifar-small runs runs/sweep --watch
    Within a run, curves.png and metrics.csv are as new as its last epoch.
    """
    from cifar_small.reporting.run_list import list_runs
    from cifar_small.reporting.tables import to_text

    while True:
        text = to_text([list_runs(options.folder)])
        print(f"{CLEAR if options.watch and sys.stdout.isatty() else ''}{text}", flush=True)
        if not options.watch:
            return 0
        try:
            time.sleep(SECONDS)
        except KeyboardInterrupt:
            return 0


def _remove_arguments(parser: argparse.ArgumentParser) -> None:
    add_runs(parser)
    text = "folder of records, of several one --records each (default: submissions)"
    parser.add_argument("--records", type=Path, action="append", metavar="FOLDER", help=text)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of other runs (default: runs)")
    parser.add_argument("--force", action="store_true", help="also what a record or another run needs")


def _remove(options: argparse.Namespace) -> int:
    """Remove run directories that nothing needs.

    Refused are a run in training, one whose weights a record names (an audit asks for them), one that another run starts or
    learns from, and one that alone knows how often the test split was read.
      cifar-small remove runs/smoke-seed0
    Records are looked for in submissions/, here or beside a folder that holds the run; name all of yours that lie elsewhere:
      cifar-small remove runs/smoke-seed0 --records entry --records mine
    """
    from cifar_small.reporting.run_list import find_runs
    from cifar_small.runs.directory import Run
    from cifar_small.runs.removal import remove_run, require_removable

    if missing := [folder for folder in options.records or () if not folder.is_dir()]:
        raise UserError(f"{missing[0]} is no folder; expected one that holds records")
    for folder in options.directories:
        require_removable(Run(folder))  # all of them before any is removed
    for folder in options.directories:
        parent = folder.resolve().parent
        above = [Path("submissions"), *(base / "submissions" for base in parent.parents)]
        records = options.records or [records for records in dict.fromkeys(above) if records.is_dir()][:1]
        others = [*find_runs(options.runs), *(find_runs(parent) if parent != options.runs.resolve() else ())]
        size = remove_run(Run(folder), records=records, others=others, force=options.force)
        print(f"{folder} removed, {size / 1e6:,.1f} MB freed" + ("" if records else " (there were no records to look at)"))
    return 0


COMMANDS = (Command("runs", _runs_arguments, _runs), Command("remove", _remove_arguments, _remove))
