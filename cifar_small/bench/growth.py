"""How the time of an epoch grows as images, width and batch double: linear growth keeps step with the work."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cifar_small.bench.loops import Ours, Stopwatch, synthetic
from cifar_small.bench.report import Command, Spread, add_rounds, positive, ratios, spread, table
from cifar_small.budget import footprint, widened
from cifar_small.config import config_dict, parse_config
from cifar_small.schema import Config

GROWS = ("images", "width", "batch")
SUPER_LINEAR = 1.2  # time over work, against the row before, from which a growth is worth a look
DETAIL = f"""\
Doubles the images, then the net's width, then the batch, each one alone, and times whole epochs of the real training loop on
random images. "work" is multiply-adds x images of the epoch; "time over work" near 1 is growth in step with the work, and a row
above {SUPER_LINEAR} is marked. Doubling the batch leaves the work of an epoch as it is. All sizes take turns in each round.

  tools/bench growth configs/resnet_hour.yaml
  tools/bench growth configs/resnet_hour.yaml --images 4096 --doublings 3 --json growth.json"""


def _add_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--images", type=positive, default=1024, metavar="N", help="of the first row, at least (default: 1,024)")
    sub.add_argument("--doublings", type=positive, default=2, metavar="D", help="of each quantity (default: 2)")
    add_rounds(sub)


def _run(options: argparse.Namespace, config: Config) -> dict[str, Any]:
    largest = config.batch_size * 2**options.doublings
    images = -(-options.images // largest) * largest  # a multiple of every batch, so that no image is left out of an epoch
    steps = [("base", 1)] + [(what, 2**power) for what in GROWS for power in range(1, options.doublings + 1)]
    with TemporaryDirectory(prefix="cifar_small_bench_") as temporary:
        scratch = Path(temporary)
        loops, facts = [], []
        for what, factor in steps:
            larger, count = grown(config, what, factor, images)
            loops.append(Ours(synthetic(larger, count, scratch), scratch))
            macs = footprint(larger.model, len(loops[-1].trainer.classes), loops[-1].phase.settings.resolution).macs
            facts.append({"what": what, "factor": factor, "images": count, "batch": larger.batch_size, "macs": macs})
        for loop in loops:
            loop.run(Stopwatch(loop.device, min(2, loop.trainer.steps) - 1))
        seconds: list[list[float]] = [[] for _ in loops]
        for _ in range(options.rounds):
            for loop, values in zip(loops, seconds, strict=True):
                watch = Stopwatch(loop.device, loop.trainer.steps - 1)
                loop.run(watch)
                values.append(watch.total)
    rows = growth_rows(facts, seconds)
    print(render_growth(rows))
    return {"rounds": options.rounds, "rows": rows}


def grown(config: Config, what: str, factor: int, images: int) -> tuple[Config, int]:
    """The config and the number of images with one quantity times `factor`; the budget makes room for wider nets."""
    plain = config_dict(config)
    if what == "batch":
        plain["batch_size"] = factor * config.batch_size
    if what == "width":
        plain["model"] = widened(config.model, factor).model_dump(mode="json")
        plain["rules"]["max_params"] = 10**9
    return parse_config(plain, f"{config.name} with {factor} x the {what}"), images * factor if what == "images" else images


def growth_rows(facts: Sequence[dict[str, Any]], seconds: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
    """Each size with its spread, and its ratios to the size before it: half of the quantity, which for the first is `base`."""
    rows: list[dict[str, Any]] = []
    for fact, values in zip(facts, seconds, strict=True):
        row = {**fact, "seconds": list(values), "seconds_an_epoch": spread(values).plain()}
        if fact["what"] != "base":
            before = rows[-1] if fact["factor"] > 2 else rows[0]
            work = fact["macs"] * fact["images"] / (before["macs"] * before["images"])
            grew = ratios(values, before["seconds"])
            row |= {"time_ratio": grew.plain(), "work_ratio": work, "time_over_work": grew.median / work}
        rows.append(row)
    return rows


def render_growth(rows: Sequence[dict[str, Any]]) -> str:
    """A row for each size, with its ratio to the row before of the same quantity (the first: to `base`)."""
    cells = []
    for row in rows:
        what = row["what"] if row["what"] == "base" else f"{row['what']} x {row['factor']}"
        one = [what, f"{row['images']:,}", str(row["batch"]), f"{row['macs'] / 1e6:,.1f}"]
        one.append(Spread(**row["seconds_an_epoch"]).text(".3f"))
        if "time_ratio" in row:
            mark = " !" if row["time_over_work"] > SUPER_LINEAR else ""
            one += [Spread(**row["time_ratio"]).text(), f"{row['work_ratio']:.2f}", f"{row['time_over_work']:.2f}{mark}"]
        cells.append(one + [""] * (8 - len(one)))
    header = ("size", "images", "batch", "MMACs", "seconds an epoch", "time x", "work x", "time over work")
    marked = any(row.get("time_over_work", 0) > SUPER_LINEAR for row in rows)
    verdict = "!: time grows faster than the work" if marked else "no time grows faster than its work"
    return f"{table(header, cells)}\n{verdict} (by a factor above {SUPER_LINEAR}, the size before = 1)"


GROWTH = Command("growth", "how the time of an epoch grows with images, width and batch", DETAIL, _add_options, _run)
