"""An evaluation for readers: tables for the terminal; JSON, CSV and pictures in a folder."""

from __future__ import annotations

from pathlib import Path

from cifar_small.data import Images
from cifar_small.evaluation.evaluate import ClassScore, Evaluation, plain_evaluation
from cifar_small.evaluation.tta_ablation import LEARNED, Ablation
from cifar_small.figures.confusion import draw_confusion
from cifar_small.figures.evaluation import draw_confused, draw_mistakes, draw_per_class, draw_reliability
from cifar_small.figures.style import save
from cifar_small.files import to_csv, write_atomic, write_json
from cifar_small.metrics.calibration import Calibration
from cifar_small.reporting.comparison_tables import p_text
from cifar_small.reporting.tables import Table, to_text
from cifar_small.wording import plural

FILES = (
    *("evaluation.json", "confusion.csv", "confusion.png", "confused.png", "per_class.png"),
    *("reliability.png", "mistakes.png"),
)
LONGEST = 20  # classes in the terminal's table; of more only the worst are shown
WORST, PAIRS = 10, 5


def title_of(evaluation: Evaluation, short: bool = False) -> str:
    """Which predictions these are, in a line; short: for a picture, of an ensemble without the names of its members."""
    made = evaluation.predictions
    name = evaluation.short_name if short else made["name"]
    seed = "" if made["seed"] is None else f", seed {made['seed']}"
    views = f", views {made['views']}" if made["views"] else ""
    views += f", {made['form']}" if made["form"] else ""
    return f"{name}{seed}: {made['split'] or 'unnamed split'}{views}, {made['parameters']:,} parameters"


def describe_evaluation(evaluation: Evaluation) -> str:
    """The tables for the terminal: accuracy, calibration, classes (the worst of many), the most confused pairs."""
    low, high = evaluation.interval
    macro = "" if evaluation.macro_f1 is None else f"; macro F1 {evaluation.macro_f1:.2%}"
    top5 = "" if evaluation.top5 is None else f"; top-5 {evaluation.top5:.2%}"
    lines = [
        title_of(evaluation),
        f"accuracy {evaluation.accuracy:.2%}, {evaluation.right:,} of {evaluation.images:,} images, "
        f"95 % interval {low:.2%} to {high:.2%}{macro}{top5}",
    ]
    if evaluation.val_chose:
        lines.append(f"val also chose {evaluation.val_chose}, so its accuracy is optimistic; test is unbiased")
    blocks = ["\n".join(lines), _calibration_text(evaluation), _class_text(evaluation)]
    if evaluation.confused:
        pairs = [
            f"  {pair.true} -> {pair.predicted}: {pair.images:,} ({pair.share:.1%})" for pair in evaluation.confused[:PAIRS]
        ]
        blocks.append("\n".join(["most confused, with the share of the true class:", *pairs]))
    return "\n\n".join(blocks)


def _calibration_text(evaluation: Evaluation) -> str:
    found = {"as it is": evaluation.before}
    if scaling := evaluation.scaling:
        found[f"at T = {scaling.temperature:.3f}"] = scaling.after
    rows = [
        (name, *_calibration_cells(calibration), f"{100 * calibration.reliability.ece_by_chance:.2f}")
        for name, calibration in found.items()
    ]
    header = ("logits", "NLL, nats", "Brier score", "ECE (15 bins), %", "ECE by chance alone, %")
    table = to_text([Table("", header, tuple(rows))])
    if scaling is None:
        return table
    note = f"temperature fitted on {scaling.file}, {scaling.images:,} images of val"
    if scaling.crossed:
        note += f";\n{scaling.crossed}"
    return f"{table}\n({note})"


def _class_text(evaluation: Evaluation) -> str:
    classes = sorted(evaluation.classes, key=lambda score: (1.0 if score.f1 is None else score.f1, score.name))
    shown = classes if len(classes) <= LONGEST else classes[:WORST]
    header = ("class", "images", "predicted", "precision %", "recall %", "95 % interval", "F1 %")
    table = to_text([Table("", header, tuple(_class_cells(score) for score in shown))])
    left_out = len(classes) - len(shown)
    return f"{table}\n({left_out} classes with a higher F1 are in evaluation.json)" if left_out else table


def _class_cells(score: ClassScore) -> tuple[str, ...]:
    def percent(share: float | None) -> str:
        return "-" if share is None else f"{100 * share:.1f}"

    interval = "-" if score.recall_interval is None else " to ".join(percent(end) for end in score.recall_interval)
    counts = (f"{score.images:,}", f"{score.predicted:,}")
    return (score.name, *counts, percent(score.precision), percent(score.recall), interval, percent(score.f1))


def accuracy_table(evaluation: Evaluation) -> Table:
    """Accuracy and calibration, before temperature scaling and, where val gave a temperature, after."""
    low, high = evaluation.interval
    f1 = "" if evaluation.macro_f1 is None else f"{100 * evaluation.macro_f1:.2f}"
    shares = [f"{100 * evaluation.accuracy:.2f} [{100 * low:.2f}, {100 * high:.2f}]", f1]
    if evaluation.top5 is not None:
        shares.append(f"{100 * evaluation.top5:.2f}")
    rows = [("as it is", *shares, *_calibration_cells(evaluation.before))]
    notes = ["NLL in nats; Brier from 0 to 2; ECE in %, 15 bins"]
    if evaluation.scaling is not None:
        cells = _calibration_cells(evaluation.scaling.after)
        rows.append((f"logits / {evaluation.scaling.temperature:.3f}", *shares, *cells))
        notes.append(f"the temperature was fitted on the {evaluation.scaling.images:,} images of val")
        if evaluation.scaling.crossed:
            notes.append(evaluation.scaling.crossed)
    top5 = () if evaluation.top5 is None else ("top-5 %",)
    header = ("", "accuracy %", "macro F1 %", *top5, "NLL", "Brier", "ECE %")
    return Table("Scores", header, tuple(rows), tuple(notes), "scores")


