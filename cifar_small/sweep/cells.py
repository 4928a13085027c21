"""The cells of a sweep: the settings, name and resolved config of each, and whether it is within the budget."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

import numpy as np

from cifar_small.config.hashing import config_dict
from cifar_small.config.loading import load_config
from cifar_small.config.resolved import resolve_config
from cifar_small.config.schema import Config, Recipe
from cifar_small.data.sources import classes_at_hand
from cifar_small.errors import ConfigError
from cifar_small.models.counting import trainable_parameters
from cifar_small.randomness import numpy_generator
from cifar_small.sweep.spec import Range, Settings, Space, Sweep, canonical
from cifar_small.transforms.per_image import check_pipelines
from cifar_small.wording import plural

SWEEP = 100  # this module's stream of random numbers, far from those of a run (see randomness)
NAME_LENGTH = 64  # with a sweep's name within the 100 characters of a config's
PLAIN = re.compile(r"[A-Za-z0-9._]+(e-[0-9]+)?")  # text that a name can hold as it is, told apart from a list's dashes
EPOCHS = re.compile(r"phases\.[0-9]+\.epochs")  # the one setting that may be a fraction and must not be a whole float
LISTED = 5  # cells named in a message


@dataclass(frozen=True)
class Cell:
    """One point of a sweep: its settings, and the config they give."""

    name: str  # prefix of its run directories, before the seed
    settings: Mapping[str, Any]  # by dotted key
    config: Config  # with the sweep's first seed
    parameters: int | None  # trainable; None where only the data knows how many classes there are

    @property
    def excess(self) -> int:
        """Trainable parameters over the budget; 0 when legal."""
        return max(0, (self.parameters or 0) - self.config.rules.max_params)

    def seeded(self, seed: int) -> Config:
        """The config of the cell's run with this seed."""
        return self.config.model_copy(update={"seed": seed})


def plan(sweep: Sweep) -> list[Cell]:
    """Every cell of a grid, a random draw or a list by hand, resolved and counted; of tpe, which finds its own, none.

    Raises ConfigError for cells that cannot run, that train the same as another, or (without `skip_illegal`) that are over the
    budget. The ends and choices of each tpe parameter are tried too, one at a time, so that most mistakes show at once.
    """
    if sweep.method == "tpe":
        assert sweep.trials is not None
        refuse_too_many(sweep.trials, sweep.spaces)
        probes = [(f"probe{number}", settings) for number, settings in enumerate(_probes(sweep.spaces))]
        cells = _resolve_all(sweep, probes + [(f"start_with.{number}", one) for number, one in enumerate(starts(sweep))])
        _refuse_illegal(sweep, cells)
        _refuse_ineffective_pruner(sweep, max(cell.config.epochs for cell in cells))
        return []
    cells = _resolve_all(sweep, _named(sweep))
    _refuse_twins(cells)
    _refuse_illegal(sweep, cells)
    return cells


def starts(sweep: Sweep) -> list[Settings]:
    """The settings of the trials of `start_with`, each parameter that one leaves out as in the base config.

    Raises ConfigError for values that the parameters do not include, and for two that are the same.
    """
    if not sweep.start_with:
        return []
    config = load_config(sweep.config)
    base = config.model_dump(mode="json")
    in_force = {"phases": [phase.settings.model_dump(mode="json") for phase in resolve_config(config).phases]}
    found: list[Settings] = []
    for number, given in enumerate(sweep.start_with):
        settings: Settings = {}
        for key, space in sweep.spaces.items():
            value = given[key] if key in given else _at(in_force if key.startswith("phases.") else base, key)
            if (inside := _inside(space, value)) is None:
                origin = "" if key in given else " in the base config"
                raise ConfigError(
                    f"{sweep.name}: start_with.{number}: {key} is {json.dumps(value)[:60]}{origin}, which is none of what "
                    f"parameters.{key} lets it be: widen that, or set another value in start_with.{number}"
                )
            settings[key] = inside[0]
        if settings in found:
            raise ConfigError(
                f"{sweep.name}: start_with.{number} sets the same as start_with.{found.index(settings)}: drop one"
            )
        found.append(settings)
    return found


def _at(config: Any, key: str) -> Any:
    """The value at a dotted key; None where there is none."""
    for part in key.split("."):
        if isinstance(config, list) and part.isdecimal() and int(part) < len(config):
            config = config[int(part)]
        elif isinstance(config, dict):
            config = config.get(part)
        else:
            return None
    return config


