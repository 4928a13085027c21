"""Steps a second of the training loop, against the bare net and against the loop a student project has."""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.loops import BareModelLoop, DataLoaderLoop, Loop, TrainerLoop, alternate, require_steps, synthetic
from benchmarks.report import Benchmark, add_data, add_rounds, positive
from cifar_small.config.resolved import resolve_config
from cifar_small.config.schema import Config
from cifar_small.errors import UserError
from cifar_small.metrics.spread import Spread, ratios, spread
from cifar_small.models.convolutions import FastConvolutions
from cifar_small.models.counting import footprint
from cifar_small.reporting.tables import Table, aligned

IMAGES = 5000
HEADER = ("loop", "precision", "layout", "steps/s", "images/s", "GFLOP/s", "ms a step (lowest .. highest)")
DETAIL = """\
Four loops take turns, --rounds times --steps steps each:
  ours      the training loop of the config: augmentation, mixing, forward, backward, update, checks
  ceiling   its net, optimizer, precision, layout and micro-batches on one random batch already on the device
  torch     the ceiling with torch's own gradients of convolutions, where ours are other ones: on a CPU, without engine.compile
  plain     what a student project has: PIL images, torchvision's RandomCrop, RandomHorizontalFlip, ToTensor and Normalize in a
            DataLoader, the same net in eager float32 and contiguous layout, SGD, loss.item() in every step
Warm-up and the first step of each round are not counted; what an epoch costs at its start (order and draws) is shared over the
steps of our loop, and the start of the DataLoader's workers is not held against the plain one.
GFLOP/s is nominal: 6 x multiply-adds of an image of the phase's size x images/s; 2 operations each, and a backward pass of
twice the work.

  tools/bench steps configs/resnet_hour.yaml
  tools/bench steps configs/resnet_hour.yaml --data real --steps 50 --rounds 5 --json steps.json
  tools/bench steps configs/resnet_hour.yaml --engine.precision fp32 --workers 0"""


def _add_options(sub: argparse.ArgumentParser) -> None:
    add_data(sub, IMAGES)
    add_rounds(sub)
    sub.add_argument("--steps", type=positive, default=20, metavar="N", help="counted steps in a round (default: 20)")
    sub.add_argument("--phase", type=int, default=0, metavar="I", help="phase of the config, from 0 (default: 0)")
    sub.add_argument("--workers", type=int, default=2, metavar="W", help="of the plain loop's DataLoader (default: 2)")


NOT_BARE = {  # settings with which the bare net does other work than our loop
    "distill": "teachers, which the bare net does not ask",
    "select": "select, so that a part of a batch is trained on, and the bare net trains on all of it",
    "sam": "sam, two passes a step, of which the bare net makes one",
    "cached_views": "cached_views, so that the head is trained alone, and the bare net trains with its backbone",
}


