"""From a predictions file to a submission CSV with the record of what made it, and back: reading and checking any CSV.

A submission is `ID,Labels` with class numbers, or `id,label` with class names; one row per image in the order of the file,
UTF-8, `\\n` line ends, no quoting. Ids and labels are written from integers and a fixed set of names, so nothing a
spreadsheet would run as a formula can get in.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cifar_small.config.loading import parse_config
from cifar_small.config.schema import Rules
from cifar_small.environment import commit, package_version
from cifar_small.errors import CheckpointError, DataError, UserError
from cifar_small.files import refuse_existing, sha256_bytes, sha256_file, write_atomic, write_json
from cifar_small.inference.predict import load_net
from cifar_small.models.counting import check_count, trainable_parameters
from cifar_small.runs.directory import Run
from cifar_small.runs.estimation import load_estimation
from cifar_small.runs.formats import FORMAT
from cifar_small.runs.lineage import check_lineage, foreign_lineage
from cifar_small.runs.predictions import Predictions, load_predictions
from cifar_small.runs.recording import copy_run_files, put_back, run_record
from cifar_small.runs.records import NetFacts, SubmissionRecord
from cifar_small.submission.csv_form import label_texts, read_bytes, rules_of_sample
from cifar_small.wording import plural


def render_csv(predictions: Predictions, rules: Rules) -> bytes:
    """The submission's bytes. Raises DataError for class names that a CSV or a spreadsheet would misread, or negative ids."""
    texts = label_texts(predictions.classes, rules)
    if predictions.ids.min() < 0:
        raise DataError(f"id {predictions.ids.min()} cannot stand in a submission; expected ids from 0 on")
    if rules.in_names:
        if unsafe := rules.unsafe_name(predictions.classes):
            raise DataError(unsafe)
        if len(set(predictions.classes)) < len(predictions.classes):
            raise DataError(
                f"two classes have one name in {list(predictions.classes)[:20]}; a submission of names needs different ones"
            )
    values = (texts[index] for index in predictions.predicted)
    ids = map(rules.id_text, predictions.ids.tolist())
    lines = [rules.submission, *(f"{image},{value}" for image, value in zip(ids, values, strict=True))]
    return ("\n".join(lines) + "\n").encode()


def find_faults(content: bytes, ids: npt.NDArray[np.int64], classes: Sequence[str], rules: Rules) -> list[str]:
    """Every fault of a submission CSV against the unlabelled file's ids, in plain words; an empty list for a good one.

    ids: in the file's order. Order of rows counts as a fault although graders may accept it: it usually means that ids were
    made up instead of read.
    """
    return read_csv(content, ids, classes, rules)[1]


def read_csv(
    content: bytes, ids: npt.NDArray[np.int64], classes: Sequence[str], rules: Rules
) -> tuple[dict[int, int], list[str]]:
    """The class of each id that a CSV gives validly, and every fault of the CSV."""
    faults: list[str] = []
    if content.startswith(b"\xef\xbb\xbf"):
        faults.append("starts with a byte order mark; save as UTF-8 without BOM")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return {}, [f"is not UTF-8: byte {content[error.start]:#04x} at offset {error.start}; save as UTF-8"]
    if "\r" in text:
        faults.append(f"has {text.count(chr(13)):,} carriage returns; lines must end with \\n alone")
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if '"' in text:
        faults.append(f"has {text.count(chr(34)):,} quotation marks; values must stand unquoted")
        text = text.replace('"', "")
    if "\0" in text:
        return {}, [*faults, "contains NUL bytes: not a CSV"]
    if not text.strip():
        return {}, [*faults, f"is empty; expected the header {rules.submission} and {plural(len(ids), 'row')}"]
    if not text.endswith("\n"):
        faults.append("does not end with a line end: cut short?")
    rows = [line.split(",") for line in text.removesuffix("\n").split("\n")]
    if rows[0] != rules.submission.split(","):
        faults.append(f"has the header {','.join(rows[0])[:60]!r}; expected {rules.submission!r}")
    answers, row_faults = _read_rows(rows[1:], {int(image) for image in ids}, classes, rules)
    faults += row_faults
    missing = [int(image) for image in ids if int(image) not in answers]
    if missing:
        faults.append(f"gives no valid label for {len(missing):,} of {len(ids):,} ids, first {missing[:5]}")
    if not missing and list(answers) != ids.tolist():
        as_text = list(answers) == sorted(ids.tolist(), key=rules.id_text)
        faults.append(
            "has all ids in the order of text (0, 1, 10, 100, ...), not of the file: labels that were written in the file's "
            "order stand beside wrong ids, which sorting the rows would hide; write ids and labels together"
            if as_text
            else "has all ids but in another order than the file; write them in the file's order"
        )
    if not missing and len(ids) >= 100 and len(set(answers.values())) == 1:
        faults.append(f"gives every image the same label, {classes[next(iter(answers.values()))]}: a broken model?")
    return answers, faults


