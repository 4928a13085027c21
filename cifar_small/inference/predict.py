"""The only inference path: weights of a run + images + views -> logits in a predictions file."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from torch import Tensor, nn

from cifar_small.config.hashing import config_dict, config_hash
from cifar_small.config.loading import parse_config
from cifar_small.config.schema import Config, Data, views_name
from cifar_small.data import (
    Images,
    color_notes,
    load_test,
    load_unlabelled,
    turn_notes,
)
from cifar_small.data.datamodule import load_splits, to_tensor
from cifar_small.data.images import SIDE
from cifar_small.data.orientation import PixelStatistics
from cifar_small.data.test_split import is_official, more_copies_than_chance
from cifar_small.data.unlabelled import AskedLayout
from cifar_small.environment import (
    commit,
    memory_format,
    package_versions,
    prepare_process,
    resolve_device,
    resolve_precision,
)
from cifar_small.errors import CheckpointError, DataError, UserError
from cifar_small.files import probe_writable, refuse_existing, sha256_bytes, sha256_file, write_atomic
from cifar_small.inference.forward import compute_logits, views_label
from cifar_small.models import build_model
from cifar_small.models.counting import count_parameters
from cifar_small.runs.checkpoints import load_checkpoint
from cifar_small.runs.directory import Run
from cifar_small.runs.formats import FORMAT
from cifar_small.runs.predictions import Predictions, note_seconds, sha256_of_shared
from cifar_small.runs.records import OnnxFacts, PredictionsMeta, WeightsFacts, parse
from cifar_small.transforms.preprocess import Preprocess
from cifar_small.transforms.views import Weighted
from cifar_small.wording import differing_classes, plural

Split = Literal["train", "val", "test", "submit"]


@dataclass(frozen=True)
class Net:
    """A trained net with what belongs to it: its normalization, classes, configuration and hashes."""

    model: nn.Module
    config: Config
    classes: tuple[str, ...]
    mean: tuple[float, ...]  # that its input is normalized by, 0..1, per channel
    std: tuple[float, ...]
    facts: WeightsFacts
    pixels: PixelStatistics | None = None  # how its training images lie; None: written before that was recorded
    onnx: OnnxFacts | None = None  # of the ONNX file that computes in place of the weights, if one does

    @property
    def preprocess(self) -> Preprocess:
        """From stored pixels to its input. An ONNX file enlarges images itself."""
        side = self.stored if self.onnx else self.config.side
        return Preprocess(self.mean, self.std, side, self.config.interpolation)

    @property
    def stored(self) -> int:
        """Pixels a side of the images that it was trained on, and is given, before they are resized for it."""
        return self.facts.data.side

    @property
    def parameters(self) -> int:
        """Trainable parameters."""
        return self.facts.parameters


def load_net(run: Run, checkpoint: str = "best") -> Net:
    """The weights of a run: the selected ones, or those called `final` or `epoch-0010`.

    Raises CheckpointError when they are missing, damaged or of another net.
    """
    path = run.require().checkpoint(checkpoint)
    state = load_checkpoint(path)
    if "weights" not in state:
        raise CheckpointError(f"{path} holds no selected weights (it looks like a last.pt); expected the run's own {path.name}")
    config = parse_config(state["config"], str(path))
    model = with_weights(config, len(state["classes"]), state["weights"], state["parameters"], path)
    kept = {key: state[key] for key in WeightsFacts.model_fields if state.get(key) is not None}
    known = {"checkpoint": checkpoint, "weights_sha256": sha256_file(path), "config_sha256": config_hash(config)}
    facts = parse(WeightsFacts, kept | known, path, CheckpointError)
    pixels = PixelStatistics.from_plain(state["pixels"]) if "pixels" in state else None
    return Net(model, config, tuple(state["classes"]), tuple(state["mean"]), tuple(state["std"]), facts, pixels)


def with_weights(config: Config, classes: int, weights: Mapping[str, Tensor], parameters: int, path: Path) -> nn.Module:
    """The net of a config with the weights read from `path`. Raises CheckpointError when they are of another net."""
    model = build_model(config.model, classes)
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path} does not fit the net its own config describes: {reason}") from None
    if count_parameters(model) != parameters:
        raise CheckpointError(f"{path} says {parameters:,} parameters; its net has {count_parameters(model):,}")
    return model


def load_own_splits(net: Net) -> tuple[Images, Images]:
    """The training and validation images of a net. Raises CheckpointError if its data is not what it was trained on."""
    train, val, facts = load_splits(net.config.data, net.stored)
    if facts != net.facts.data:
        raise CheckpointError(
            f"{net.config.name} was trained on other data than {val.source} now holds, so its train and val images are not "
            "these; restore the data, "
            "or give its present place as data root"
        )
    return train, val


def load_own_test(net: Net) -> Images:
    """The test images that belong to a net's training part. Raises CheckpointError, or DataError where others lie there."""
    train, val = load_own_splits(net)
    test = load_test(net.config.data, net.stored)
    if is_official(net.facts.data.sha256, test.sha256) is False:
        raise DataError(
            f"{test.source}: {plural(len(test), 'image')}, not the official test part of the data this net was trained on; "
            "put the official file back, or read other images as an unlabelled file"
        )
    if copies := more_copies_than_chance(test, train, val):
        raise DataError(
            f"{test.source}: {copies:,} of {plural(len(test), 'image')} are among those the net was trained or selected on, "
            "pixel by pixel; expected a test part that it never saw"
        )
    return test