def _inside(space: Space, value: Any) -> tuple[Any] | None:
    """The value as the space has it, in a tuple, since it may be null itself; None where the space has no such value."""
    if not isinstance(space, Range):
        return next(((one,) for one in space if canonical(one) == canonical(value)), None)
    if isinstance(value, bool) or not isinstance(value, int | float) or not space.low <= value <= space.high:
        return None
    if space.type == "int":
        return (int(value),) if float(value).is_integer() else None
    return (float(value),)


def resolve(sweep: Sweep, name: str, settings: Mapping[str, Any]) -> Cell:
    """The cell of some settings. Raises ConfigError when the config cannot take them."""
    settings = {key: _whole_epochs(key, value) for key, value in settings.items()}
    overrides = {"name": f"{sweep.name}-{name}", **settings}
    # JSON is YAML too, so the values go through the same strict reader as those of a command line.
    config = load_config(sweep.config, [(key, json.dumps(value)) for key, value in overrides.items()])
    config = config.model_copy(update={"seed": sweep.seeds[0]})
    classes = classes_at_hand(config.data)
    return Cell(name, settings, config, None if classes is None else trainable_parameters(config.model, classes))


def _whole_epochs(key: str, value: Any) -> Any:
    """A float that a range of epochs gave, at its ends or by chance a whole one, as the integer that a config wants."""
    return int(value) if EPOCHS.fullmatch(key) and isinstance(value, float) and value.is_integer() else value


def _resolve_all(sweep: Sweep, named: Iterable[tuple[str, Settings]]) -> list[Cell]:
    cells: list[Cell] = []
    problems: dict[str, list[str]] = defaultdict(list)  # the cells of each, because hundreds may share one mistake
    for name, settings in named:
        try:
            cell = resolve(sweep, name, settings)
            check_pipelines(resolve_config(cell.config))
            cells.append(cell)
        except ConfigError as error:
            problems[str(error)].append(name)
    if problems:
        raise ConfigError("; ".join(f"{text} (in {_some(names)})" for text, names in problems.items()))
    return cells


def _refuse_illegal(sweep: Sweep, cells: Sequence[Cell]) -> None:
    over = [cell for cell in cells if cell.excess]
    if over and (len(over) == len(cells) or not sweep.skip_illegal):
        budget = cells[0].config.rules.max_params
        listed = [f"{cell.name} {cell.parameters:,}" for cell in over[:LISTED]]
        more = f" and {len(over) - LISTED} more" if len(over) > LISTED else ""
        advice = "narrow the parameters" if sweep.skip_illegal else "narrow the parameters or set skip_illegal: true"
        raise ConfigError(
            f"{sweep.name}: {len(over)} of {len(cells)} cells are over the budget of {budget:,} trainable parameters: "
            f"{', '.join(listed)}{more}; {advice}"
        )


def _refuse_ineffective_pruner(sweep: Sweep, epochs: int) -> None:
    last = epochs - (len(sweep.seeds) == 1)  # stopping after the last epoch of a trial's only seed saves nothing
    if sweep.prune is not None and sweep.prune.warmup_epochs > last:
        advice = f"lower it to {last} at most, or drop prune" if last else "drop prune"
        raise ConfigError(
            f"prune.warmup_epochs {sweep.prune.warmup_epochs} lets every trial of {plural(epochs, 'epoch')} finish: {advice}"
        )


def _refuse_twins(cells: Sequence[Cell]) -> None:
    """Refuse cells that would train alike: a setting of the top level, for instance, that every phase overrides."""
    seen: dict[str, str] = {}
    for cell in cells:
        rest = {
            key: value for key, value in config_dict(cell.config).items() if key not in {*Recipe.model_fields, "phases", "name"}
        }
        rest["model"].pop("dropout", None)  # each phase has its own, or this one
        phases = [
            [phase.start, phase.end, phase.schedule_start, phase.schedule_end, phase.settings.model_dump(mode="json")]
            for phase in resolve_config(cell.config).phases
        ]
        effect = json.dumps([rest, phases], sort_keys=True)
        if effect in seen:
            raise ConfigError(
                f"the cells {seen[effect]} and {cell.name} train alike: their settings have no effect, "
                "since the phases override them; drop one, or set phases.0.key instead"
            )
        seen[effect] = cell.name


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")