def _read_rows(
    rows: Sequence[Sequence[str]], known: set[int], classes: Sequence[str], rules: Rules
) -> tuple[dict[int, int], list[str]]:
    """Valid answers, and one fault per kind with its count and the first line it stands in."""
    texts = label_texts(classes, rules)
    by_text = {text: index for index, text in enumerate(texts)}
    numbers = f"an integer from 0 to {len(classes) - 1}" if texts[-1] == str(len(classes) - 1) else "the number of a class"
    valid = f"a class name ({', '.join(classes[:3])}, ...)" if rules.in_names else numbers
    plain = "a plain integer (no zeros in front, no spaces, no decimals)"
    form = plain if rules.ids == "0" else f"written as {rules.id_text(0)}, {rules.id_text(1)}, ..."
    answers: dict[int, int] = {}
    seen: set[int] = set()
    found: dict[str, list[str]] = {}
    for line, row in enumerate(rows, start=2):
        at = f"line {line}: {','.join(row)[:40]!r}"
        if len(row) != 2:
            found.setdefault("without exactly two values", []).append(at)
            continue
        image, label = row
        number = rules.id_number(image)
        if number is None:
            found.setdefault(f"whose id is not {form}", []).append(at)
        elif number not in known:
            found.setdefault("whose id is not in the file", []).append(at)
        elif number in seen:
            found.setdefault("with an id that was given before", []).append(at)
        elif label not in by_text:
            found.setdefault(f"whose label is not {valid}", []).append(at)
        else:
            answers[number] = by_text[label]
        if number is not None:
            seen.add(number)
    return answers, [f"has {plural(len(places), 'row')} {kind}, first in {places[0]}" for kind, places in found.items()]


def check_rules(predictions: Predictions, rules: Rules | None = None) -> Rules:
    """The given rules, or those the predictions were made under. Raises ConfigError for a model that does not keep them."""
    rules = rules or predictions.meta.rules_for(predictions.meta.file)
    meta = predictions.meta
    check_count(meta.name, meta.parameters, rules)
    check_lineage(meta.name, foreign_lineage(meta), rules)
    nets = list(meta.nets())
    for net in nets:
        if net.config is not None:  # predictions of older versions hold none
            model = parse_config(net.config, f"the config in {meta.file}").model
            counted = trainable_parameters(model, len(predictions.classes))
            if counted != net.parameters:
                raise DataError(
                    f"{meta.file} says that {net.label()} has {net.parameters:,} parameters; its net has {counted:,}; "
                    "predict again"
                )
    if (total := sum(net.parameters for net in nets)) != meta.parameters:
        raise DataError(f"{meta.file} says {meta.parameters:,} parameters; its members have {total:,}; combine them again")
    return rules


def _check_nets(meta: NetFacts, runs: Sequence[Run], rules: Rules | None) -> list[str]:
    """Check the checkpoint of each net that predicted, where one of the runs holds it; returns the labels of the others."""
    missing = []
    for net in meta.nets():
        holders = [run for run in runs if net.weights_sha256 and run.weights_sha256(net.checkpoint) == net.weights_sha256]
        if holders:
            _check_weights(net, holders[0], rules)
        else:
            missing.append(net.label())
    return missing


def _check_weights(meta: NetFacts, run: Run, rules: Rules | None) -> None:
    """Count the checkpoint and judge its lineage. Raises CheckpointError if it is not the one that made the predictions."""
    net = load_net(run, meta.checkpoint)
    if net.facts.weights_sha256 != meta.weights_sha256:
        raise CheckpointError(
            f"{meta.file} was predicted with other weights than {run.checkpoint(meta.checkpoint)} now holds; predict again"
        )
    check_count(net.config.name, net.parameters, rules or net.config.rules)
    check_lineage(net.config.name, foreign_lineage(net.facts), rules or net.config.rules)