def classes_table(evaluation: Evaluation) -> Table:
    """A row per class: images, recall with its interval, precision, F1."""
    rows = []
    for score in evaluation.classes:
        interval = score.recall_interval
        recall = "" if score.recall is None else f"{100 * score.recall:.1f}"
        span = "" if interval is None else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"
        shares = ("" if value is None else f"{100 * value:.1f}" for value in (score.precision, score.f1))
        rows.append((score.name, f"{score.images:,}", recall, span, *shares))
    header = ("class", "images", "recall %", "95 % interval", "precision %", "F1 %")
    return Table("By class", header, tuple(rows), (), "classes")


def _calibration_cells(calibration: Calibration) -> tuple[str, str, str]:
    """NLL, Brier score and ECE in percent."""
    return f"{calibration.nll:.4f}", f"{calibration.brier:.4f}", f"{100 * calibration.reliability.ece:.2f}"


def write_evaluation(evaluation: Evaluation, folder: Path, images: Images | None) -> list[Path]:
    """Write JSON, CSV and pictures into a folder and return their paths; mistakes are drawn where the images are given.

    images: those that were predicted, in any order.
    """
    title = title_of(evaluation, short=True)
    low, high = evaluation.interval
    accuracy = f"{title}\n{evaluation.accuracy:.2%} right, 95 % interval {low:.2%} to {high:.2%}"
    names = [score.name for score in evaluation.classes]
    for name in FILES:
        (folder / name).unlink(missing_ok=True)  # an evaluation that this one replaces may have drawn more than this one
    write_json(folder / "evaluation.json", plain_evaluation(evaluation))
    counts = ([name, *row] for name, row in zip(names, evaluation.counts.tolist(), strict=True))
    write_atomic(folder / "confusion.csv", to_csv(["true \\ predicted", *names], counts).encode())
    save(draw_confusion(evaluation.counts, names, accuracy), folder / "confusion.png")
    save(draw_per_class(evaluation.classes, accuracy), folder / "per_class.png")
    save(draw_reliability(evaluation, title), folder / "reliability.png")
    if evaluation.confused:
        save(draw_confused(evaluation.confused, f"{title}\nmost confused"), folder / "confused.png")
    if evaluation.mistakes and images is not None:
        place = {int(image): row for row, image in enumerate(images.ids)}
        tiles = [(images.images[place[mistake.id]], mistake) for mistake in evaluation.mistakes]
        wrong = evaluation.images - evaluation.right
        sheet = f"{title}\nthe {len(tiles)} most confident of {wrong:,} mistakes: what it is, what it was called"
        save(draw_mistakes(tiles, sheet), folder / "mistakes.png")
    return [path for name in FILES if (path := folder / name).exists()]


def describe_ablation(ablation: Ablation) -> str:
    """The table for the terminal, with what it does not say by itself."""
    plain = ablation.choices[0]
    accuracies = {choice.views: choice.accuracy for choice in ablation.choices}
    rows = []
    for choice in ablation.choices:
        low, high = choice.interval
        scores = (f"{100 * choice.accuracy:.2f}", f"{100 * low:.2f} to {100 * high:.2f}")
        tested: tuple[str, ...] = ("", "", "", "")
        if choice is not plain:
            tested = (
                f"{100 * (choice.accuracy - accuracies[choice.against]):+.2f}",
                str(choice.gained),
                str(choice.lost),
                p_text(choice.p),
            )
        cost = (f"{choice.passes:g}", f"{choice.seconds:.1f}")
        rows.append((choice.views, *cost, *scores, choice.against, *tested, f"{choice.nll:.4f}"))
    header = ("views", "passes", "seconds", "accuracy %", "95 % interval", "against", "points", "gained", "lost", "p", "NLL")
    tests = len(ablation.choices) - 1
    weights = ", ".join(f"{view} {weight:.3f}" for view, weight in ablation.weights)
    accuracy, nll = ablation.on_own_fit
    where = "{device}, {precision}, ".format(**ablation.meta) + plural(int(str(ablation.meta["threads"])), "thread")
    notes = (
        f"passes: forward passes per image; each of {ablation.views_forwarded} distinct views was forwarded once, and a choice "
        "costs the sum of its views",
        f"seconds: for the {ablation.images:,} images of val, measured once, {where}",
        "flip@0.1 and the like: one pass over all images, and the rest of the set for that share of them, the least certain",
        "gained, lost: images right only with these views, only with those that they stand against",
        f"p: exact McNemar test, each by itself; of {tests}, only one below {0.05 / tests:.3f} stands alone",
        f"{LEARNED}: weights fitted on val, each half of it answered with the weights of the other; on the images of the fit "
        f"itself they reach {accuracy:.2%} and NLL {nll:.4f}, which says nothing of other images; it shows what weighting "
        "could bring, and is no set that predict takes",
        f"weights fitted on all of val: {weights}",
    )
    return to_text([Table("", header, tuple(rows), notes)])
