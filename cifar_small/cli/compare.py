"""Commands that compare: compare (models), diff (submissions)."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from cifar_small.cli.command import Command
from cifar_small.cli.options import (
    add_config,
    add_estimate,
    add_output,
    add_overwrite,
    config_or_none,
    print_default,
    print_note,
    reserve,
    rules_or_none,
)
from cifar_small.errors import UserError
from cifar_small.files import to_csv, write_atomic
from cifar_small.wording import plural

if TYPE_CHECKING:
    from cifar_small.evaluation.compare import Comparison

FORMATS = {".txt": "text", ".md": "markdown", ".csv": "csv", ".tex": "latex"}


def _compare_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "entries", nargs="+", metavar="ENTRY", help="run directory or predictions file; NAME=PATH gives it another name"
    )
    parser.add_argument("--split", choices=["val", "test"], default="val", help="split to compare on (default: val)")
    parser.add_argument("--pairs", action="store_true", help="test every pair (default: each entry against the first)")
    add_config(parser, "config whose rules all are checked against (default: each its own)")
    parser.add_argument("--format", choices=list(FORMATS.values()), help="default: by the name of --output, else text")
    add_estimate(parser, "also show what estimate expects of the entries on a file without labels")
    add_output(parser, "file to write (default: print)")
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="PNG",
        help="also draw accuracy against parameters, multiply-adds, training images and minutes",
    )
    parser.add_argument("--plot-seeds", type=Path, metavar="PNG", help="also draw each recipe's mean, sd and seeds")
    add_overwrite(parser)


def _compare(options: argparse.Namespace) -> int:
    """Say which of several models is better, by how much, and whether the comparison is fair.

    Shows parameters, budget, initial weights, data, views, members, epochs and minutes; accuracy with Wilson intervals; exact
    McNemar tests on the same images against the first entry, with Holm's correction; mean and sd over seeds of one config.
    Differences that make entries not comparable are listed below the table. Uses existing predictions; never reads test.
      cifar-small compare runs/a-seed0 runs/b-seed0 both_val.npz
      cifar-small compare small=runs/a-seed0 large=runs/b-seed0 --split test --output comparison.tex
      cifar-small compare scratch=runs/a-seed0 pretrained=runs/b-seed0 --plot cost.png   accuracy per parameter and per MAC
    """
    kind = options.format or _format_of(options.output)
    for picture in (options.plot, options.plot_seeds):
        if picture is not None and picture.suffix not in (".png", ".svg", ".pdf"):
            raise UserError(f"{picture}: the ending {picture.suffix!r} is not that of a picture; expected .png, .svg or .pdf")
    reserve(options.overwrite, options.output, options.plot, options.plot_seeds)
    from cifar_small.evaluation.compare import compare
    from cifar_small.evaluation.entries import load_entries
    from cifar_small.reporting.comparison_tables import comparison_csv, comparison_tables
    from cifar_small.reporting.tables import to_latex, to_markdown, to_text
    from cifar_small.runs.estimation import load_estimation

    rules = rules_or_none(options)
    estimates = load_estimation(options.estimate).by_maker() if options.estimate else None
    entries = load_entries(options.entries)
    comparison = compare(entries, options.split, all_pairs=options.pairs, rules=rules, estimates=estimates)
    drawn = options.plot is not None or options.plot_seeds is not None
    if drawn and not any(options.split in row.scores for row in comparison.rows):
        raise UserError(
            f"a plot needs predictions of {options.split}, and no entry has any; run predict --split {options.split} first"
        )
    if kind == "csv":
        text = comparison_csv(comparison)
    else:
        render = {"text": to_text, "markdown": to_markdown, "latex": to_latex}[kind]
        text = render(comparison_tables(comparison)) + "\n"
    for note in comparison.missing:
        print_note(note)
    if any(" --split test" in note for note in comparison.missing):
        print_note("every evaluation on test is recorded in the run; do not make choices by it")
    if options.output is None:
        print(text, end="")
    else:
        write_atomic(options.output, text.encode())
        print(
            f"{plural(len(comparison.rows), 'entry', 'entries')}, {plural(len(comparison.pairs), 'paired test')} on "
            f"{options.split} -> {options.output}"
        )
    _draw(comparison, options)
    return 0


def _draw(comparison: Comparison, options: argparse.Namespace) -> None:
    """Draw what was asked for: accuracy against cost, and the seeds of each recipe."""
    if options.plot is not None:
        from cifar_small.figures.evaluation import draw_accuracy_over_cost
        from cifar_small.figures.style import save

        title = f"What accuracy on {options.split} costs"
        save(draw_accuracy_over_cost(comparison.rows, options.split, title), options.plot)
        print(f"accuracy against what it costs -> {options.plot}")
    if options.plot_seeds is not None:
        from cifar_small.evaluation.compare import seeds_of_recipes
        from cifar_small.figures.run import draw_cells
        from cifar_small.figures.style import save

        cells = seeds_of_recipes(comparison)
        title = f"Accuracy on {options.split}, recipe by recipe"
        save(draw_cells(cells, title, options.split), options.plot_seeds)
        print(f"{plural(len(cells), 'recipe')} -> {options.plot_seeds}")


def _format_of(output: Path | None) -> str:
    if output is None:
        return "text"
    if output.suffix not in FORMATS:
        raise UserError(f"--output {output}: unknown format {output.suffix!r}; expected {', '.join(FORMATS)}, or set --format")
    return FORMATS[output.suffix]


def _diff_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", type=Path, metavar="A.csv", help="a submission")
    parser.add_argument("second", type=Path, metavar="B.csv", help="another submission of the same file")
    add_config(parser, "config that names the classes (default: the records beside the CSVs, else CIFAR-10)")
    parser.add_argument("--truth", type=Path, metavar="CSV", help="the true classes, in either format; both are scored")
    parser.add_argument("--show", type=int, default=10, metavar="N", help="differing images to print (default: 10)")
    add_output(parser, "CSV to write with every image on which they differ")
    add_overwrite(parser)


def _diff(options: argparse.Namespace) -> int:
    """Say where two submission CSVs differ, and what their labels give away.

    Header, ids and labels may be of any form that submit writes; rows are joined by id. Warns if class counts are unlikely for
    a balanced file, or if the order of the rows gives labels away. Exits with 1 when a CSV has faults.
    """
    from cifar_small.reporting.tables import Table, to_text
    from cifar_small.submission import diff as subs

    if options.show < 0:
        raise UserError(f"--show {options.show} is below 0; expected a number of rows")
    reserve(options.overwrite, options.output)
    paths = [options.first, options.second, *([options.truth] if options.truth else [])]
    submissions, classes, known = subs.read_submissions(paths, config_or_none(options))
    read = submissions[:2]
    if not known:
        print_default("read by the classes of CIFAR-10")
    for one in read:
        for fault in one.faults:
            print(f"{one.name}: {fault}")
    found = subs.diff(*read)
    print("\n".join(subs.summarize(found)))
    if options.truth is not None:
        print("\n".join(subs.score_against(found, submissions[2])))
    print("\n" + to_text([subs.class_table(found, classes)]))
    rows = subs.differing_rows(found, classes)
    if rows and options.show:
        title = f"{min(options.show, len(rows)):,} of {plural(len(rows), 'image')} with different answers"
        print("\n" + to_text([Table(title, ("id", "A", "B"), tuple(rows[: options.show]))]))
    if options.output is not None:
        write_atomic(options.output, to_csv(("id", "A", "B"), rows).encode())
        print(f"{plural(len(rows), 'image')} -> {options.output}")
    for one in read:
        for warning in subs.warnings_of(one, classes):
            print(f"warning: {warning}")
    return 1 if any(one.faults for one in read) else 0


COMMANDS = (
    Command("compare", _compare_arguments, _compare),
    Command("diff", _diff_arguments, _diff),
)