def _run(options: argparse.Namespace, config: Config) -> dict[str, Any]:
    if options.workers < 0:
        raise UserError(f"--workers {options.workers}: expected 0 or more processes of the DataLoader")
    if options.data == "real" and options.images:
        raise UserError(
            "--images has no effect on --data real, which takes all training images; drop it, or set data.train_limit"
        )
    phases = resolve_config(config).phases
    for name, what in NOT_BARE.items():
        # Teachers are read for all phases; the others are of the phase that is run.
        looked_at = phases if name == "distill" else phases[options.phase : options.phase + 1]
        if any(getattr(phase.settings, name) for phase in looked_at):
            raise UserError(
                f"{config.name} has {what}; what a step costs beside the net cannot be told: add --{name} null, or "
                f"--phases.{options.phase}.{name} null for a phase that has it, or choose another --phase"
            )
    with TemporaryDirectory(prefix="cifar_small_bench_") as temporary:
        scratch = Path(temporary)
        if options.data == "synthetic":
            config = synthetic(config, max(options.images or IMAGES, (options.steps + 1) * config.batch_size), scratch)
        ours = TrainerLoop(config, scratch, options.phase)
        side = ours.phase.settings.resolution
        require_steps(ours, options.steps)
        data = ours.trainer.data
        loops: dict[str, Loop] = {"ours": ours, "ceiling": BareModelLoop(TrainerLoop(config, scratch, options.phase))}
        if isinstance(ours.trainer.convolutions, FastConvolutions):
            loops["torch"] = BareModelLoop(TrainerLoop(config, scratch, options.phase), plain_gradients=True)
        loops["plain"] = DataLoaderLoop(config, data, options.workers, side)
        size = footprint(config.model, len(data.classes), side)
        print(
            f"{size.trainable:,} parameters, {size.macs / 1e6:,.1f} million multiply-adds; {len(data.images):,} "
            f"{options.data} images, batches of {config.batch_size}, phase {options.phase}\n"
            f"{options.rounds} rounds of {options.steps} steps; GFLOP/s is nominal: 6 x multiply-adds "
            "(at the resolution trained at) x images/s",
            flush=True,
        )
        seconds = alternate(loops, options.steps, options.rounds)
        results = step_results(seconds, config.batch_size, size.macs)
        for name, loop in loops.items():
            results["loops"][name] |= {"precision": loop.precision, "layout": loop.layout}
        results |= {
            "data": options.data,
            "images": len(data.images),
            "batch_size": config.batch_size,
            "phase": options.phase,
            "workers": options.workers,
            "steps": options.steps,
            "rounds": options.rounds,
            "macs": size.macs,
            "resolution": side,
            "parameters": size.trainable,
        }
    print(render_steps(results))
    return results


def step_results(seconds: dict[str, list[float]], batch: int, macs: int) -> dict[str, Any]:
    """Rates and ratios from seconds a step (per loop, per round) and the multiply-adds an image takes."""
    loops = {
        name: {
            "seconds_a_step": values,
            "milliseconds_a_step": spread([1000 * value for value in values]).plain(),
            "steps_per_second": spread([1 / value for value in values]).plain(),
            "images_per_second": spread([batch / value for value in values]).plain(),
            "gflops": spread([6 * macs * batch / value / 1e9 for value in values]).plain(),
        }
        for name, values in seconds.items()
    }
    around = [1 - bare / whole for bare, whole in zip(seconds["ceiling"], seconds["ours"], strict=True)]
    return {
        "loops": loops,
        "data_path_share": spread(around).plain(),
        "ours_over_plain": ratios(seconds["plain"], seconds["ours"]).plain(),
        "ours_over_ceiling": ratios(seconds["ceiling"], seconds["ours"]).plain(),
        "ceiling_over_torch": ratios(seconds["torch"], seconds["ceiling"]).plain() if "torch" in seconds else None,
    }


def render_steps(results: dict[str, Any]) -> str:
    """The table of the loops and what follows from it."""
    rows = [
        [
            name,
            one["precision"],
            one["layout"],
            f"{one['steps_per_second']['median']:.2f}",
            f"{one['images_per_second']['median']:,.0f}",
            f"{one['gflops']['median']:,.1f}",
            Spread(**one["milliseconds_a_step"]).text(".1f"),
        ]
        for name, one in results["loops"].items()
    ]
    share, plain, ceiling = (Spread(**results[key]) for key in ("data_path_share", "ours_over_plain", "ours_over_ceiling"))
    gradients = results["ceiling_over_torch"]
    percent = Spread(*(100 * value for value in (share.median, share.low, share.high)))
    return "\n".join(
        [
            aligned(Table("", HEADER, tuple(map(tuple, rows)))),
            f"data path, mixing and checks cost {percent.text('.1f')} % of a step",
            f"our loop is {plain.text()} x the plain reference",
            f"our loop is {ceiling.text()} x the ceiling",
            *([f"the ceiling is {Spread(**gradients).text()} x itself with torch's gradients"] if gradients else ()),
        ]
    )


STEPS = Benchmark("steps", "training steps a second, against the bare net and a plain loop", DETAIL, _add_options, _run)
