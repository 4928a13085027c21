"""Speed, size and accuracy of trained nets on a CPU: by torch in fp32 and bf16, by ONNX Runtime in fp32 and int8.

Every backend is timed from uint8 images in memory to logits in memory, normalization included, on images of the run's val.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from cifar_small.data import Images
from cifar_small.data.datamodule import to_tensor
from cifar_small.environment import autocast, computes_in_bf16, integer_sums_saturate, machine_facts, no_bar
from cifar_small.errors import CheckpointError, UserError
from cifar_small.export.onnx_export import checked_onnx
from cifar_small.export.quantize import bytes_of, calibration_images, dynamic_int8, static_int8
from cifar_small.files import write_atomic, write_json
from cifar_small.inference.forward import compute_logits
from cifar_small.inference.onnx_session import as_onnx_net, open_session, read_onnx, require_extra, run_session
from cifar_small.inference.predict import Net, load_net, load_own_splits, relocate_net
from cifar_small.metrics.significance import paired_difference
from cifar_small.metrics.spread import BUSY, Spread, ratios, spread
from cifar_small.reporting.tables import Table, aligned, markdown_grid
from cifar_small.runs.directory import Run, read_json
from cifar_small.wording import plural

BATCHES = (1, 64, 512)  # the first for the latency of one image, the others for throughput
LEAST_CALLS = 3  # counted in each measurement, after one that is not, unless they take as long as three measurements
CPU = torch.device("cpu")
Pixels = npt.NDArray[np.uint8]  # (B, S, S, 3), as stored
Call = Callable[[Pixels], object]


@dataclass(frozen=True)
class Backend:
    """One way to compute a net. `start` takes a number of threads and returns what is timed."""

    name: str
    size: int | None  # bytes of the file that holds the net, None where there is none
    net: Net  # for accuracy, by the inference path
    precision: str
    start: Callable[[int], Call]


@dataclass(frozen=True)
class Timing:
    """Seconds that one call took, the median of each round."""

    threads: int
    batch: int
    seconds: list[float]


@dataclass(frozen=True)
class Measured:
    """A backend's figures beside those of torch fp32, which is the first of each net."""

    backend: str
    size: int | None  # bytes of the file that holds the net
    val_accuracy: float
    difference: tuple[float, float, float]  # to torch fp32 on the same images, and its 95 % interval
    timings: list[Timing]

    def at(self, threads: int, batch: int) -> list[float]:
        """The rounds of one size."""
        return next(timing.seconds for timing in self.timings if (timing.threads, timing.batch) == (threads, batch))


