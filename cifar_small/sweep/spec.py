"""The schema of a sweep file: a base config, what varies, how its cells are found, and with which seeds each is run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError, model_validator

from cifar_small.config.messages import describe_problems
from cifar_small.config.schema import PositiveInt, Section, Seed
from cifar_small.config.schema.patterns import CELL_LABEL, SWEEP_NAME
from cifar_small.config.shipped import require_config
from cifar_small.config.strict_yaml import read_yaml
from cifar_small.errors import ConfigError

# What no cell may set, with the reason: these name the run, or change the images and rules by which cells are compared.
FIXED = {
    "name": "it is made of the names of the sweep and the cell",
    "seed": "list the seeds under seeds",
    "rules": "all cells answer to the same rules",
    "data.source": "all cells are compared on the same val images",
    "data.root": "all cells are compared on the same val images",
    "data.val_size": "all cells are compared on the same val images",
    "data.split_seed": "all cells are compared on the same val images",
}


class Range(Section):
    """An interval that random and tpe draw from, both ends included."""

    low: float
    high: float
    type: Literal["float", "int"] = "float"
    log: bool = False  # draw uniformly on a logarithmic scale

    @model_validator(mode="after")
    def _ends_agree(self) -> Range:
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} must be below high {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"log needs low above 0, got {self.low:g}: raise low or drop log")
        if self.type == "int" and not (self.low.is_integer() and self.high.is_integer()):
            raise ValueError(f"type int needs whole numbers, got low {self.low:g} and high {self.high:g}")
        return self


Settings = dict[str, object]  # by dotted key, as a config's overrides
Space = Range | tuple[Any, ...]  # an interval, or the values to choose from


class NamedCell(Section):
    """A cell written by hand: its label, and the settings by dotted key in which it differs from the base config."""

    model_config = ConfigDict(extra="allow")

    label: Annotated[str, Field(pattern=CELL_LABEL)]  # also names the run directories

    @property
    def settings(self) -> Settings:
        """What the cell sets; without any it is the base config itself."""
        return dict(self.model_extra or {})


class Prune(Section):
    """Stopping trials early, asked after each epoch of a trial's first seed.

    A trial is stopped whose best epoch so far is below the median of what the others had at that epoch, stopped there or not.
    """

    warmup_epochs: PositiveInt  # epochs before which no trial is stopped
    startup_trials: PositiveInt = 5  # complete trials before the first is stopped


class Sweep(Section):
    """A sweep; configs/sweeps/ shows complete examples."""

    name: Annotated[str, Field(pattern=SWEEP_NAME)]
    config: str  # the base config; a relative path counts from the sweep file's folder
    method: Literal["grid", "random", "tpe"] = "grid"
    parameters: Settings | None = None  # dotted key: list of values, or (random, tpe) a Range
    cells: Annotated[tuple[NamedCell, ...], Field(strict=False)] | None = None  # by hand, instead of parameters
    trials: Annotated[int, Field(ge=1, le=10_000)] | None = None  # cells to draw; random and tpe need it
    start_with: Annotated[tuple[Settings, ...], Field(strict=False)] = ()  # tpe only: its first trials; {} is the base config
    random_trials: PositiveInt | None = None  # tpe only: before it proposes, with those of start_with; None: half, at most 10
    search_seed: Seed = 0  # of the drawing, not of the runs
    seeds: Annotated[tuple[Seed, ...], Field(strict=False)] = (0,)  # every cell is run with each
    prune: Prune | None = None  # tpe only
    skip_illegal: bool = False  # leave out cells over the parameter budget instead of refusing the sweep
    stale_minutes: Annotated[float, Field(ge=1)] = 10.0  # silence after which another worker takes a run over; see claims

    @property
    def spaces(self) -> dict[str, Space]:
        """What each parameter may be, in the file's order; empty for cells written by hand."""
        return _read_spaces(self.parameters or {}, self.method)[0]

    @model_validator(mode="after")
    def _parts_agree(self) -> Sweep:
        problems = [*self._method_problems(), *self._value_problems()]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _method_problems(self) -> list[str]:
        searches = self.method != "grid"
        problems = []
        if (self.parameters is None) == (self.cells is None):
            got = "neither" if self.cells is None else "both"
            problems.append(f"expected parameters (to combine) or cells (by hand), got {got}: keep one")
        if self.cells is not None and searches:
            problems.append(f"method {self.method} draws from parameters, but cells are given: drop method or write parameters")
        if searches and self.trials is None:
            problems.append(f"method {self.method} needs trials: how many cells to draw")
        for key in ("trials", "search_seed"):
            if not searches and key in self.model_fields_set:
                problems.append(f"{key} has no effect with method grid: drop it, or set method random or tpe")
        if self.random_trials is not None and self.method != "tpe":
            problems.append(f"random_trials has no effect with method {self.method}: drop it, or set method tpe")
        elif self.random_trials is not None and self.trials is not None and self.random_trials >= self.trials:
            problems.append(
                f"random_trials {self.random_trials} leaves none of the {self.trials} trials to tpe: lower it, or use random"
            )
        if self.start_with and self.method != "tpe":
            problems.append(f"start_with has no effect with method {self.method}: drop it, or set method tpe")
        elif self.trials is not None and len(self.start_with) > self.trials:
            problems.append(f"start_with lists {len(self.start_with)} trials, more than trials {self.trials}: raise trials")
        if self.prune is not None and self.method != "tpe":
            problems.append(f"prune has no effect with method {self.method}: drop it, or set method tpe")
        elif self.prune is not None and self.trials is not None and self.prune.startup_trials >= self.trials:
            problems.append(
                f"prune.startup_trials {self.prune.startup_trials} leaves none of the {self.trials} trials to stop: lower it, "
                "or drop prune"
            )
        return problems

    def _value_problems(self) -> list[str]:
        problems = []
        if not self.seeds:
            problems.append("seeds is empty: list at least one, such as [0, 1, 2]")
        if repeated := _repeated(self.seeds):
            problems.append(f"seeds names {repeated} twice: each seed is run once, so remove one")
        if self.parameters is not None:
            if not self.parameters:
                problems.append("parameters is empty: name a dotted key with a list of values, such as optim.lr: [0.05, 0.1]")
            problems += _key_problems(self.parameters, "parameters")
            problems += _read_spaces(self.parameters, self.method)[1]
        for number, settings in enumerate(self.start_with):
            problems += [
                f"start_with.{number}.{key} is none of the parameters: add it to them, or drop it"
                for key in settings
                if key not in (self.parameters or {})
            ]
        if self.cells is not None:
            if not self.cells:
                problems.append("cells is empty: write at least one, such as {label: cutout, augment.cutout: 8}")
            if repeated := _repeated([cell.label for cell in self.cells]):
                problems.append(f"cells has the label {repeated} twice: it names run directories, so choose another")
            for number, cell in enumerate(self.cells):
                problems += _key_problems(cell.settings, f"cells.{number}")
        return problems


