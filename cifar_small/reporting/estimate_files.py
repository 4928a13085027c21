"""Estimates without labels, and the study of the estimators, for readers: tables, JSON, CSV and a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path

from cifar_small.errors import DataError
from cifar_small.evaluation.calibrate import COVERAGE, MEAN, Judged, Study
from cifar_small.evaluation.estimate import FAR, DropCalibration, Estimation
from cifar_small.figures.estimate import draw_study
from cifar_small.figures.style import save
from cifar_small.files import to_csv, write_atomic, write_json
from cifar_small.metrics.estimators import ESTIMATORS
from cifar_small.reporting.tables import Table, to_markdown, to_text
from cifar_small.runs.estimation import EstimatedRun, EstimationRecord, LookedAt
from cifar_small.runs.formats import FORMAT

FILES = ("calibration.json", "calibration.csv", "calibration.md", "calibration.png")


def describe_estimation(estimation: Estimation) -> str:
    """The table of all runs, what each estimator assumes, and the warnings."""
    return "\n".join([to_text([estimation_table(estimation)]), *(f"warning: {warning}" for warning in estimation.warnings)])


def estimation_table(estimation: Estimation) -> Table:
    """A row for each run, the best first; the notes say what each estimator assumes."""
    chosen = estimation.calibration
    methods = [name for name in ESTIMATORS if any(name in run.raw for run in estimation.runs)]
    header = ("run", "val %", "estimate %", *methods)
    rows = []
    for run in sorted(estimation.runs, key=lambda run: -run.accuracy):
        found = f"{100 * run.accuracy:.1f} [{100 * run.low:.1f}, {100 * run.high:.1f}]"
        others = (f"{100 * run.raw[name]:.1f}" if name in run.raw else "" for name in methods)
        rows.append((run.name, f"{100 * run.val.accuracy:.2f}", found, *others))
    notes = [
        f"estimate: {chosen.method} with its drops from val times {chosen.slope:g}; {_held(chosen)} ({chosen.study}); the "
        "others are as published",
        *(
            ["slope and interval were fitted on labels of shifted test images: of those test images it is no blind estimate"]
            if "test" in chosen.base
            else []
        ),
        *(f"{name} ({ESTIMATORS[name].title}) assumes: {ESTIMATORS[name].assumes}" for name in methods),
        *estimation.notes,
    ]
    images = len(estimation.runs[0].file.ids)
    return Table(f"Expected accuracy on {images:,} images without labels", header, tuple(rows), tuple(notes))


def _held(chosen: DropCalibration) -> str:
    made = f"the interval is made to hold {COVERAGE:.0%} of truths"
    if chosen.held is None:
        return made
    where = f"where it estimated a drop of at most {100 * FAR:.0f} points"
    own = "; of val's own images, so that on a new file it holds less" if "val" in chosen.base else ""
    return f"{made}, and held {chosen.held:.1%} on families of shifts that it was not fitted on, {where}{own}"


def estimation_record(estimation: Estimation, command: str) -> EstimationRecord:
    """What is kept of an estimation."""
    first = estimation.runs[0].file.meta
    return EstimationRecord(
        format=FORMAT,
        estimated=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        looked_at=LookedAt(source=first.source, images=len(estimation.runs[0].file.ids), images_sha256=first.images_sha256),
        labels_of_the_file="not used",
        calibration=asdict(estimation.calibration),
        runs=[
            EstimatedRun(
                name=run.name,
                maker=run.file.meta.maker,
                predictions_sha256=run.file.meta.sha256,
                val_predictions_sha256=run.val.meta.sha256,
                val_accuracy=run.val.accuracy,
                estimate=run.accuracy,
                low=run.low,
                high=run.high,
                estimators=dict(run.raw),
            )
            for run in estimation.runs
        ],
        notes=list(estimation.notes),
        warnings=list(estimation.warnings),
    )


def load_calibration(path: Path) -> DropCalibration:
    """The chosen estimator of a `calibration.json`. Raises DataError."""
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))["chosen"]
        found = DropCalibration(**{**plain, "study": str(path)})
        numbers = found.slope, found.width, found.images, found.val_images
        shares = [value for value in (found.held, found.largest) if value is not None]
        if found.method not in ESTIMATORS or not all(float(value) > 0 for value in numbers) or not all(map(isfinite, shares)):
            raise ValueError
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; expected calibration.json of calibrate") from None
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{path} is not a calibration; expected calibration.json of calibrate") from None
    return found


def study_tables(study: Study) -> list[Table]:
    """The estimators on the families that were left out in turn, and on the untouched kinds."""
    shifts = len({trial.shift.name for trial in study.trials})
    runs = len({trial.run for trial in study.trials})
    near = f"where the true drop is below {100 * FAR:.0f} points"
    notes = [
        f"{runs} runs on {shifts} sets of images; points, {near}",
        "as published, scaled: mean absolute error before and after the slope; each family judged by a slope and a width "
        f"fitted on the others; held: truths within the interval, which is made for {COVERAGE:.0%}",
        f"the last three: trials, scaled error and share held where the estimated drop is at most {100 * FAR:.0f} points, as "
        "is seen without labels; all families count, also those far off throughout",
    ]
    if any("val" in trial.shift.base for trial in study.trials):
        notes.append("sets of val's own images: their chance is in no error, so that held is above what a new file would show")
    tables = [_judged_table("Estimators, leave one family of shifts out", study.judged, notes)]
    if study.untouched:
        kinds = ", ".join(study.untouched_kinds)
        tables.append(_judged_table(f"Untouched: {kinds}", study.untouched, ["fitted on all other kinds, and chosen by them"]))
    elif study.untouched_kinds:
        kinds, least = ", ".join(study.untouched_kinds), 100 * FAR
        tables[0] = replace(
            tables[0], notes=(*tables[0].notes, f"untouched: {kinds}: all {least:.0f} points or more below val, so not judged")
        )
    return tables


def _judged_table(title: str, judged: Sequence[Judged], notes: Sequence[str]) -> Table:
    rows = [
        (
            one.method,
            str(one.trials),
            f"{100 * one.plain:.2f}",
            f"{100 * one.scaled:.2f}",
            f"{100 * one.bias:+.2f}",
            f"{100 * one.covered:.1f}",
            f"{100 * one.width:.1f}",
            str(one.told),
            "" if one.told_scaled is None else f"{100 * one.told_scaled:.2f}",
            "" if one.told_covered is None else f"{100 * one.told_covered:.1f}",
        )
        for one in judged
    ]
    header = (
        "estimator",
        "trials",
        "as published",
        "scaled",
        "bias",
        "held %",
        "half width",
        "seen near",
        "error there",
        "held % there",
    )
    return Table(title, header, tuple(rows), tuple(notes))


def describe_study(study: Study) -> str:
    """The tables and what was chosen, for the terminal."""
    chosen = study.chosen
    interval = f"{chosen.width:g} x (1 point + a tenth of the drop)"
    said = f"chosen: {chosen.method}, its drops times {chosen.slope:g}, interval {interval}"
    return f"{to_text(study_tables(study))}\n{said}"


def write_study(study: Study, folder: Path, command: str) -> list[Path]:
    """Write the calibration (JSON), every trial (CSV), the tables (Markdown) and the picture; returns the paths."""
    paths = [folder / name for name in FILES]
    plain = {
        "command": command,
        "chosen": asdict(study.chosen),
        "judged": [asdict(one) for one in study.judged],
        "untouched_kinds": list(study.untouched_kinds),
        "untouched": [asdict(one) for one in study.untouched],
    }
    methods = [*ESTIMATORS, MEAN]
    header = ("run", "kind", "severity", "family", "images", "val", "truth", *methods)
    rows = [
        [
            *(trial.run, trial.shift.kind, trial.shift.severity, trial.shift.family, trial.images),
            *(f"{value:.4f}" for value in (trial.val, trial.truth)),
            *(f"{trial.raw[name]:.4f}" if name in trial.raw else None for name in methods),
        ]
        for trial in study.trials
    ]
    write_json(paths[0], plain)
    write_atomic(paths[1], to_csv(header, rows).encode())
    write_atomic(paths[2], (to_markdown(study_tables(study)) + "\n").encode())
    save(draw_study(study), paths[3])
    return paths
