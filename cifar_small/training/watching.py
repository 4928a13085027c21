"""What a run shows of itself while it goes on: `curves.png`, and a log for TensorBoard where `engine.track` asks for it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from typing import Any

from cifar_small.config.hashing import config_dict
from cifar_small.config.schema import Config
from cifar_small.errors import ConfigError
from cifar_small.figures.run import draw_run
from cifar_small.figures.style import save
from cifar_small.runs.directory import Run, flatten
from cifar_small.runs.records import Summary

Rows = Sequence[dict[str, Any]]  # as in metrics.csv
SHARE = 0.02  # of the time since they were drawn last that drawing the curves may take
FIRST_COST = 1.0  # seconds, until it is known


class LiveCurves:
    """Draws the curves of a run after an epoch, as often as that costs it no more than `SHARE` of its time."""

    def __init__(self, run: Run, clock: Callable[[], float] = time.monotonic) -> None:
        self.run, self.clock = run, clock
        self.cost, self.drawn = FIRST_COST, clock()

    def after_epoch(self, _: Rows) -> None:
        """Draw `curves.png`, unless it was drawn a short while ago."""
        begun = self.clock()
        if begun - self.drawn < self.cost / SHARE:
            return
        save(draw_run(self.run), self.run.folder / "curves.png")
        self.drawn = self.clock()
        self.cost = self.drawn - begun


SCALARS = {
    "loss/train": "train_loss",
    "loss/val": "val_loss",
    "accuracy/train": "train_accuracy",
    "accuracy/val": "val_accuracy",
    "learning rate": "lr",
    "gradient norm": "gradient_norm",
    "images per second": "images_per_second",
}


class TensorBoardLog:
    """The rows of `metrics.csv` and, at the end, settings and final scores, as event files in the run's `tensorboard` folder.

    They are written anew when a run is resumed, so that they always say what metrics.csv says.
    """

    def __init__(self, run: Run, rows: Rows) -> None:
        folder = run.folder / "tensorboard"
        if folder.exists():
            shutil.rmtree(folder)
        self.folder, self.writer = str(folder), _summary_writer()(str(folder))
        for row in rows:
            self._add(row)

    def after_epoch(self, rows: Rows) -> None:
        """Log the last row."""
        self._add(rows[-1])
        self.writer.flush()

    def _add(self, row: dict[str, Any]) -> None:
        for tag, key in SCALARS.items():
            if key in row:  # rows of an older version have no gradient norm
                self.writer.add_scalar(tag, row[key], row["epoch"])

    def end(self, config: Config, summary: Summary) -> None:
        """Log the settings as hyperparameters, beside what the run ended with."""
        from torch.utils.tensorboard.summary import hparams

        flat = flatten(config_dict(config)).items()
        settings = {key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in flat}
        scores = {
            "final/val accuracy": summary.val_accuracy,
            "final/parameters": summary.parameters,
            "final/minutes": summary.seconds / 60,
            "final/selected epoch": summary.selected_epoch,
        }
        for part in hparams(settings, scores):  # type: ignore[no-untyped-call]  # what SummaryWriter.add_hparams would put into a folder of its own
            self.writer.file_writer.add_summary(part)
        for tag, score in scores.items():
            self.writer.add_scalar(tag, score, summary.epochs)
        self.writer.close()


def check_tracking(config: Config) -> None:
    """Raise ConfigError where a run asks for a log whose package is not there: before it starts, not after an epoch."""
    if config.engine.track == "tensorboard":
        _summary_writer()


def _summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ConfigError(
            'engine.track tensorboard needs the package tensorboard, which is not installed; pip install "cifar_small[track]", '
            "or set engine.track: none"
        ) from None
    return SummaryWriter
