"""Commands that write for readers: report."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from cifar_small.cli.command import Command
from cifar_small.cli.options import add_data_root, add_estimate, add_output, add_overwrite, print_note, reserve
from cifar_small.files import write_atomic
from cifar_small.wording import plural


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "entries",
        nargs="+",
        metavar="ENTRY",
        help="run directory with predictions of val or test, or predictions file; NAME=PATH gives it another name",
    )
    add_output(parser, "page to write (default: report.html)", Path("report.html"))
    parser.add_argument("--title", default="Small image classifiers", help="heading of the page")
    parser.add_argument(
        "--bench",
        type=Path,
        nargs="+",
        default=[],
        metavar="JSON",
        help="latency figures to show, from cifar-small bench",
    )
    add_estimate(parser, "also show what estimate expects of the models on a file without labels")
    parser.add_argument("--paper", type=Path, metavar="FOLDER", help="also write LaTeX tables and PDF figures there")
    add_data_root(parser)
    add_overwrite(parser, "existing files")


def _report(options: argparse.Namespace) -> int:
    """Write one web page about models: accuracy and parameters, comparisons, origins, curves, confusions, mistakes.

    The page needs no network and no other file. It shows what runs and predictions files contain, so predict val first, and
    test once everything is decided. Ensembles are compared with the best of their members, if these are entries too; with
    more than four entries, seeds of one recipe are shown together.
      cifar-small report runs/a-seed0 runs/b-seed0 --output report.html --paper paper/
      cifar-small report runs/a-seed* both=ensemble_test.npz --bench speed.json
    """
    from cifar_small.evaluation.compare import compare
    from cifar_small.evaluation.entries import load_entries
    from cifar_small.export.latency import read_figures
    from cifar_small.inference.predict import images_or_note
    from cifar_small.reporting.page import common_split, render_page
    from cifar_small.reporting.paper import paper_files
    from cifar_small.runs.estimation import load_estimation

    reserve(options.overwrite, options.output)
    entries = load_entries(options.entries)
    names = {str(entry.meta.weights_sha256): entry.name for entry in reversed(entries) if entry.meta.weights_sha256}
    speeds = [read_figures(path, names) for path in dict.fromkeys(options.bench)]
    estimates = load_estimation(options.estimate).by_maker() if options.estimate else None
    comparison = compare(entries, common_split(entries), all_recipes=True, estimates=estimates)
    paper = {} if options.paper is None else paper_files(entries, comparison, options.paper, overwrite=options.overwrite)
    images = partial(images_or_note, data_root=options.data_root, note=print_note)
    page = render_page(options.title, entries, comparison, images, speeds)
    write_atomic(options.output, page.encode())
    print(f"{plural(len(entries), 'model')}, {len(page) / 1e6:.1f} MB -> {options.output}")
    for path, content in paper.items():
        write_atomic(path, content)
        print(f"-> {path}")
    return 0


COMMANDS = (Command("report", _report_arguments, _report),)
