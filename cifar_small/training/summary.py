"""What a run says of itself: a line an epoch, and at its end the predictions of val, the pictures and the summary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tqdm import tqdm

from cifar_small.config.hashing import config_dict
from cifar_small.config.phases import Phase
from cifar_small.config.schema import Config
from cifar_small.data.datamodule import DataModule
from cifar_small.figures.confusion import draw_confusion
from cifar_small.figures.run import draw_curves
from cifar_small.figures.style import save
from cifar_small.files import sha256_file, write_json
from cifar_small.inference.predict import load_net, predict_images
from cifar_small.metrics.classification import confusion_matrix, wilson_interval
from cifar_small.runs.directory import Run
from cifar_small.runs.records import Summary
from cifar_small.training.state import State
from cifar_small.wording import plural


def epoch_line(row: dict[str, Any], phases: Sequence[Phase], best: float, seconds_an_epoch: float) -> str:
    """An epoch's row of `metrics.csv` in words, with the time left of its phase: another phase's epochs may take far longer."""
    phase, epochs = phases[row["phase"]], phases[-1].end
    left = f"  {tqdm.format_interval((phase.end - row['epoch']) * seconds_an_epoch)} left"
    if phase.end < epochs:
        left = f"{left} in phase {phase.index + 1}" if row["epoch"] < phase.end else ""
    targets = " (mixed targets)" if row["train_targets"] == "mixed" else ""
    return (
        f"epoch {row['epoch']:>3}/{epochs}  lr {row['lr']:.3g}  train loss {row['train_loss']:.4f} "
        f"acc {row['train_accuracy']:.2%}{targets}  val loss {row['val_loss']:.4f} acc {row['val_accuracy']:.2%}  "
        f"best {best:.2%}  {row['images_per_second']:,.0f} img/s{left}"
    )


FEW_IMAGES = 100  # of val; below, one image is more than a point


def summarize(run: Run, config: Config, phases: Sequence[Phase], data: DataModule, state: State) -> Summary:
    """Predict val with the selected weights, draw the run's pictures, and write the summary, which is returned."""
    val, rows = data.val, state.rows
    assert val.labels is not None
    net = load_net(run)
    # On the machine that ends the run, which need not be the one that wrote the weights; in the precision of the run.
    here = replace(net, config=net.config.model_copy(update={"engine": config.engine}))
    predictions = predict_images(here, val, config.views, precision=state.precision)
    predictions = predictions.with_meta(split="val", run=run.name, command="", config=config_dict(net.config))
    val_sha256 = predictions.save(run.predictions / "val.npz")
    title = f"{config.name}, seed {config.seed}: {net.parameters:,} parameters"
    distilled = any(phase.settings.distill for phase in phases)
    bounds, epoch = [phase.end for phase in phases[:-1]], predictions.meta.epoch
    save(draw_curves(rows, bounds, title, selected=epoch, distilled=distilled), run.folder / "curves.png")
    counts = confusion_matrix(val.labels, predictions.predicted, len(val.classes))
    confusion_title = f"{title}\nval, {predictions.accuracy:.2%} right, views {config.views}"
    save(draw_confusion(counts, val.classes, confusion_title), run.folder / "confusion.png")
    correct = int(predictions.correct.sum())
    summary = Summary.build(
        config,
        predictions.meta,
        correct=correct,
        images=len(val),
        interval=wilson_interval(correct, len(val)),
        epochs=len(rows),
        epochs_planned=phases[-1].end,
        seconds=round(state.seconds, 1),
        val_predictions_sha256=val_sha256,
        metrics_sha256=sha256_file(run.metrics_file),
        train_images=len(data.images),
    )
    write_json(run.summary_file, summary.plain())
    return summary


def closing_line(summary: Summary, run: Run) -> str:
    """The summary of a run in words."""
    low, high = summary.val_interval
    rule = "the best epoch on val" if summary.selection == "best" else "the last epoch"
    early = f"{summary.ended_early}; " if summary.ended_early else ""
    if summary.selection == "best" and summary.val_images < FEW_IMAGES:
        rule += (
            f", the first of those equal on {plural(summary.val_images, 'image')}, of which one is "
            f"{100 / summary.val_images:.1f} points: raise data.val_size, or set selection: last"
        )
    return (
        f"val {summary.val_accuracy:.2%} (95 % interval {low:.2%} to {high:.2%}, views {summary.views}), epoch "
        f"{summary.selected_epoch} selected by: {rule}; {summary.parameters:,} parameters; {summary.seconds:,.0f} s; "
        f"{early}{run.folder}"
    )