def _named(sweep: Sweep) -> list[tuple[str, Settings]]:
    if sweep.cells is not None:
        return [(cell.label, cell.settings) for cell in sweep.cells]
    if sweep.method == "random":
        assert sweep.trials is not None
        drawn = _draw(sweep.spaces, sweep.trials, sweep.search_seed)
    else:
        assert sweep.method == "grid", sweep.method
        spaces = [space for space in sweep.spaces.values() if not isinstance(space, Range)]
        drawn = [dict(zip(sweep.spaces, values, strict=True)) for values in itertools.product(*spaces)]
    return [(cell_name(settings), settings) for settings in drawn]


IN_VAIN = 1000  # draws of known settings, one after another


def _draw(spaces: Mapping[str, Space], trials: int, seed: int) -> list[Settings]:
    """Different cells in the order drawn, so that more trials only add cells. Raises ConfigError when there are not so many."""
    possible = refuse_too_many(trials, spaces)
    rng = numpy_generator(seed, SWEEP)
    found: dict[str, Settings] = {}
    in_vain = 0
    while len(found) < trials:
        settings = draw_one(spaces, rng)
        in_vain = in_vain + 1 if canonical(settings) in found else 0
        if in_vain > IN_VAIN and math.isinf(possible):  # ranges of floats as narrow as the digits they are written with
            raise ConfigError(f"trials is {trials}, but only {len(found)} different settings were found: widen low..high")
        found.setdefault(canonical(settings), settings)
    return list(found.values())


def refuse_too_many(trials: int, spaces: Mapping[str, Space]) -> float:
    """How many combinations the parameters have. Raises ConfigError for fewer than trials."""
    possible = math.prod(_size(space) for space in spaces.values())
    if trials > possible:
        raise ConfigError(f"trials is {trials}, but the parameters have only {possible:.0f} combinations: use method grid")
    return possible


def draw_one(spaces: Mapping[str, Space], rng: np.random.Generator) -> Settings:
    """A value of each parameter, by chance."""
    return {key: _draw_one(space, rng) for key, space in spaces.items()}


def _size(space: Space) -> float:
    if not isinstance(space, Range):
        return len(space)
    match space.type:
        case "int":
            return space.high - space.low + 1
        case "float":
            return math.inf
        case unknown:
            assert_never(unknown)


def _draw_one(space: Space, rng: np.random.Generator) -> Any:
    if not isinstance(space, Range):
        return space[rng.integers(len(space))]
    share = rng.random()
    match space.type:
        case "int":  # stands for the interval of length 1 around it, so that both ends are as likely as the rest
            whole = round(_between(space.low - 0.5, space.high + 0.5, share, space.log))
            return int(min(max(whole, space.low), space.high))
        case "float":
            value = float(f"{_between(space.low, space.high, share, space.log):.6g}")  # enough digits, and they fit into a name
            return min(max(value, space.low), space.high)
        case unknown:
            assert_never(unknown)


def _between(low: float, high: float, share: float, log: bool) -> float:
    return math.exp(math.log(low) + share * (math.log(high) - math.log(low))) if log else low + share * (high - low)


def _probes(spaces: Mapping[str, Space]) -> Iterator[Settings]:
    """The first value of every parameter, and each other end or choice with the rest at their first."""
    extremes = {key: _extremes(space) for key, space in spaces.items()}
    first = {key: values[0] for key, values in extremes.items()}
    yield first
    for key, values in extremes.items():
        yield from ({**first, key: value} for value in values[1:])


def _extremes(space: Space) -> Sequence[Any]:
    if not isinstance(space, Range):
        return space
    return [int(end) if space.type == "int" else end for end in (space.low, space.high)]


def cell_name(settings: Mapping[str, Any]) -> str:
    """A name that depends on nothing but what the cell sets, so it stays when a sweep grows: `lr-0.1_widths-16-32-64`.

    Fit for a folder and for a config's name. Settings that are too long or not plain end in eight digits of their SHA-256.
    """
    parts = []
    exact = True
    for key, value in settings.items():
        plain = json.loads(canonical(value))
        items = plain if isinstance(plain, list) else [plain]
        texts = [item if isinstance(item, str) else json.dumps(item) for item in items]
        exact &= all(PLAIN.fullmatch(text) is not None for text in texts)
        parts.append(f"{key.split('.')[-1]}-{'-'.join(texts)}")
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", "_".join(parts))
    if exact and len(name) <= NAME_LENGTH:
        return name
    digest = hashlib.sha256(canonical(settings).encode()).hexdigest()[:8]
    return f"{name[: NAME_LENGTH - 9].rstrip('-_.')}-{digest}"
