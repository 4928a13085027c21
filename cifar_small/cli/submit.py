"""Commands from predictions to what is handed in, kept and proved: submit, check, record, results, audit."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from cifar_small.cli.command import Command
from cifar_small.cli.options import (
    add_allow_rows,
    add_config,
    add_data_root,
    add_estimate,
    add_file,
    add_layout,
    add_output,
    add_overwrite,
    add_run,
    config_or_none,
    print_default,
    print_note,
    rules_or_none,
)
from cifar_small.errors import DataError, UserError
from cifar_small.files import write_atomic
from cifar_small.wording import plural


def _submit_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("predictions", type=Path, metavar="PREDICTIONS", help="a predictions file of --split submit")
    add_output(parser, "CSV to write", required=True)
    add_config(parser, "config whose rules apply (default: the runs' own configs)")
    _add_sample(parser)
    add_estimate(parser, "estimate.json, if this submission was chosen by it; the record then says so")
    text = (
        "run directories of the nets that predicted, where the predictions file lies outside them; without them parameters are "
        "counted from the configs alone"
    )
    parser.add_argument("--run", type=Path, nargs="+", action="extend", default=[], metavar="RUN", help=text)
    parser.add_argument("--kaggle", metavar="COMPETITION", help="also upload the CSV with the `kaggle` program, if it is there")
    parser.add_argument("--message", default="", help="what the upload is called (default: name and seed of the net)")
    add_overwrite(parser)


def _add_sample(parser: argparse.ArgumentParser) -> None:
    text = "the competition's sample submission: header, form and order of the ids, and kind of labels are taken from it"
    parser.add_argument("--sample", type=Path, metavar="CSV", help=text)


def _submit(options: argparse.Namespace) -> int:
    """Write the submission CSV and a record of how it was made.

    Record, metrics and config are written beside the CSV, so give each submission its own folder:
      cifar-small submit runs/mine/predictions/submit.npz --output submissions/mine/submission.csv
    With the competition's own sample, and uploaded by Kaggle's own program, which is never imported:
      cifar-small submit runs/mine/predictions/submit.npz --output mine/mine.csv --sample sample.csv --kaggle cifar-10
    """
    if options.message and not options.kaggle:
        raise UserError("--message belongs to an upload; name the competition with --kaggle")
    from cifar_small.submission.kaggle import upload
    from cifar_small.submission.submission_file import submit_file

    predictions, record = submit_file(
        options.predictions,
        options.output,
        runs=options.run,
        rules=rules_or_none(options),
        sample=options.sample,
        estimate=options.estimate,
        overwrite=options.overwrite,
        command=options.command,
    )
    record_file = options.output.with_suffix(".json")
    mapping = [text if text == name else f"{text} {name}" for name, text in record.labels.items()]
    print("labels are " + ", ".join([*mapping[:20], *(["..."] if len(mapping) > 20 else [])]))
    data = (predictions.meta.config or {}).get("data", {})
    first = predictions.classes[0]
    if data.get("source") == "folder" and not (data.get("classes") or first.isdecimal() or record.labels[first] == first):
        print_note("these are places in the alphabetical order of the class names; data.classes sets another")
    print(f"{record.rows:,} rows, {predictions.meta.parameters:,} parameters -> {options.output}; record: {record_file}")
    if record.uncounted:
        print_note(
            f"parameters of {', '.join(record.uncounted)} were counted by config alone, without the checkpoint; name the "
            "run directories with --run"
        )
    if options.kaggle:
        print(upload(options.output, options.kaggle, options.message or predictions.meta.label()))
    return 0


def _check_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("csv", type=Path, metavar="CSV", help="the submission")
    add_file(parser, required=True)
    add_config(parser, "config whose rules and classes apply (default: the record beside the CSV, else CIFAR-10, ID,Labels)")
    _add_sample(parser)
    add_allow_rows(parser)
    add_layout(parser)


def _check(options: argparse.Namespace) -> int:
    """Validate any submission CSV against the unlabelled file and name every fault.

    Needs no run and no record, so it can check any CSV; a record beside it tells its classes and rules. Exits with 1 when there
    is a fault:
      cifar-small check submissions/mine/submission.csv --file cifar_test_nolabel.pkl
    """
    from cifar_small.config.schema import Data, Rules
    from cifar_small.data import class_names, load_unlabelled
    from cifar_small.submission.csv_form import read_bytes, recorded_form, rules_of_sample
    from cifar_small.submission.diff import read_submission, warnings_of
    from cifar_small.submission.submission_file import find_faults

    config = config_or_none(options)
    form = None if config else recorded_form(options.csv)
    rules = config.rules if config else form.rules if form else Rules()
    if form is not None:
        classes = form.classes
    elif config and config.data.num_classes and not rules.in_names and options.sample is None:
        classes = tuple(str(label) for label in range(config.data.num_classes))  # no data is read for names that none needs
    else:
        classes = class_names(config.data if config else Data())
    rows = options.allow_rows if options.allow_rows is not None else rules.rows
    images, _ = load_unlabelled(options.file, rows=rows, layout=options.layout)
    ids = images.ids
    if options.sample is not None:
        rules, ids = rules_of_sample(read_bytes(options.sample), ids, classes, rules, str(options.sample))
    content = read_bytes(options.csv)
    faults = find_faults(content, ids, classes, rules)
    for fault in faults:
        print(f"{options.csv}: {fault}")
    if form is not None:
        print_note(f"checked by classes and rules of the record {options.csv.with_suffix('.json')}; --config names others")
        if form.order and options.sample is None:
            print_note(f"the record says that the rows have the order of {form.order}; name it by --sample")
    elif config is None:
        print_default("checked by the classes of CIFAR-10")
    if not faults:
        for warning in warnings_of(read_submission(options.csv, classes, rules), classes):
            print(f"warning: {warning}", file=sys.stderr)
    print(f"{options.csv}: {plural(len(faults), 'fault')}" if faults else f"{options.csv}: valid, {len(images):,} rows")
    return 1 if faults else 0


def _record_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    add_output(parser, "folder, such as submissions/mine", required=True)
    add_overwrite(parser)


def _record(options: argparse.Namespace) -> int:
    """Put the record of a run (summary, config, metrics, test readings) into a folder for git.

    For a run that is a result but not a submission; small files only, no weights:
      cifar-small record runs/resnet_hour-seed0 --output submissions/records/resnet_hour/seed0
    """
    from cifar_small.runs.directory import Run
    from cifar_small.runs.recording import write_record

    print(write_record(Run(options.directory), options.output, overwrite=options.overwrite))
    return 0


def _results_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--records", type=Path, default=Path("submissions"), help="folder of the records (default: submissions)"
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table between the results markers of this file")
    parser.add_argument("--picture", type=Path, metavar="PNG", help="draw accuracy against time of the recorded runs instead")
    parser.add_argument("--source", help="data set of the picture (default: cifar10)")
    parser.add_argument("--recipes", nargs="+", metavar="NAME", help="only these recipes; of the table, in fewer columns")


def _results(options: argparse.Namespace) -> int:
    """Print the results table made from the records under submissions/.

    A row for each recipe, over its recorded seeds:
      cifar-small results --write docs/results.md                            between the results markers of that file
      cifar-small results --picture submissions/accuracy_over_time.png       accuracy against time, a line for each recipe
    """
    from cifar_small.reporting.results import draw_records, render_results, replace_section

    if options.picture is not None:
        if options.write is not None:
            raise UserError("--picture draws a plot and --write writes the table; give one of them")
        lines = draw_records(options.records, options.source or "cifar10", options.picture, options.recipes or ())
        print(f"{plural(lines, 'recipe')} -> {options.picture}")
        return 0
    if options.source is not None:
        raise UserError("--source names the data set of --picture; the table has all of them: drop it, or give --picture")
    table = render_results(options.records, options.recipes or (), options.write.parent if options.write else None)
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


def _audit_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("csv", type=Path, metavar="CSV", help="a submission with the record that submit wrote beside it")
    parser.add_argument(
        "--run",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="RUN",
        help="run directories, one for each net, and those of runs that these started from or are the average of",
    )
    parser.add_argument(
        "--predictions", type=Path, metavar="FILE", help="its predictions file (default: in the run of one net)"
    )
    add_file(parser)
    text = "the competition's sample submission, where the CSV has its order"
    parser.add_argument("--sample", type=Path, metavar="CSV", help=text)
    add_layout(parser)
    add_data_root(parser)
    add_config(parser, "config whose rules apply (default: the rules in the record)")
    parser.add_argument("--repredict", action="store_true", help="also predict the file again with the weights; takes minutes")
    parser.add_argument("--json", action="store_true", help="print the card as JSON")


def _audit(options: argparse.Namespace) -> int:
    """Check a submission against its record, predictions, runs and data, link by link.

    Each line is a check: pass, FAIL (exit code 1), or not checked, with the reason. It finds mistakes and careless tampering,
    but not a forgery in which every file and hash agrees; --repredict and training again make that harder.
      cifar-small audit submissions/mine/submission.csv --run runs/mine-seed0 --file cifar_test_nolabel.pkl
    """
    from cifar_small.submission.audit import audit, gather

    submission = gather(
        options.csv,
        runs=options.run,
        predictions=options.predictions,
        file=options.file,
        sample=options.sample,
        layout=options.layout,
        data_root=options.data_root,
        config=options.config,
    )
    card = audit(submission, repredict=options.repredict)
    print(json.dumps(card.to_dict(), indent=2, ensure_ascii=False) if options.json else card)
    return 1 if card.of("fail") else 0


COMMANDS = (
    Command("submit", _submit_arguments, _submit),
    Command("check", _check_arguments, _check),
    Command("record", _record_arguments, _record),
    Command("results", _results_arguments, _results),
    Command("audit", _audit_arguments, _audit),
)