def backends_of(run: Run, net: Net, train: Images, int8: bytes | None, settings: Settings) -> list[Backend]:
    """All backends of a run's net, torch fp32 first; `int8` is the content of its quantized file, None to make one.

    bf16 is left out where the processor does not compute in it: torch then takes many times as long as in fp32.
    """
    model = net.model.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    weights = run.best.stat().st_size
    fp32 = checked_onnx(net, "ONNX fp32")[0]
    images = calibration_images(net, train)
    quantized = int8 or static_int8(net, fp32, images)[0]
    backends = [
        Backend(f"torch {precision}", weights, net, precision, _torch_call(net, model, precision))
        for precision in ("fp32", *(("bf16",) if computes_in_bf16(CPU) else ()))
    ]
    for name, content in (("ONNX fp32", fp32), ("ONNX int8", quantized)):
        file_net = as_onnx_net(net, content, name)
        backends.append(Backend(name, len(content), file_net, "fp32", _onnx_call(content)))
    if settings.dynamic:
        integer = dynamic_int8(net.model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        call = _torch_call(net, integer, "fp32")
        backends.append(Backend("torch int8 Linear", bytes_of(integer), replace(net, model=integer), "fp32", call))
    return backends


def _torch_call(net: Net, model: nn.Module, precision: str) -> Callable[[int], Call]:
    @torch.no_grad()
    def call(pixels: Pixels) -> Tensor:
        images = net.preprocess(torch.from_numpy(pixels).permute(0, 3, 1, 2))
        with autocast(CPU, precision):
            logits: Tensor = model(images)
        return logits

    def start(threads: int) -> Call:
        torch.set_num_threads(threads)
        return call

    return start


def _onnx_call(content: bytes) -> Callable[[int], Call]:
    def start(threads: int) -> Call:
        session = open_session(content, threads)
        return lambda pixels: run_session(session, pixels)

    return start


def take_turns(
    calls: Mapping[str, Call], pixels: Pixels, rounds: int, seconds: float, done: Callable[[], object] = lambda: None
) -> dict[str, list[float]]:
    """Seconds a call for each of `rounds`; within a round each is called for about `seconds`, one after the other.

    done: called after each measurement.
    """
    for call in calls.values():
        call(pixels)  # claims memory and chooses kernels
    values: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            values[name].append(_seconds_a_call(call, pixels, seconds))
            done()
    return values


def _seconds_a_call(call: Call, pixels: Pixels, least: float) -> float:
    """The median of as many calls as fit, after one that is not counted: it finds cold caches, and idle threads of others.

    Of calls of 128 px images in batches of 512, which take seconds, one is enough: rounds say how far they spread.
    """
    call(pixels)
    taken: list[float] = []
    while sum(taken) < (LEAST_CALLS * least if len(taken) < LEAST_CALLS else least):
        began = time.perf_counter()
        call(pixels)
        taken.append(time.perf_counter() - began)
    return spread(taken).median


def measure(backends: Sequence[Backend], val: Images, threads: Sequence[int], rounds: int, seconds: float) -> list[Measured]:
    """Accuracy of all backends on all of val, and their speed, with every number of threads."""
    assert val.labels is not None
    pixels = np.resize(val.images, (max(BATCHES), *val.images.shape[1:]))  # repeated from the start if there are too few
    images = to_tensor(val, CPU)
    right = []
    for backend in backends:
        net = backend.net
        size = net.config.engine.eval_batch_size
        logits = compute_logits(net.model, images, net.preprocess, "none", backend.precision, size, progress=True)
        right.append(logits.argmax(1).numpy() == val.labels)
    timings: dict[str, list[Timing]] = {backend.name: [] for backend in backends}
    with tqdm(
        total=len(threads) * len(BATCHES) * rounds * len(backends), disable=no_bar(), desc=backends[0].net.config.name
    ) as bar:
        for number in threads:
            calls = {backend.name: backend.start(number) for backend in backends}
            for batch in BATCHES:
                for name, values in take_turns(calls, pixels[:batch], rounds, seconds, bar.update).items():
                    timings[name].append(Timing(number, batch, values))
    return [
        Measured(backend.name, backend.size, float(hits.mean()), paired_difference(right[0], hits), timings[backend.name])
        for backend, hits in zip(backends, right, strict=True)
    ]


HEADER = (
    *("backend", "net", "threads", "ms at batch 1", "images/s at 64", "images/s at 512", "speed at 64, torch fp32 = 1"),
    *("MB", "val %", "difference in points (95 %)"),
)


def rows_of(name: str, measured: Sequence[Measured]) -> list[list[str]]:
    """The table's rows of one net: a backend with each number of threads."""
    rows = []
    first = measured[0]
    for threads in dict.fromkeys(timing.threads for timing in first.timings):
        for backend in measured:
            latency, *through = (spread(backend.at(threads, batch)) for batch in BATCHES)
            difference, low, high = (100 * value for value in backend.difference)
            rows.append(
                [
                    backend.backend,
                    name,
                    str(threads),
                    Spread(*(1000 * value for value in (latency.median, latency.low, latency.high))).text(),
                    *(f"{batch / value.median:,.0f}" for batch, value in zip(BATCHES[1:], through, strict=True)),
                    "1" if backend is first else ratios(first.at(threads, BATCHES[1]), backend.at(threads, BATCHES[1])).text(),
                    "" if backend.size is None else f"{backend.size / 1e6:.2f}",
                    f"{100 * backend.val_accuracy:.2f}",
                    "" if backend is first else f"{difference:+.2f} ({low:+.2f} .. {high:+.2f})",
                ]
            )
    return rows


@dataclass(frozen=True)
class Settings:
    """How `bench_runs` measures."""

    threads: tuple[int, ...]
    rounds: int = 5
    seconds: float = 0.3  # of each measurement
    dynamic: bool = False  # torch's int8 of linear layers too


def bench_runs(
    runs: Sequence[Run], files: Sequence[Path], settings: Settings, *, data_root: str | None, output: Path | None, command: str
) -> str:
    """Measure every run's net by every backend, write the figures to `output` (.md or .json), and return table and facts.

    files: int8 files of the runs. Raises CheckpointError for one of no run's weights.
    """
    require_extra()
    nets = [relocate_net(load_net(run), None, data_root) for run in runs]
    contents = _match(nets, files)
    started = datetime.now(UTC).isoformat(timespec="seconds")
    load = list(os.getloadavg()) if hasattr(os, "getloadavg") else None  # Windows has none
    facts = machine_facts(CPU, "fp32") | {
        "onnxruntime": _onnxruntime_version(),
        "integer_sums_saturate": integer_sums_saturate(),
        "computes_in_bf16": computes_in_bf16(CPU),
    }
    results, rows = [], list[list[str]]()
    with _threads_kept():
        for run, net in zip(runs, nets, strict=True):
            train, val = load_own_splits(net)
            backends = backends_of(run, net, train, contents.get(net.facts.weights_sha256), settings)
            measured = measure(backends, val, settings.threads, settings.rounds, settings.seconds)
            rows += rows_of(run.name, measured)
            results.append(
                {
                    "run": run.name,
                    "parameters": net.parameters,
                    "val_images": len(val),
                    **net.facts.picked("weights_sha256", "config_sha256"),
                    "engines": [_plain(backend) for backend in measured],
                }
            )
    table, notes = Table("", HEADER, tuple(map(tuple, rows))), _notes(facts, load, settings, results)
    if output is not None and output.suffix == ".json":
        head = {"bench": "inference", "command": command, "started": started, "environment": facts, "load_average": load}
        write_json(output, {**head, "settings": asdict(settings), "results": results})
    elif output is not None:
        write_atomic(output, "\n".join([markdown_grid(table), "", *notes, "", f"`{command}`", ""]).encode())
    return "\n".join([aligned(table), *notes])


def read_figures(path: Path, names: Mapping[str, str]) -> Table:
    """The table of a file that `bench_runs` wrote as .json. Raises CheckpointError for another or a damaged file.

    names: by hash of the weights, what the nets are called beside it; figures of other weights are labelled.
    """
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise CheckpointError(f"{path} {found}; expected a JSON file written by cifar-small bench")
    written = read_json(path)
    if not isinstance(written, dict) or written.get("bench") != "inference":
        raise CheckpointError(f"{path} contains no latency figures; expected a JSON file written by cifar-small bench")
    try:
        results = written["results"]
        strange = [str(result["run"]) for result in results if result["weights_sha256"] not in names]
        rows = [
            tuple(row)
            for result in results
            for row in rows_of(
                names.get(result["weights_sha256"], result["run"]), [_read_measured(each) for each in result["engines"]]
            )
        ]
        notes = _notes(written["environment"], written["load_average"], Settings(**written["settings"]), results)
        notes += [f"not comparable: the figures of {run} belong to weights that no entry here has" for run in strange]
        return Table("Speed, size and accuracy", HEADER, tuple(rows), (*notes, str(written["command"])), "speed")
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} is damaged or was written by another version of cifar-small bench ({type(error).__name__}: {error}); "
            "measure again"
        ) from error


