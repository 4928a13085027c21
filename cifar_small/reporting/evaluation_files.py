"""An evaluation for readers: tables for the terminal; JSON, CSV and pictures in a folder."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pandas as pd

from cifar_small.data import Images
from cifar_small.evaluation.evaluate import ClassScore, Evaluation, plain_evaluation
from cifar_small.figures.confusion import draw_confusion
from cifar_small.figures.evaluation import draw_confused, draw_mistakes, draw_per_class, draw_reliability
from cifar_small.figures.style import save
from cifar_small.files import write_atomic, write_json

FILES = (
    *("evaluation.json", "confusion.csv", "confusion.png", "confused.png", "per_class.png"),
    *("reliability.png", "mistakes.png"),
)
LONGEST = 20  # classes in the terminal's table; of more only the worst are shown
WORST, PAIRS = 10, 5


def title_of(evaluation: Evaluation) -> str:
    """Which predictions these are, in a line."""
    made = evaluation.predictions
    seed = "" if made["seed"] is None else f", seed {made['seed']}"
    views = f", views {made['views']}" if made["views"] else ""
    return f"{made['name']}{seed}: {made['split'] or 'unnamed split'}{views}, {made['parameters']:,} parameters"


def describe(evaluation: Evaluation) -> str:
    """The tables for the terminal: accuracy, calibration, classes (the worst of many), the most confused pairs."""
    low, high = evaluation.interval
    macro = "" if evaluation.macro_f1 is None else f"; macro F1 {evaluation.macro_f1:.2%}"
    lines = [
        title_of(evaluation),
        f"accuracy {evaluation.accuracy:.2%}, {evaluation.right:,} of {evaluation.images:,} images, "
        f"95 % interval {low:.2%} to {high:.2%}{macro}",
    ]
    if evaluation.predictions["split"] == "val" and evaluation.predictions["selection"] == "best":
        lines.append("val also chose the epoch of these weights, so this flatters them a little; only test does not")
    blocks = ["\n".join(lines), _calibration_text(evaluation), _class_text(evaluation)]
    if evaluation.confused:
        pairs = [f"  {one.true} -> {one.predicted}: {one.images:,} ({one.share:.1%})" for one in evaluation.confused[:PAIRS]]
        blocks.append("\n".join(["most confused, with the share of the true class:", *pairs]))
    return "\n\n".join(blocks)


def _calibration_text(evaluation: Evaluation) -> str:
    columns = {"as it is": evaluation.before}
    if scaling := evaluation.scaling:
        columns[f"at T = {scaling.temperature:.3f}"] = scaling.after
    rows = {
        "NLL, nats": [f"{one.nll:.4f}" for one in columns.values()],
        "Brier score": [f"{one.brier:.4f}" for one in columns.values()],
        "ECE (15 bins), %": [f"{100 * one.reliability.ece:.2f}" for one in columns.values()],
        "ECE by chance alone, %": [f"{100 * one.reliability.ece_by_chance:.2f}" for one in columns.values()],
    }
    table = pd.DataFrame.from_dict(rows, orient="index", columns=list(columns)).to_string()
    if scaling is None:
        return f"{table}\n(add --temperature-from the same run's predictions of val to see them after temperature scaling)"
    note = f"temperature fitted on {scaling.file}, {scaling.images:,} images of val"
    if scaling.of_halves:
        halves = " and ".join(f"{one:.3f}" for one in scaling.of_halves)
        note += f";\nthese are the same images, so each half is scored with the temperature of the other: {halves}"
    return f"{table}\n({note})"


def _class_text(evaluation: Evaluation) -> str:
    classes = sorted(evaluation.classes, key=lambda one: (1.0 if one.f1 is None else one.f1, one.name))
    shown = classes if len(classes) <= LONGEST else classes[:WORST]
    table = pd.DataFrame([_class_row(one) for one in shown]).to_string(index=False)
    rest = (
        f"\n({len(classes) - len(shown)} classes with a higher F1 are in evaluation.json)" if len(shown) < len(classes) else ""
    )
    return table + rest


def _class_row(one: ClassScore) -> dict[str, str]:
    def percent(share: float | None) -> str:
        return "-" if share is None else f"{100 * share:.1f}"

    interval = one.recall_interval
    return {
        "class": one.name,
        "images": f"{one.images:,}",
        "called so": f"{one.predicted:,}",
        "precision %": percent(one.precision),
        "recall %": percent(one.recall),
        "95 % interval": "-" if interval is None else f"{percent(interval[0])} to {percent(interval[1])}",
        "F1 %": percent(one.f1),
    }


def write_evaluation(evaluation: Evaluation, folder: Path, images: Images | None) -> list[Path]:
    """Write JSON, CSV and pictures into a folder and return their paths; mistakes are drawn where the images are given.

    images: those that were predicted, in any order.
    """
    title = title_of(evaluation)
    low, high = evaluation.interval
    accuracy = f"{title}\n{evaluation.accuracy:.2%} right, 95 % interval {low:.2%} to {high:.2%}"
    names = [one.name for one in evaluation.classes]
    for name in FILES:
        (folder / name).unlink(missing_ok=True)  # an evaluation that this one replaces may have drawn more than this one
    write_json(folder / "evaluation.json", plain_evaluation(evaluation))
    write_atomic(folder / "confusion.csv", _confusion_csv(evaluation, names))
    save(draw_confusion(evaluation.counts, names, accuracy), folder / "confusion.png")
    save(draw_per_class(evaluation.classes, accuracy), folder / "per_class.png")
    save(draw_reliability(evaluation, title), folder / "reliability.png")
    if evaluation.confused:
        save(draw_confused(evaluation.confused, f"{title}\nmost confused"), folder / "confused.png")
    if evaluation.mistakes and images is not None:
        place = {int(image): row for row, image in enumerate(images.ids)}
        tiles = [(images.images[place[one.id]], one) for one in evaluation.mistakes]
        wrong = evaluation.images - evaluation.right
        sheet = f"{title}\nthe {len(tiles)} most confident of {wrong:,} mistakes: what it is, what it was called"
        save(draw_mistakes(tiles, sheet), folder / "mistakes.png")
    return [path for name in FILES if (path := folder / name).exists()]


def _confusion_csv(evaluation: Evaluation, names: list[str]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["true \\ predicted", *names])
    writer.writerows([name, *np.asarray(row).tolist()] for name, row in zip(names, evaluation.counts, strict=True))
    return text.getvalue().encode()
