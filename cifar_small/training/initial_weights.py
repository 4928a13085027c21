"""The weights that a config names to start from: tensors by name, the runs they come from, and the input they expect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from cifar_small.config.hashing import config_dict
from cifar_small.config.input_of_weights import input_beside, published_input, timm_config, with_input
from cifar_small.config.loading import parse_config
from cifar_small.config.published import PUBLISHED, Package, Published
from cifar_small.config.schema import Config
from cifar_small.config.schema.data import Input
from cifar_small.errors import CheckpointError
from cifar_small.files import sha256_file
from cifar_small.inference.predict import Net, load_net
from cifar_small.models import LibraryNet, in_backbone
from cifar_small.models.efficientnet_lite import reference_picture
from cifar_small.models.library import TIMM_NAMES
from cifar_small.models.pretrained import locate, read_wrapped, unwrapped
from cifar_small.runs.directory import Run
from cifar_small.runs.lineage import ancestor
from cifar_small.runs.records import Ancestor, DataFacts
from cifar_small.wording import plural

ANSWER_TOLERANCE = 0.05  # of logits: TF32 of a GPU is off by 0.01, a net with other padding by more than 0.4


@dataclass(frozen=True)
class PretrainedInit:
    """Weights that another training ended with.

    classes: those of the head among them; empty for those of a file, which have the names of the net's library and
    whose head is always replaced. published: what the file is known to be.
    """

    name: str  # for messages
    state: Mapping[str, Tensor]
    classes: tuple[str, ...]
    ancestors: list[Ancestor]
    published: Published | None = None


def prepare_init(config: Config, run: Run) -> tuple[Config, PretrainedInit | None]:
    """The config with the input that its weights expect, and these weights; None once the run has weights of its own.

    Raises CheckpointError: no such weights, damaged, or out of reach.
    """
    if config.weights is None:
        return config, None
    if run.begun:  # it can be resumed where the weights it began with are gone
        return with_recorded_input(config, run), None
    if config.starts_from_run:
        net = load_net(Run(config.weights))
        name = f"{net.config.name} seed {net.config.seed}"
        own = ancestor(name, net.facts.data, net.facts.weights_sha256, net.facts.lineage)
        init = PretrainedInit(config.weights, net.model.state_dict(), net.classes, [own, *net.facts.ancestors])
        return _with_input_of(config, net), init
    published = PUBLISHED[config.model.family] if config.weights == "imagenet" else None
    if published is not None:
        path, name, source = locate(published), f"{published.family} imagenet ({published.source})", "imagenet"
    else:
        path, name, source = Path(config.weights), Path(config.weights).name, "unknown data"
        config = _with_input_beside(config, path)
    state, where = read_wrapped(path)
    begun = ancestor(name, DataFacts(source=source), sha256_file(path))
    return config, PretrainedInit(f"{name} ({where})" if where else name, state, (), [begun], published)


def with_recorded_input(config: Config, run: Run) -> Config:
    """The config with the input that a run took from its initial weights, if the config names the same weights."""
    before = run.config()
    brought = before.input.model_dump(exclude={"augment"}, exclude_none=True) if before.weights == config.weights else {}
    return _completed(config, brought)


def with_input_of_weights(config: Config) -> Config:
    """The config with the input that its weights expect, of another run or of a file. Raises CheckpointError without it."""
    if config.starts_from_run:
        return _with_input_of(config, load_net(Run(str(config.weights))))
    return config if config.weights in (None, "imagenet") else _with_input_beside(config, Path(str(config.weights)))


def _with_input_of(config: Config, net: Net) -> Config:
    input_ = net.preprocess
    brought = {"size": input_.side, "interpolation": input_.interpolation, "mean": input_.mean, "std": input_.std}
    return _completed(config, brought)


def _with_input_beside(config: Config, weights: Path) -> Config:
    """The config with the input that the config.json beside a file of weights names, if there is one as timm writes it."""
    path = weights.parent / "config.json"
    _require_architecture(config, path, timm_config(weights))
    if not (told := input_beside(weights)):
        return config
    try:
        brought = Input.model_validate(told).model_dump(exclude={"augment"}, exclude_none=True)
        return _completed(config, {**published_input(config), **brought})
    except ValidationError as error:
        first = error.errors()[0]
        raise CheckpointError(
            f"{path} names an input that cannot be given ({'.'.join(map(str, first['loc']))}: {first['msg']}); set input "
            "in the config and remove that file"
        ) from None


def _require_architecture(config: Config, path: Path, content: Any) -> None:
    """Raise CheckpointError for a file of timm's for a net of another name, which it may fit: some differ in padding alone."""
    library, _, net = config.model.family.partition("/")
    told, expected = content.get("architecture") if isinstance(content, dict) else None, TIMM_NAMES.get(net, net)
    if library == "timm" and isinstance(told, str) and told != expected:
        raise CheckpointError(
            f"{path} says that the weights beside it are those of {told}, while model.family is timm's {expected}; use weights "
            "of the same net, or change model"
        )


