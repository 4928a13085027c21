"""A trained net as a folder to publish: weights as safetensors, config, model card, a program for plain torch; and back.

model.safetensors   the weights, float32, by the names of the net's own state dict
model.pt2           the net with its normalization, for torch.export.load: uint8 (N, 3, 32, 32) -> logits (N, K)
config.yaml         the configuration of the run
config.json         classes, normalization, where the weights come from, SHA-256 of the other files; written last
README.md           the model card
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cifar_small.config.hashing import config_dict, dump_config
from cifar_small.config.loading import load_config, parse_config
from cifar_small.config.schema import Config
from cifar_small.data.orientation import PixelStatistics
from cifar_small.errors import CheckpointError, UserError
from cifar_small.export.model_card import model_card
from cifar_small.files import refuse_existing, sha256_bytes, sha256_file, write_atomic, write_json
from cifar_small.inference.predict import Net, load_net, with_weights
from cifar_small.runs.directory import Run, read_json
from cifar_small.runs.records import WeightsFacts, parse
from cifar_small.transforms.preprocess import FromPixels

WEIGHTS, PROGRAM, CONFIG, CARD, FACTS = "model.safetensors", "model.pt2", "config.yaml", "README.md", "config.json"
FILES = (WEIGHTS, PROGRAM, CONFIG, CARD, FACTS)
FORMAT = 1


def export(run: Run, folder: Path, *, checkpoint: str = "best", overwrite: bool = False) -> Net:
    """Write a run's weights into a folder of their own and return the net; `overwrite` replaces an earlier export.

    Raises CheckpointError for a run without them, UserError for a folder of other files or without the extra `pretrained`.
    """
    safetensors = _import_safetensors()
    if folder.is_dir() and (others := sorted(path.name for path in folder.iterdir() if path.name not in FILES)):
        raise UserError(f"{folder} contains other files ({others[0]}, ...); expected a new or empty folder", remedy="output")
    for name in FILES:
        refuse_existing(folder / name, overwrite)
    net = load_net(run, checkpoint)
    tensors = {name: tensor.contiguous() for name, tensor in net.model.state_dict().items()}
    contents = {
        WEIGHTS: safetensors.save(tensors, metadata={"format": "pt"}),
        PROGRAM: _program(net),
        CONFIG: dump_config(_portable(net.config)).encode(),
    }
    card = model_card(net, run)
    (folder / FACTS).unlink(missing_ok=True)  # a folder without it is not an export, so a half-written one is not
    for name, content in contents.items():
        write_atomic(folder / name, content)
    write_atomic(folder / CARD, card.encode())
    facts = {
        "library_name": "cifar_small",
        "format": FORMAT,
        "model": config_dict(net.config)["model"],
        "classes": net.classes,
        "mean": net.mean,
        "std": net.std,
        **({"pixels": net.pixels.plain()} if net.pixels else {}),
        "facts": net.facts.plain(),
        "sha256": {name: sha256_bytes(content) for name, content in contents.items()},
    }
    write_json(folder / FACTS, facts)
    return net


def require_exported(folder: Path) -> dict[str, Any]:
    """The content of an exported folder's config.json. Raises CheckpointError for another, incomplete or damaged folder."""
    path = folder / FACTS
    expected = "expected a folder written by cifar-small export"
    if not path.is_file():
        raise CheckpointError(f"{folder} {'has no ' + FACTS if folder.is_dir() else 'is no folder'}; {expected}")
    facts = read_json(path)
    if not isinstance(facts, dict) or facts.get("library_name") != "cifar_small":
        raise CheckpointError(f"{path} was not written by cifar-small; {expected}")
    if facts.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} has format {facts.get('format')}; this version reads format {FORMAT}: update cifar_small"
        )
    if missing := [key for key in ("classes", "mean", "std", "facts", "sha256") if key not in facts]:
        raise CheckpointError(f"{path} lacks {', '.join(missing)}; {expected}: export it again")
    for name in FILES:
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} has no {name}; {expected}: export it again")
    for name in (WEIGHTS, PROGRAM, CONFIG):
        if sha256_file(folder / name) != facts["sha256"].get(name):
            raise CheckpointError(f"{folder / name} is damaged or changed: {FACTS} has another SHA-256 for it; export it again")
    return facts


def load_exported(folder: str | Path) -> Net:
    """The net of an exported folder, whose predictions are those of the run's own checkpoint bit for bit.

    Raises CheckpointError for a damaged or incomplete folder, UserError without the extra `pretrained`.
    """
    folder = Path(folder)
    safetensors, facts = _import_safetensors(), require_exported(folder)
    config = load_config(folder / CONFIG, trusted=False)
    weights: dict[str, Tensor] = safetensors.load((folder / WEIGHTS).read_bytes())
    known = parse(WeightsFacts, facts["facts"], folder / FACTS, CheckpointError)
    model = with_weights(config, len(facts["classes"]), weights, known.parameters, folder / WEIGHTS)
    pixels = PixelStatistics.from_plain(facts["pixels"]) if "pixels" in facts else None
    return Net(model, config, tuple(facts["classes"]), tuple(facts["mean"]), tuple(facts["std"]), known, pixels)


def _import_safetensors() -> Any:
    """`safetensors.torch`. Raises UserError, naming the extra, where it is not installed."""
    try:
        import safetensors.torch
    except ImportError as error:
        raise UserError(
            f"safetensors is needed and is not installed ({error}); pip install 'cifar_small[pretrained]'"
        ) from None
    return safetensors.torch


def _program(net: Net) -> bytes:
    """The net as torch.export saves it, for any number of images."""
    example = torch.zeros(2, 3, net.stored, net.stored, dtype=torch.uint8)
    with torch.no_grad():
        model = FromPixels(net.model, net.preprocess, net.stored).eval()
        program = torch.export.export(model, (example,), dynamic_shapes={"images": {0: torch.export.Dim("images", min=1)}})
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def _portable(config: Config) -> Config:
    """The configuration without paths of one machine (data, weights, teachers) and without the number of its GPU."""
    plain = config_dict(config)
    plain["data"]["root"] = None
    plain = _without_folders(plain)
    if plain["engine"]["device"] != "cpu":
        plain["engine"]["device"] = "auto"
    return parse_config(plain, CONFIG)


def _without_folders(value: Any) -> Any:
    """A config's values with every absolute path cut to its last part (as ./name, so that it is not read as a keyword)."""
    if isinstance(value, dict):
        return {key: _without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_folders(item) for item in value]
    return f"./{Path(value).name}" if isinstance(value, str) and Path(value).is_absolute() else value
