"""A trained net as a folder to publish: weights as safetensors, config, model card, a program for plain torch; and back.

model.safetensors   the weights, float32, by the names of the net's own state dict
model.pt2           the net with its normalization, for torch.export.load: uint8 (N, 3, S, S) -> logits (N, K)
config.yaml         the configuration of the run
config.json         classes, normalization, where the weights come from, SHA-256 of the other files; written last
README.md           the model card
my_nets.py          code of the user's own that the configuration names, if any
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cifar_small.config.hashing import config_dict, dump_config
from cifar_small.config.loading import load_config, parse_config
from cifar_small.config.own_code import ARGUMENTS, KEYS, OWN, file_name, files_of, is_installed, source_of
from cifar_small.config.schema import Config
from cifar_small.data.orientation import PixelStatistics
from cifar_small.errors import CheckpointError, ConfigError, UserError
from cifar_small.export.model_card import model_card
from cifar_small.export.tracing import refusals_of_torch
from cifar_small.files import refuse_existing, sha256_bytes, sha256_file, write_atomic, write_json
from cifar_small.inference.predict import Net, load_net, with_weights
from cifar_small.models.safetensors_file import import_safetensors, read_safetensors, to_safetensors
from cifar_small.runs.directory import Run, read_json
from cifar_small.runs.records import WeightsFacts, parse
from cifar_small.transforms.preprocess import FromPixels
from cifar_small.wording import command_line

WEIGHTS, PROGRAM, CONFIG, CARD, FACTS = "model.safetensors", "model.pt2", "config.yaml", "README.md", "config.json"
FILES = (WEIGHTS, PROGRAM, CONFIG, CARD, FACTS)
FORMAT = 1


def files_of_export(config: Config) -> tuple[str, ...]:
    """The names of the files of an export: `FILES`, and those of the user's own that the config names."""
    return (*FILES, *files_of(config_dict(config)))


def export(run: Run, folder: Path, *, checkpoint: str = "best", overwrite: bool = False) -> Net:
    """Write a run's weights into a folder of their own and return the net; `overwrite` replaces an earlier export.

    Raises CheckpointError for a run without them, UserError for a folder of other files or without the extra `pretrained`.
    """
    import_safetensors()
    files = files_of_export(run.config())
    if folder.is_dir() and (others := sorted(path.name for path in folder.iterdir() if path.name not in files)):
        raise UserError(f"{folder} contains other files ({others[0]}, ...); expected a new or empty folder", remedy="output")
    for name in files:
        refuse_existing(folder / name, overwrite)
    _refuse_work_of_the_user(folder, files)
    net = load_net(run, checkpoint)
    portable = _portable(net.config)
    contents = {
        WEIGHTS: to_safetensors(net.model),
        PROGRAM: _program(net),
        CONFIG: dump_config(portable).encode(),
        **_own_code(net.config, run),
    }
    card = model_card(replace(net, config=portable), run)
    (folder / FACTS).unlink(missing_ok=True)  # a folder without it is not an export, so a half-written one is not
    for name, content in contents.items():
        write_atomic(folder / name, content)
    write_atomic(folder / CARD, card.encode())
    facts = {
        "library_name": "cifar_small",
        "format": FORMAT,
        "model": config_dict(portable)["model"],
        "classes": net.classes,
        "mean": net.mean,
        "std": net.std,
        **({"pixels": net.pixels.plain()} if net.pixels else {}),
        "facts": net.facts.plain(),
        "sha256": {name: sha256_bytes(content) for name, content in contents.items()},
        "card_sha256": sha256_bytes(card.encode()),  # as it was written: its user may edit it
    }
    write_json(folder / FACTS, facts)
    return net


def _refuse_work_of_the_user(folder: Path, files: Sequence[str]) -> None:
    """Raise UserError for a folder that is no earlier export, or where a file that a user may edit was edited since."""
    there = [name for name in files if (folder / name).is_file() and name not in (WEIGHTS, PROGRAM, FACTS)]
    facts = read_json(folder / FACTS) if (folder / FACTS).is_file() else None
    if facts is None and (folder / WEIGHTS).is_file():
        return  # of an export that was cut off
    ours = facts if isinstance(facts, dict) and facts.get("library_name") == "cifar_small" else None
    known = {CARD: ours.get("card_sha256"), **ours.get("sha256", {})} if ours else {}
    for name in there:
        if not ours or (known.get(name) is not None and sha256_file(folder / name) != known[name]):
            what = "was edited since it was exported" if ours else "is not of an export"
            raise UserError(
                f"{folder / name} {what}, so it may be work of yours; move it, or export into a new folder", remedy="output"
            )


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
    own = [name for name in facts["sha256"] if name not in FILES]
    for name in (*FILES, *own):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} has no {name}; {expected}: export it again")
    for name in (WEIGHTS, PROGRAM, CONFIG, *own):
        if sha256_file(folder / name) != facts["sha256"].get(name):
            raise CheckpointError(f"{folder / name} is damaged or changed: {FACTS} has another SHA-256 for it; export it again")
    return facts


