"""The only inference path: weights of a run + images + views -> logits in a predictions file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from cifar_small.augment import resize
from cifar_small.budget import count_parameters
from cifar_small.checkpoints import load_checkpoint
from cifar_small.config import config_dict, config_hash, parse_config
from cifar_small.data import (
    Images,
    colour_notes,
    index_hash,
    load_test,
    load_train,
    load_unlabelled,
    stratified_split,
    stratified_subset,
)
from cifar_small.environment import (
    autocast,
    memory_format,
    package_versions,
    prepare_process,
    resolve_device,
    resolve_precision,
)
from cifar_small.errors import CheckpointError, UserError
from cifar_small.files import probe_writable, refuse_existing, sha256_bytes, sha256_file, write_atomic
from cifar_small.models import build_model
from cifar_small.predictions import Predictions
from cifar_small.runs import Run
from cifar_small.schema import Config, Data

View = Callable[[Tensor], Tensor]


def _identity(pixels: Tensor) -> Tensor:
    return pixels


def _mirror(pixels: Tensor) -> Tensor:
    return pixels.flip(3)


def _upside_down(pixels: Tensor) -> Tensor:
    return pixels.flip(2)


def shift(rows: int, columns: int, mode: str = "reflect") -> View:
    """A view that moves the content down by `rows` and right by `columns` pixels; the border is padded."""

    def view(pixels: Tensor) -> Tensor:
        pad = max(abs(rows), abs(columns))
        padded = F.pad(pixels, (pad,) * 4, mode=mode)
        return padded[:, :, pad - rows : pad - rows + 32, pad - columns : pad - columns + 32]

    return view


def _blur(pixels: Tensor) -> Tensor:
    """Gaussian blur, sigma 1 pixel, within each channel, 5 taps a side, reflected border."""
    taps = torch.exp(-0.5 * torch.arange(-2.0, 3.0, device=pixels.device) ** 2)
    taps = (taps / taps.sum()).to(pixels.dtype)
    padded = F.pad(pixels, (2, 2, 2, 2), mode="reflect")
    rows = F.conv2d(padded, taps.view(1, 1, 5, 1).expand(3, 1, 5, 1), groups=3)
    return F.conv2d(rows, taps.view(1, 1, 1, 5).expand(3, 1, 1, 5), groups=3)


def _then(first: View, second: View) -> View:
    return lambda pixels: second(first(pixels))


# Each choice is a list of (view, weight of its logits); weights sum to 1. Views act on normalised images (B, 3, 32, 32).
VIEWS: dict[str, list[tuple[View, float]]] = {
    "none": [(_identity, 1.0)],
    "flip": [(_identity, 0.5), (_mirror, 0.5)],
    # For images that must not be mirrored: the centre counts half, four shifts by one pixel the other half.
    "shift": [(_identity, 0.5), *((shift(rows, columns), 0.125) for rows, columns in ((1, 0), (-1, 0), (0, 1), (0, -1)))],
    # Jordan 2024, arXiv 2404.00498: the centre counts half, two diagonal shifts by one pixel the other half, all mirrored too.
    "flip_shift": [
        (_identity, 0.25),
        (_mirror, 0.25),
        (shift(1, 1), 0.125),
        (_then(shift(1, 1), _mirror), 0.125),
        (shift(-1, -1), 0.125),
        (_then(shift(-1, -1), _mirror), 0.125),
    ],
    # The five views of a published 5M-parameter entry, whose "padded centre crop" was the identity: here it is really shifted.
    "r3": [(view, 0.2) for view in (_identity, _mirror, _upside_down, shift(2, 2, "constant"), _blur)],
}


@dataclass(frozen=True)
class Net:
    """A trained net with what belongs to it: its normalisation, classes, configuration and hashes."""

    model: nn.Module
    config: Config
    classes: tuple[str, ...]
    mean: tuple[float, ...]  # that its input is normalised by, 0..1, per channel
    std: tuple[float, ...]
    facts: dict[str, Any]  # parameters, epoch, val accuracy, hashes ... of the checkpoint

    @property
    def parameters(self) -> int:
        """Trainable parameters."""
        return int(self.facts["parameters"])


def load_net(run: Run) -> Net:
    """The selected weights of a run (`best.pt`). Raises CheckpointError when they are missing, damaged or of another net."""
    state = load_checkpoint(run.require().best)
    if "weights" not in state:
        raise CheckpointError(f"{run.best} holds no selected weights (it looks like a last.pt); expected the run's own best.pt")
    config = parse_config(state["config"], str(run.best))
    model = build_model(config.model, len(state["classes"]))
    try:
        model.load_state_dict(state["weights"], strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{run.best} does not fit the net its own config describes: {reason}") from None
    if count_parameters(model) != state["parameters"]:
        raise CheckpointError(f"{run.best} says {state['parameters']:,} parameters; its net has {count_parameters(model):,}")
    kept = ("parameters", "epoch", "val_accuracy", "selection", "data", "lineage")
    facts = {key: state[key] for key in kept} | {"ancestors": state.get("ancestors", [])}
    facts |= {"weights_sha256": sha256_file(run.best), "config_sha256": config_hash(config)}
    return Net(model, config, tuple(state["classes"]), tuple(state["mean"]), tuple(state["std"]), facts)


@cache
def _scale_and_offset(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Constants of `normalise`, made once: a fresh tensor on a GPU in every step would wait for the host."""
    scale = torch.tensor([1 / (255 * s) for s in std], device=device).view(1, -1, 1, 1)
    offset = torch.tensor([m / s for m, s in zip(mean, std, strict=True)], device=device).view(1, -1, 1, 1)
    return scale, offset


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 or float 0..255 (B, 3, H, W) -> float32, less the mean and over the deviation of each channel."""
    scale, offset = _scale_and_offset(mean, std, images.device)
    return images.float() * scale - offset


def to_tensor(images: Images, device: torch.device) -> Tensor:
    """uint8 (N, 3, 32, 32) in channels-last memory order on the device; on a CPU a view of the array where it is writable."""
    pixels = images.images if images.images.flags.writeable else images.images.copy()
    return torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2)


@torch.no_grad()
def compute_logits(
    model: nn.Module,
    images: Tensor,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    views: str,
    precision: str,
    batch_size: int,
    progress: bool = False,
    side: int = 32,
    interpolation: str = "bilinear",
) -> Tensor:
    """Logits (N, K) float32 of uint8 images (N, 3, 32, 32): the weighted mean over views, in eval mode.

    side: pixels that each view is resized to by `interpolation`, as the net's config has it.
    """
    was_training = model.training
    model.eval()
    logits = []
    with tqdm(total=len(images), unit="img", disable=None if progress else True, desc=f"views: {views}") as bar:
        for batch in torch.split(images, batch_size):
            pixels = normalise(batch, mean, std)
            with autocast(images.device, precision):
                parts = [
                    model(resize(view(pixels), side, interpolation).contiguous(memory_format=torch.channels_last)).float() * w
                    for view, w in VIEWS[views]
                ]
            logits.append(torch.stack(parts).sum(0))
            bar.update(len(batch))
    model.train(was_training)
    return torch.cat(logits)


def load_splits(data: Data) -> tuple[Images, Images, dict[str, Any]]:
    """The training and validation images of a config, and the hashes that identify them. Never touches the test split."""
    everything = load_train(data)
    assert everything.labels is not None
    train, val = stratified_split(everything.labels, data.val_size, data.split_seed)
    facts: dict[str, Any] = {"source": data.source, "sha256": everything.sha256, "val_sha256": index_hash(val)}
    if data.train_limit is not None:
        train = train[stratified_subset(everything.labels[train], data.train_limit, data.split_seed)]
        facts["train_limit"] = data.train_limit
    return everything.take(train), everything.take(val), facts | {"train_sha256": index_hash(train)}


def predict_images(net: Net, images: Images, views: str, *, progress: bool = False) -> Predictions:
    """Predict any images with a net; `meta` says what made it."""
    engine = net.config.engine
    prepare_process(engine)
    device = resolve_device(engine.device)
    precision = resolve_precision(engine.precision, device)
    model = net.model.to(device=device, memory_format=memory_format(engine))  # type: ignore[call-overload]
    pixels = to_tensor(images, device)
    size, config = engine.eval_batch_size, net.config
    logits = compute_logits(
        model, pixels, net.mean, net.std, views, precision, size, progress, config.side, config.interpolation
    )
    meta = {
        "name": net.config.name,
        "seed": net.config.seed,
        "views": views,
        "rules": net.config.rules.model_dump(),
        "config": config_dict(net.config),
        "packages": package_versions(),
        "precision": precision,
        "device": device.type,
        "images_sha256": images.sha256,
        "source": images.source,
        **net.facts,
    }
    return Predictions(images.ids, logits.cpu().numpy().astype(np.float32), images.labels, net.classes, meta)


def predict(
    run: Run,
    split: Literal["val", "test", "submit"],
    *,
    file: Path | None = None,
    views: str | None = None,
    output: Path | None = None,
    overwrite: bool = False,
    allow_rows: int | None = None,
    layout: Literal["auto", "HWC", "CHW"] = "auto",
    device: str | None = None,
    data_root: str | None = None,
    command: str = "",
) -> tuple[Path, Predictions, list[str]]:
    """Predict one split of a run's data, or an unlabelled file, and write the predictions file.

    Returns its path, the predictions and notes in plain words. Reading `test` is recorded in the run directory.
    """
    if (split == "submit") != (file is not None):
        raise UserError("--file names the unlabelled file and belongs to --split submit; give both or neither")
    if split != "submit" and (allow_rows is not None or layout != "auto"):
        raise UserError(f"--allow-rows and --layout say how --file is read; they have no effect on --split {split}: drop them")
    net = load_net(run)
    if device or data_root:
        net = replace(net, config=_elsewhere(net.config, device, data_root))
    chosen = views or net.config.views
    name = split if chosen == net.config.views else f"{split}_{chosen}"
    target = output or run.predictions / f"{name}.npz"
    refuse_existing(target, overwrite)
    probe_writable(target)  # now, not after minutes of work, or after the test split was read
    notes: list[str] = []
    if file is not None:
        rows = allow_rows if allow_rows is not None else net.config.rules.rows
        images, notes = load_unlabelled(file, classes=net.classes, layout=layout, rows=rows)
        notes += colour_notes(images, net.mean)
    elif split == "val":
        _, images, facts = load_splits(net.config.data)
        if facts != net.facts["data"]:
            raise CheckpointError(
                f"{run.folder} was trained on other data than {images.source} now holds, so its val images are not these; "
                "restore the data, or name its place with --data-root"
            )
    else:
        images = load_test(net.config.data)
    if images.classes and images.classes != net.classes:
        raise CheckpointError(
            f"{run.folder} was trained on classes {net.classes[:3]}...; {images.source} has {images.classes[:3]}..."
        )
    predictions = predict_images(net, images, chosen, progress=True)
    predictions.meta.update(split=split, run=run.folder.name, command=command)
    content = predictions.to_bytes()
    if split == "test":  # recorded before the result can be seen, even if the file cannot be written
        run.append_test_reading(
            {
                "command": command,
                "views": chosen,
                "images": len(images),
                "accuracy": predictions.accuracy,
                "predictions": target.name,
                "predictions_sha256": sha256_bytes(content),
                "weights_sha256": net.facts["weights_sha256"],
            }
        )
    write_atomic(target, content)
    return target, predictions, notes


def _elsewhere(config: Config, device: str | None, data_root: str | None) -> Config:
    """The same configuration on another device or with its data in another place. Raises ConfigError for no device's name."""
    plain = config_dict(config)
    plain["engine"]["device"] = device or plain["engine"]["device"]
    plain["data"]["root"] = data_root or plain["data"]["root"]
    return parse_config(plain, "--device" if device else "--data-root")
