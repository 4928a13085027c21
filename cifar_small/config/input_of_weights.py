"""The input that initial weights expect (size, kernel, mean and standard deviation), for what a config leaves open."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cifar_small.config.published import PUBLISHED
from cifar_small.config.schema import Config, LibraryModel


def with_published_input(config: Config) -> Config:
    """The config with the input that published weights, or a file for the same net, expect, where it says nothing else.

    What a config.json beside the file says comes before; it is left open here, until the file is read.
    """
    published = published_input(config)
    if not published or config.starts_from_run or (config.weights != "imagenet" and input_beside(Path(str(config.weights)))):
        return config
    return with_input(config, published)


def published_input(config: Config) -> dict[str, Any]:
    """The input that ImageNet weights of a config's net expect, by its keys; empty for nets of which that is not known."""
    model = config.model
    if not isinstance(model, LibraryModel) or model.stem != "imagenet" or config.weights is None:
        return {}
    published = PUBLISHED.get(model.family)
    return {} if published is None else {key: getattr(published, key) for key in ("size", "interpolation", "mean", "std")}


def timm_config(weights: Path) -> Any:
    """What the config.json beside a file of weights holds, if it is JSON, as timm and others write it; None: nothing."""
    try:
        return json.loads((weights.parent / "config.json").read_bytes())
    except (OSError, ValueError):
        return None


def input_beside(weights: Path) -> dict[str, Any]:
    """What the config.json beside a file of weights says of their input, as timm writes it; empty where there is none."""
    content = timm_config(weights)
    told = content.get("pretrained_cfg", content) if isinstance(content, dict) else None
    if not isinstance(told, dict) or "input_size" not in told:
        return {}
    size = told["input_size"]
    brought = {key: told[key] for key in ("mean", "std", "interpolation") if key in told}
    return {**brought, "size": size[-1] if isinstance(size, list) and size else None}


def with_input(config: Config, brought: Mapping[str, Any]) -> Config:
    """The config with `brought` for what its `input` leaves open; mean and std come together."""
    given = {key: value for key, value in dict(config.input).items() if value is not None}
    return config.model_copy(update={"input": config.input.model_copy(update={**brought, **given})})