def predict_images(
    net: Net,
    images: Images,
    views: str | Weighted,
    *,
    precision: str | None = None,
    progress: bool = False,
    dropout: bool = False,
) -> Predictions:
    """Predict any images with a net; `meta` says what made it.

    views, dropout: as in `compute_logits`; precision: a resolved one (default: the config's, on this machine).
    """
    if images.side != net.stored:
        raise UserError(
            f"{images.source}: the images are {images.side}x{images.side}, and this net was trained on pictures read at "
            f"{net.stored}x{net.stored}; read these so too (load_unlabelled and load_test take the side)"
        )
    engine = net.config.engine
    prepare_process(engine)
    device = resolve_device("cpu" if net.onnx else engine.device)
    precision = net.onnx.precision if net.onnx else precision or resolve_precision(engine.precision, device)
    model = net.model.to(device=device, memory_format=memory_format(engine))  # type: ignore[call-overload]
    pixels = to_tensor(images, device)
    logits = compute_logits(model, pixels, net.preprocess, views, precision, engine.eval_batch_size, progress, dropout)
    facts = {
        "format": FORMAT,
        "name": net.config.name,
        "seed": net.config.seed,
        "views": views_label(views),
        "rules": net.config.rules.model_dump(),
        "config": config_dict(net.config),
        "packages": package_versions(),
        **commit(),
        "precision": precision,
        "device": device.type,
        "images_sha256": images.sha256,
        "source": images.source,
        **net.facts.given(),
        **({"onnx": net.onnx} if net.onnx else {}),
    }
    meta = PredictionsMeta.model_validate(facts)
    return Predictions(images.ids, logits.cpu().numpy().astype(np.float32), images.labels, net.classes, meta)


def images_of(predictions: Predictions, data_root: str | None = None) -> Images:
    """The images that predictions of val or test were made from. Raises UserError when they cannot be had."""
    meta = predictions.meta
    configs, split = [net.config for net in meta.nets() if net.config is not None], meta.split
    if not configs or split not in ("val", "test"):
        raise UserError(
            "the predictions file does not say which split of which data it is of; expected one of a run's val or test"
        )

    def data_of(config: dict[str, Any]) -> Data:
        return relocate_config(parse_config(config, "the predictions' config"), None, data_root).data

    data, side = data_of(configs[0]), meta.data.side if meta.data else SIDE
    images = load_splits(data, side)[1] if split == "val" else load_test(data, side)
    if split == "val" and len(configs) > 1 and images.sha256 != meta.images_sha256:
        # Nets that held out other images were joined on those that all of them held out.
        others = {other.model_dump_json(): other for other in map(data_of, configs[1:]) if other != data}
        hashes = {images.sha256, *(load_splits(other, side)[1].sha256 for other in others.values())}
        places = np.flatnonzero(np.isin(images.ids, predictions.ids))
        if len(places) == len(predictions.ids) and sha256_of_shared(hashes, predictions.ids) == meta.images_sha256:
            return images.take(places)
    if images.sha256 != meta.images_sha256:
        raise DataError(
            f"{images.source} now holds other images than those predicted; restore the data, "
            "or give its present place as data root"
        )
    return images


def images_or_note(predictions: Predictions, data_root: str | None, note: Callable[[str], object]) -> Images | None:
    """The predicted images, to draw mistakes with; where they cannot be had, None, and `note` is told why."""
    try:
        return images_of(predictions, data_root)
    except UserError as error:
        note(f"mistakes are not drawn: {error}")
        return None


def check_split(split: object) -> None:
    """Raise UserError for what is none of a run's splits."""
    if split not in get_args(Split):
        raise UserError(f"there is no split {split!r}; expected one of {', '.join(get_args(Split))}")


def views_or(config: Config, views: str | None) -> str:
    """The views that were asked for, else the config's. Raises UserError for a choice that there is not."""
    if views is None:
        return config.views
    try:
        return views_name(views)
    except ValueError as error:
        raise UserError(f"views: {error}") from None


def predictions_file(run: Run, split: str, checkpoint: str, views: str, usual_views: str, form: str = "") -> Path:
    """Where predictions lie in a run: `val.npz`, and what is unlike the run's usual in the name: `val_epoch-0010_flip.npz`."""
    parts = [split, checkpoint if checkpoint != "best" else "", views if views != usual_views else "", form]
    return run.predictions / f"{'_'.join(part for part in parts if part)}.npz"


