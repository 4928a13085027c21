"""What a run says of itself: a line an epoch, and at its end the predictions of val, the pictures and the summary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from cifar_small.config.hashing import config_hash, recipe_hash
from cifar_small.config.phases import Phase
from cifar_small.config.schema import Config
from cifar_small.data.datamodule import DataModule
from cifar_small.figures.confusion import draw_confusion
from cifar_small.figures.run import draw_curves
from cifar_small.files import sha256_file
from cifar_small.inference.predict import load_net, predict_images
from cifar_small.metrics.classification import confusion_matrix, wilson_interval
from cifar_small.runs.directory import Run


def epoch_line(row: dict[str, Any], epochs: int, best: float, seconds_an_epoch: float) -> str:
    """An epoch's row of `metrics.csv` in words, with the time left of a run of `epochs`."""
    left = tqdm.format_interval((epochs - row["epoch"]) * seconds_an_epoch)
    targets = " (mixed targets)" if row["train_targets"] == "mixed" else ""
    return (
        f"epoch {row['epoch']:>3}/{epochs}  lr {row['lr']:.4f}  train loss {row['train_loss']:.4f} "
        f"acc {row['train_accuracy']:.2%}{targets}  val loss {row['val_loss']:.4f} acc {row['val_accuracy']:.2%}  "
        f"best {best:.2%}  {row['images_per_second']:,.0f} img/s  {left} left"
    )


def summarize(
    run: Run, config: Config, phases: Sequence[Phase], problem: DataModule, rows: Sequence[dict[str, Any]], precision: str
) -> dict[str, Any]:
    """Predict val with the selected weights and draw the run's pictures; returns what stands in its summary.

    rows: an epoch each, as in `metrics.csv`; precision: what the run was trained in, which need not be this machine's choice.
    """
    val = problem.val
    assert val.labels is not None
    net = load_net(run)
    predictions = predict_images(net, val, config.views, precision=precision)
    predictions.meta.update(split="val", run=run.folder.name, command="")
    val_sha256 = predictions.save(run.predictions / "val.npz")
    title = f"{config.name}, seed {config.seed}: {net.parameters:,} parameters"
    draw_curves(rows, [phase.end for phase in phases[:-1]], title, run.folder / "curves.png")
    counts = confusion_matrix(val.labels, predictions.predicted, len(val.classes))
    confusion_title = f"{title}\nval, {predictions.accuracy:.2%} right, views {config.views}"
    draw_confusion(counts, val.classes, confusion_title, run.folder / "confusion.png")
    return {
        "name": config.name,
        "seed": config.seed,
        "parameters": net.parameters,
        "max_params": config.rules.max_params,
        "epochs": len(rows),
        "epochs_planned": phases[-1].end,
        "selection": config.selection,
        "selected_epoch": net.facts["epoch"],
        "val_accuracy": predictions.accuracy,
        "val_interval": list(wilson_interval(int(predictions.correct.sum()), len(val))),
        "val_images": len(val),
        "views": config.views,
        "val_accuracy_plain": net.facts["val_accuracy"],
        "data": problem.facts,
        "config_sha256": config_hash(config),
        "recipe_sha256": recipe_hash(config),
        "weights_sha256": net.facts["weights_sha256"],
        "val_predictions_sha256": val_sha256,
        "metrics_sha256": sha256_file(run.metrics_file),
        "lineage": net.facts["lineage"],
    }


def closing_line(summary: dict[str, Any], run: Run) -> str:
    """The summary of a run in words."""
    low, high = summary["val_interval"]
    rule = "the best epoch on val" if summary["selection"] == "best" else "the last epoch"
    return (
        f"val {summary['val_accuracy']:.2%} (95 % interval {low:.2%} to {high:.2%}, views {summary['views']}), epoch "
        f"{summary['selected_epoch']} selected by: {rule}; {summary['parameters']:,} parameters; {summary['seconds']:,.0f} s; "
        f"{run.folder}"
    )