def load_exported(folder: str | Path) -> Net:
    """The net of an exported folder, whose predictions are those of the run's own checkpoint bit for bit.

    Raises CheckpointError for a damaged or incomplete folder, UserError without the extra `pretrained`, ConfigError for code
    in the folder that its user has not trusted yet.
    """
    folder = Path(folder)
    import_safetensors()
    facts = require_exported(folder)
    config = load_config(folder / CONFIG, trusted=False)
    if unread := [name for name, sha256 in files_of(config_dict(config)["model"]).items() if source_of(sha256) is None]:
        raise ConfigError(
            f"{folder} holds code that has not been used on this machine ({', '.join(unread)}); read it, and if you trust it, "
            f"run in that folder: {command_line('param_count', CONFIG)}"
        )
    known = parse(WeightsFacts, facts["facts"], folder / FACTS, CheckpointError)
    model = with_weights(config, len(facts["classes"]), read_safetensors(folder / WEIGHTS), known.parameters, folder / WEIGHTS)
    pixels = PixelStatistics.from_plain(facts["pixels"]) if "pixels" in facts else None
    return Net(model, config, tuple(facts["classes"]), tuple(facts["mean"]), tuple(facts["std"]), known, pixels)


def _program(net: Net) -> bytes:
    """The net as torch.export saves it, for any number of images."""
    example = torch.zeros(2, 3, net.stored, net.stored, dtype=torch.uint8)
    with torch.no_grad(), refusals_of_torch(net, PROGRAM):
        model = FromPixels(net.model, net.preprocess, net.stored).eval()
        program = torch.export.export(model, (example,), dynamic_shapes={"images": {0: torch.export.Dim("images", min=1)}})
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def _own_code(config: Config, run: Run) -> dict[str, bytes]:
    """The files of the user's own that a config names, without which nobody else can build its net. Raises CheckpointError."""
    found = {}
    for name, sha256 in files_of(config_dict(config)).items():
        copy, content = run.folder / name, source_of(sha256)
        if content is None and copy.is_file() and sha256_file(copy) == sha256:  # an augmentation that never ran on this machine
            content = copy.read_bytes()
        if content is None:
            raise CheckpointError(
                f"{copy} (SHA-256 {sha256[:12]}), which the run's config names, is missing; put it there again"
            )
        found[name] = content
    return found


def _portable(config: Config) -> Config:
    """The configuration without paths of one machine (data, weights, teachers) and without the number of its GPU."""
    plain = config_dict(config)
    plain["data"]["root"] = None
    plain = _without_folders(plain)
    if plain["engine"]["device"] != "cpu":
        plain["engine"]["device"] = "auto"
    return parse_config(plain, CONFIG)


def _without_folders(value: Any) -> Any:
    """A config's values with every absolute path cut to its last part, and so every place of a file of the user's own.

    A path becomes ./name, so that it is not read as a keyword. Arguments of the user's own code stay as they are, since what
    looks like a path there may be none.
    """
    if isinstance(value, dict):
        return {key: _of_the_folder(key, item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_folders(item) for item in value]
    return f"./{Path(value).name}" if isinstance(value, str) and Path(value).is_absolute() else value


def _of_the_folder(key: str, value: Any) -> Any:
    if key == ARGUMENTS:
        return value
    return _beside_the_config(value) if key in KEYS else _without_folders(value)


def _beside_the_config(named: Any) -> Any:
    """The place of a net or augmentation: of the user's own, a file in the folder; of an installed package, as it is."""
    own = OWN.fullmatch(named) if isinstance(named, str) else None
    if own is None:
        return _without_folders(named)
    return named if is_installed(named) else f"{file_name(own['place'])}:{own['name']}"