def _plain(measured: Measured) -> dict[str, object]:
    """For JSON, where a backend is called an engine."""
    values = asdict(measured)
    return {"engine": values.pop("backend"), **values}


def _read_measured(plain: Mapping[str, Any]) -> Measured:
    rest = {key: value for key, value in plain.items() if key not in ("engine", "timings", "difference")}
    timings = [Timing(**timing) for timing in plain["timings"]]
    return Measured(plain["engine"], timings=timings, difference=tuple(plain["difference"]), **rest)


def _match(nets: Sequence[Net], files: Sequence[Path]) -> dict[str, bytes]:
    """The int8 files by the weights they were made from."""
    contents: dict[str, bytes] = {}
    for path in files:
        content = read_onnx(path)
        properties = open_session(content, 1).get_modelmeta().custom_metadata_map
        weights = properties["weights_sha256"]
        if properties["precision"] != "int8":
            raise UserError(f"{path} is in {properties['precision']}; expected an int8 file written by cifar-small quantize")
        if weights not in {net.facts.weights_sha256 for net in nets}:
            raise CheckpointError(
                f"{path} was made from {properties['name']}, seed {properties['seed']} (weights {weights[:12]}), "
                "which is none of these runs; add its run, or quantize again"
            )
        if weights in contents:
            raise UserError(
                f"{path} is the second int8 file of {properties['name']}, seed {properties['seed']}; expected one per run"
            )
        contents[weights] = content
    return contents


def _notes(facts: Mapping[str, Any], load: Sequence[float] | None, settings: Settings, results: Sequence[Any]) -> list[str]:
    images = " and ".join(dict.fromkeys(f"{result['val_images']:,}" for result in results))
    old = " (no VNNI: int8 is slower than on newer processors)" if facts.get("integer_sums_saturate") else ""
    notes = [
        f"{facts['device']}{old}, {plural(facts['cpu_count'], 'CPU thread')}, torch {facts['packages']['torch']}, onnxruntime "
        f"{facts['onnxruntime']}; from uint8 images to logits, preprocessing included",
        f"medians of {settings.rounds} rounds, backends taking turns; lowest and highest in brackets; val: {images} "
        "images, one view; interval: paired, on the same images",
    ]
    if not facts.get("computes_in_bf16", True):
        notes.append("no torch bf16: this processor does not compute in it, and torch would take many times as long as in fp32")
    if settings.dynamic:
        notes.append("torch int8 Linear: dynamic quantization of the linear layers alone; every convolution stays in fp32")
    if load is not None and load[0] > BUSY:
        notes.append(
            f"load average {load[0]:.1f} at start: other processes shared these cores; ratios are more reliable than figures"
        )
    return notes


def _onnxruntime_version() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)


@contextmanager
def _threads_kept() -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