def submit(
    predictions: Predictions,
    output: Path,
    *,
    run: Run | None = None,
    runs: Sequence[Run] = (),
    rules: Rules | None = None,
    sample: Path | None = None,
    estimate: Path | None = None,
    overwrite: bool = False,
    command: str = "",
) -> SubmissionRecord:
    """Write the CSV and, beside it, `<name>.json`: the record of what made it. Returns the record.

    run: the run directory, whose summary, environment, metrics and readings of the test split join the record. runs: others, in
    which the checkpoints of the nets are looked for; `uncounted` of the record names those not found. rules: those of
    the competition; None: of the run's own config. sample: the competition's sample submission, which header, form and order
    of the ids, and the kind of labels are taken from. estimate: the record of the estimate that it was chosen by. Nothing is
    left behind when a check fails. Raises ConfigError (rules), DataError (predictions, or a CSV that reads back wrong).
    """
    if output.suffix != ".csv":
        raise DataError(f"the submission is named {output.name}; expected a name ending in .csv", remedy="output")
    if predictions.labels is not None:
        raise DataError(
            f"{predictions.meta.file} is of a labelled split; expected predictions of an unlabelled file (split submit)"
        )
    record_file = output.with_suffix(".json")
    refuse_existing(output, overwrite)
    refuse_existing(record_file, overwrite)
    given, rules = rules, check_rules(predictions, rules)
    images = len(predictions.ids)
    if given and given.rows not in (None, images) and predictions.meta.allowed_rows is None:  # predict asked its own rules
        raise DataError(
            f"{predictions.meta.file} is of {images:,} images; the rules expect {given.rows:,} (if that is right, predict "
            f"again and allow {images} rows)"
        )
    ordered, taken = predictions, dict[str, Any]()
    if sample is not None:
        ordered, rules, taken = _in_form_of(sample, predictions, rules)
        given = rules
    if run is not None:
        _check_weights(predictions.meta, run, given)
    missing = _check_nets(predictions.meta, runs, given) if run is None else []
    evidence: dict[str, Any] = {"run": run_record(run)} if run is not None else {}
    if estimate is not None:
        evidence["estimate"] = load_estimation(estimate).used_for(predictions, estimate, sha256_file(estimate))
    content = render_csv(ordered, rules)
    answers, faults = read_csv(content, ordered.ids, predictions.classes, rules)
    if faults or list(answers.values()) != ordered.predicted.tolist():
        reason = "; ".join(faults) or "reads back as other labels"
        raise DataError(f"the CSV of {predictions.meta.file} {reason}; nothing was written")
    counts = np.bincount(predictions.predicted, minlength=len(predictions.classes)).tolist()
    facts = {
        "format": FORMAT,
        "submission": output.name,
        "sha256": sha256_bytes(content),
        "rows": len(predictions.ids),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "cifar_small": package_version(),
        **commit(),
        "class_counts": dict(zip(predictions.classes, counts, strict=True)),
        "labels": dict(zip(predictions.classes, label_texts(predictions.classes, rules), strict=True)),
        **({"rules": given.model_dump(mode="json")} if given else {}),
        **taken,
        **({"uncounted": missing} if missing else {}),
        "predictions": predictions.meta,
        **evidence,
    }
    record = SubmissionRecord.model_validate(facts)
    before = {record_file: record_file.read_bytes() if record_file.is_file() else None}
    if run is not None:
        before |= copy_run_files(run, record_file, overwrite=overwrite)
    try:
        write_json(record_file, record.plain())  # before the CSV, so that a disk that fills up leaves no CSV without its record
        write_atomic(output, content)
        if output.read_bytes() != content:
            raise DataError(f"{output} does not read back as written; check the disk")
    except UserError:
        if not output.is_file() or output.read_bytes() != content:
            put_back(before)
        raise
    return record


def _in_form_of(sample: Path, predictions: Predictions, rules: Rules) -> tuple[Predictions, Rules, dict[str, Any]]:
    """Predictions in the order of a sample submission, the rules with its form, and what the record says of its order."""
    example = read_bytes(sample)
    rules, order = rules_of_sample(example, predictions.ids, predictions.classes, rules, str(sample))
    if order.tolist() == predictions.ids.tolist():
        return predictions, rules, {}
    ordered = predictions.at(order)
    assert ordered is not None, "rules_of_sample has checked the ids"
    return ordered, rules, {"order": {"file": sample.name, "sha256": sha256_bytes(example)}}


def submit_file(
    path: Path,
    output: Path,
    *,
    runs: Sequence[Path] = (),
    rules: Rules | None = None,
    sample: Path | None = None,
    estimate: Path | None = None,
    overwrite: bool = False,
    command: str = "",
) -> tuple[Predictions, SubmissionRecord]:
    """`submit` for a predictions file, with the run that it lies in, if any; returns the predictions and the record.

    runs: directories of the runs whose nets predicted, where the file does not lie in one.
    """
    predictions, run = load_predictions(path), Run(path.resolve().parent.parent)
    found = run if run.is_run and not predictions.meta.members else None
    given = [Run(folder).require() for folder in runs]
    if found is not None and (other := [one for one in given if one.folder.resolve() != found.folder.resolve()]):
        raise UserError(f"{path} lies in the run that predicted it, {found.folder}; {other[0].folder} has no effect: drop it")
    return predictions, submit(
        predictions,
        output,
        run=found,
        runs=given,
        rules=rules,
        sample=sample,
        estimate=estimate,
        overwrite=overwrite,
        command=command,
    )
