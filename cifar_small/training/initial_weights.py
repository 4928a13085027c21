"""What a run starts from when its config names `weights`: tensors by name, whose they are, and the input they expect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cifar_small.config.hashing import config_dict
from cifar_small.config.loading import parse_config, with_input
from cifar_small.config.published import PUBLISHED
from cifar_small.config.schema import Config
from cifar_small.errors import CheckpointError
from cifar_small.files import sha256_file
from cifar_small.inference.predict import Net, load_net
from cifar_small.models import LibraryNet, in_backbone
from cifar_small.models.pretrained import locate, read_state
from cifar_small.runs.directory import Run
from cifar_small.runs.lineage import Ancestor, ancestor


@dataclass(frozen=True)
class PretrainedInit:
    """Weights that another training ended with.

    classes: what the head among them tells apart; empty for those of a file, which have the names of the net's library and
    whose head is always replaced.
    """

    name: str  # for messages
    state: Mapping[str, Tensor]
    classes: tuple[str, ...]
    ancestors: list[Ancestor]


def prepare_init(config: Config, run: Run) -> tuple[Config, PretrainedInit | None]:
    """The config with the input that its weights expect, and these weights; without them once the run has its own.

    Raises CheckpointError: no such weights, damaged, or out of reach.
    """
    if config.weights is None:
        return config, None
    if run.begun:  # which may be resumed where the weights it began with are gone
        return with_recorded_input(config, run), None
    if config.starts_from_run:
        net = load_net(Run(config.weights))
        name = f"{net.config.name} seed {net.config.seed}"
        own = ancestor(name, net.facts["data"], net.facts["weights_sha256"], net.facts["lineage"])
        start = PretrainedInit(config.weights, net.model.state_dict(), net.classes, [own, *net.facts["ancestors"]])
        return _with_input_of(config, net), start
    if config.weights == "imagenet":
        published = PUBLISHED[config.model.family]
        path, name, source = locate(published), f"{published.family} imagenet ({published.source})", "imagenet"
    else:
        path, name, source = Path(config.weights), Path(config.weights).name, "unknown data"
    state = read_state(path)
    return config, PretrainedInit(name, state, (), [ancestor(name, {"source": source}, sha256_file(path))])


def with_recorded_input(config: Config, run: Run) -> Config:
    """The config with the input that a run took from the weights it started from, if it has begun and names the same."""
    before = run.config()
    brought = before.input.model_dump(exclude={"augment"}, exclude_none=True) if before.weights == config.weights else {}
    return _completed(config, brought)


def with_input_of_weights(config: Config) -> Config:
    """The config with the input that its weights expect, where these are another run's. Raises CheckpointError without it."""
    return _with_input_of(config, load_net(Run(str(config.weights)))) if config.starts_from_run else config


def _with_input_of(config: Config, net: Net) -> Config:
    input_ = net.preprocess
    brought = {"size": input_.side, "interpolation": input_.interpolation, "mean": input_.mean, "std": input_.std}
    return _completed(config, brought)


def _completed(config: Config, brought: Mapping[str, Any]) -> Config:
    """The config with `brought` for what its input leaves open, and all its checks made again."""
    return parse_config(config_dict(with_input(config, brought)), config.name)


def load_pretrained(net: nn.Module, start: PretrainedInit, classes: tuple[str, ...]) -> str:
    """Copy weights into a net and say in a line what was taken. Raises CheckpointError for those of another architecture.

    The head comes along if it was trained on the same classes; else it stays as it was initialised.
    """
    state = net.from_library(start.state) if isinstance(net, LibraryNet) and not start.classes else dict(start.state)
    own = net.state_dict()
    backbone = {name: value for name, value in own.items() if in_backbone(name)}
    _require_fit(start.name, backbone, {name: value for name, value in state.items() if in_backbone(name)})
    head = own.keys() - backbone.keys()
    takes_head = start.classes == classes and all(name in state and state[name].shape == own[name].shape for name in head)
    taken = {name: state[name] for name in own if name in state and (takes_head or name in backbone)}
    net.load_state_dict({**own, **taken})
    numbers = sum(value.numel() for value in taken.values())
    return f"starts from {start.name}: {numbers:,} numbers; its head {'comes along' if takes_head else 'is replaced'}"


def _require_fit(name: str, wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError unless two backbones agree in names and shapes; old files may lack BatchNorm's counters."""
    missing = [key for key in wanted if key not in given and not key.endswith("num_batches_tracked")]
    unknown = [key for key in given if key not in wanted]
    other = [key for key in wanted if key in given and given[key].shape != wanted[key].shape]
    if not (missing or unknown or other):
        return
    faults = [f"{len(keys)} {what} (first {keys[0]})" for what, keys in (("missing", missing), ("unknown", unknown)) if keys]
    if other:
        shapes = f"{list(given[other[0]].shape)} for {list(wanted[other[0]].shape)}"
        faults.append(f"{len(other)} of another shape (first {other[0]}: {shapes})")
    raise CheckpointError(
        f"weights {name} are of another architecture than model: of {len(wanted)} tensors {', '.join(faults)}; use weights of "
        "the same net, or change model"
    )