def _completed(config: Config, brought: Mapping[str, Any]) -> Config:
    """The config with `brought` for what its input leaves open, and all its checks made again."""
    return parse_config(config_dict(with_input(config, brought)), config.name)


def load_pretrained(net: nn.Module, init: PretrainedInit, classes: tuple[str, ...]) -> str:
    """Copy weights into a net; returns a line that says what was taken. Raises CheckpointError for another architecture.

    The head is loaded if it was trained on the same classes; else it stays as the seed initialized it.
    """
    own, state, prefix = net.state_dict(), dict(init.state), ""
    if not init.classes:  # a file, from whatever program
        state, prefix = unwrapped(state, net.library_names() if isinstance(net, LibraryNet) else own.keys())
    if isinstance(net, LibraryNet) and not init.classes:
        state = net.from_library(state)
    backbone = {name: value for name, value in own.items() if in_backbone(name)}
    _require_fit(init.name, backbone, {name: value for name, value in state.items() if in_backbone(name)})
    head = own.keys() - backbone.keys()
    takes_head = init.classes == classes and all(name in state and state[name].shape == own[name].shape for name in head)
    taken = {name: state[name] for name in own if name in state and (takes_head or name in backbone)}
    net.load_state_dict({**own, **taken})
    if init.published is not None and init.published.package is not None:
        _require_reference_logits(net, init, init.published.size, init.published.package)
    count = sum(taken[name].numel() for name, _ in net.named_parameters() if name in taken)
    head_state = "loaded" if takes_head else "re-initialized" if head else "included: no part of this net is called fc"
    under = f" from under {prefix!r} of its {plural(len(init.state), 'tensor')}" if prefix else ""
    return f"initialized from {init.name}: {count:,} parameters loaded{under}, classifier {head_state}"


@torch.no_grad()
def _require_reference_logits(net: nn.Module, init: PretrainedInit, side: int, package: Package) -> None:
    """Raise CheckpointError unless a net with a package's weights answers a fixed picture as the original implementation does.

    Names and shapes do not tell: EfficientNet-Lite's weights fit a net with other padding, whose logits are off by up to 2.
    """
    assert isinstance(net, LibraryNet)
    was_training, picture = net.training, reference_picture(side).to(next(net.parameters()).device)
    found = net.eval().answer(picture, init.state)[0, : len(package.answer)].cpu()
    net.train(was_training)
    off = (found - torch.tensor(package.answer)).abs().max().item()
    if not off < ANSWER_TOLERANCE:
        raise CheckpointError(
            f"weights {init.name} fit this net in names and shapes, but its logits for a reference picture are off by "
            f"{off:.2f}: it is padded or normalized otherwise than the net they were trained in; expected {net.name} as timm "
            "1.0.20 and later have it"
        )


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
        f"weights {name} belong to another architecture than model: of {len(wanted)} tensors {', '.join(faults)}; use weights "
        "of the same net, or change model"
    )
