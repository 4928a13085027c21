"""Commands that write for readers: report."""

from __future__ import annotations

import argparse
from pathlib import Path

from cifar_small.commands import Command
from cifar_small.commands.evaluating import images_or_note
from cifar_small.files import probe_writable, refuse_existing, write_atomic


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="run directories that have predictions of val or test"
    )
    parser.add_argument("--output", type=Path, default=Path("report.html"), help="page to write (default: report.html)")
    parser.add_argument("--title", default="Small image classifiers", help="its heading")
    parser.add_argument("--paper", type=Path, metavar="FOLDER", help="also write LaTeX tables and PDF figures there")
    parser.add_argument("--data-root", help="where the runs' data lies now, for pictures of mistakes (default: the config's)")
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")


def _report(options: argparse.Namespace) -> int:
    from cifar_small.entries import load_entries
    from cifar_small.report.page import best_known, render_page
    from cifar_small.report.paper import write_paper
    from cifar_small.runs import Run

    refuse_existing(options.output, options.overwrite)
    probe_writable(options.output)
    runs = [Run(folder) for folder in options.runs]
    entries = load_entries([str(folder) for folder in options.runs])
    images = [images_or_note(entry.predictions[best_known(entry)], options.data_root) for entry in entries]
    page = render_page(options.title, runs, entries, images)
    write_atomic(options.output, page.encode())
    print(f"{len(runs)} runs, {len(page) / 1e6:.1f} MB -> {options.output}")
    if options.paper is not None:
        for path in write_paper(runs, entries, options.paper, overwrite=options.overwrite):
            print(f"-> {path}")
    return 0


COMMANDS = (
    Command(
        "report",
        "write one web page about runs: accuracy and parameters, where they come from, curves, confusions, mistakes",
        _report_arguments,
        _report,
        detail="""\
The page needs no network and no other file; open it, print it, or hand it in. It shows what the runs and their predictions
hold: predict val, and test once when all is decided, before.
  cifar-small report runs/a-seed0 runs/b-seed0 --output report.html --paper paper/""",
    ),
)