def predict(
    run: Run,
    split: Split,
    *,
    file: Path | None = None,
    checkpoint: str = "best",
    views: str | None = None,
    output: Path | None = None,
    overwrite: bool = False,
    allow_rows: int | None = None,
    layout: AskedLayout = "auto",
    device: str | None = None,
    data_root: str | None = None,
    net: Net | None = None,
    command: str = "",
) -> tuple[Path, Predictions, list[str]]:
    """Predict one split of a run's data, or an unlabelled file, with one of its checkpoints, and write the predictions file.

    net: the checkpoint in another form than its weights. Returns the path, the predictions and notes in plain words.
    Reading `test` is recorded in the run directory.
    """
    check_split(split)  # what is no split must not be read as test
    if (split == "submit") != (file is not None):
        raise UserError(
            f"split {split} {'without' if file is None else 'with'} an unlabelled file; "
            "expected one for submit, and for no other split",
            remedy="file" if file is None else (),
        )
    if split != "submit" and (allow_rows is not None or layout != "auto"):
        raise UserError(f"allow_rows and layout say how an unlabelled file is read; they have no effect on the split {split}")
    own = net or load_net(run, checkpoint)
    net = relocate_net(own, device, data_root)
    if net.facts.checkpoint != checkpoint:
        raise UserError(
            f"the given net is {net.facts.checkpoint}.pt in another form, not {checkpoint}.pt; name its own checkpoint"
        )
    chosen = views_or(net.config, views)
    form = f"onnx_{net.onnx.precision}" if net.onnx else ""
    target = output or predictions_file(run, split, checkpoint, chosen, net.config.views, form)
    refuse_existing(target, overwrite)
    probe_writable(target)  # now, not after minutes of work, or after the test split was read
    notes = _notes_of_unfinished(run, net) if checkpoint == "best" else []
    if file is not None:
        images, found = _load_submitted(net, file, allow_rows, layout)
        notes += found
    elif split in ("train", "val"):
        images = load_own_splits(net)[split == "val"]
    else:
        images = load_own_test(net)
    if images.classes and images.classes != net.classes:
        raise CheckpointError(
            f"{run.folder}, as trained, and {images.source} have {differing_classes(net.classes, images.classes)}; expected "
            "the same names in the same order"
        )
    began = time.perf_counter()
    predictions = predict_images(net, images, chosen, progress=True)
    seconds = time.perf_counter() - began
    # The config is that of the weights, whose hash is recorded: device and data root are facts of this machine.
    predictions = predictions.with_meta(split=split, run=run.name, command=command, config=config_dict(own.config))
    if allow_rows is not None:
        predictions = predictions.with_meta(allowed_rows=allow_rows)
    write_predictions(run, predictions, target, reads_test=split == "test")
    if target.parent == run.predictions:
        note_seconds(run, predictions.meta.maker, len(predictions.ids), seconds)
    return target, predictions, notes


def _load_submitted(net: Net, file: Path, allow_rows: int | None, layout: AskedLayout) -> tuple[Images, list[str]]:
    """The images of an unlabelled file, and notes on how they were read and where they look unlike those trained on."""
    rows = allow_rows if allow_rows is not None else net.config.rules.rows
    images, notes = load_unlabelled(file, classes=net.classes, layout=layout, rows=rows, side=net.stored)
    if net.config.input.mean is None:  # else it says nothing of the images it was trained on
        notes = [*notes, *color_notes(images, net.mean)]
    if net.pixels is not None:
        notes = [*notes, *turn_notes(images, net.pixels)]
    return images, notes


def write_predictions(run: Run, predictions: Predictions, path: Path, *, reads_test: bool) -> None:
    """Write a predictions file of a run; what reads the labels of the test split is recorded in the run first."""
    content, meta = predictions.to_bytes(), predictions.meta
    if reads_test:  # recorded before the result can be seen, even if the file cannot be written
        run.append_test_reading(
            command=meta.command,
            views=meta.views,
            images=len(predictions.ids),
            images_sha256=meta.images_sha256,
            accuracy=predictions.accuracy,
            predictions=path.name,
            predictions_sha256=sha256_bytes(content),
            checkpoint=meta.checkpoint,
            weights_sha256=meta.weights_sha256,
            **({"onnx_sha256": meta.onnx.sha256} if meta.onnx else {}),
        )
    write_atomic(path, content)


def _notes_of_unfinished(run: Run, net: Net) -> list[str]:
    """What to know of the selected weights of a run that has not ended."""
    if run.summary() is not None:
        return []
    said = "the best so far; training to the end may select others"
    if net.config.selection == "last":
        said = "the last so far; training to the end replaces them"
    return [f"{run.folder} has not finished: these are the weights of epoch {net.facts.epoch} of {net.config.epochs}, {said}"]


def relocate_net(net: Net, device: str | None, data_root: str | None) -> Net:
    """The same net on another device or with its data in another place; None: as it is."""
    return replace(net, config=relocate_config(net.config, device, data_root)) if device or data_root else net


def relocate_config(config: Config, device: str | None, data_root: str | None) -> Config:
    """The same configuration on another device or with its data in another place. Raises ConfigError for no device's name."""
    plain = config_dict(config)
    plain["engine"]["device"] = device or plain["engine"]["device"]
    plain["data"]["root"] = data_root or plain["data"]["root"]
    return parse_config(plain, "device" if device else "data root")