def load_sweep(path: str | Path) -> Sweep:
    """Read a sweep file; the base config's path in it then holds from the current folder.

    Raises ConfigError that lists every problem, each with its key.
    """
    path = require_config(path)
    raw = read_yaml(path)
    if not isinstance(raw, dict):
        got = "nothing" if raw is None else f"a {type(raw).__name__}"
        raise ConfigError(
            f"{path} holds {got}; expected keys such as name, config and parameters (examples: cifar-small configs sweeps)"
        )
    if "model" in raw and "config" not in raw:
        raise ConfigError(
            f"{path} is the config of a run, not a sweep; train it with cifar-small train, or name it under config in a sweep "
            "file (examples: cifar-small configs sweeps)"
        )
    try:
        sweep = Sweep.model_validate(raw)
    except ValidationError as error:
        problems = describe_problems(Sweep, error, "")
        head = f"{path}: " if len(problems) == 1 else f"{path}: {len(problems)} problems: "
        raise ConfigError(head + "; ".join(problems)) from None
    base = path.parent / sweep.config
    if not base.is_file():
        raise ConfigError(
            f"{path}: config: {base} is no file; expected the base config's path, counted from the sweep file's folder"
        )
    return sweep.model_copy(update={"config": str(base)})


def canonical(value: Any) -> str:
    """A value as text that is the same for equal values, whichever way a number was written (1, 1.0, 1e0)."""
    return json.dumps(_plain_numbers(value), sort_keys=True)


def _plain_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain_numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_numbers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _repeated(values: Any) -> str | None:
    seen = set()
    for value in values:
        text = canonical(value)
        if text in seen:
            return text
        seen.add(text)
    return None


def _key_problems(settings: Settings, where: str) -> list[str]:
    problems = []
    for key in settings:
        fixed = next((name for name in FIXED if key == name or key.startswith(f"{name}.") or name.startswith(f"{key}.")), None)
        if fixed:
            problems.append(f"{where}.{key} cannot vary: {FIXED[fixed]}")
        inside = next((other for other in settings if key.startswith(f"{other}.")), None)
        if inside:
            problems.append(f"{where}.{key} lies inside {inside}, which is set as a whole too: keep one of them")
    return problems


def _read_spaces(parameters: Settings, method: str) -> tuple[dict[str, Space], list[str]]:
    """What each parameter may be, and what is wrong with it."""
    spaces: dict[str, Space] = {}
    problems = []
    for key, value in parameters.items():
        where = f"parameters.{key}"
        if isinstance(value, dict):
            if method == "grid":
                problems.append(f"{where} is a range, which a grid cannot list: give values, or set method random or tpe")
            try:
                spaces[key] = Range.model_validate(value)
            except ValidationError as error:
                prefix = "" if any(item["type"] == "value_error" for item in error.errors()) else f"{where}."
                found = describe_problems(Range, error, prefix)
                problems += found if prefix else [f"{where}: {problem}" for problem in found]
        elif not isinstance(value, list) or not value:
            problems.append(f"{where}: expected a list of values (or a range), got {json.dumps(value)[:60]}: write it in [ ]")
        elif repeated := _repeated(value):
            problems.append(f"{where} lists {repeated[:60]} twice: each cell is run once, so remove one")
        else:
            spaces[key] = tuple(value)
    return spaces, problems
