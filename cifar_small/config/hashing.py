"""A configuration as plain values, as YAML text, and as hashes of the run and of its recipe."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from cifar_small.config.phases import without_ineffective
from cifar_small.config.renamed import with_former_names
from cifar_small.config.schema import Config, Engine
from cifar_small.config.strict_yaml import dump_yaml


def dump_config(config: Config) -> str:
    """The resolved configuration as YAML text that `load_config` reads back to an equal value."""
    return dump_yaml(config_dict(config))


def config_dict(config: Config) -> dict[str, Any]:
    """The resolved configuration as plain dicts, lists and numbers.

    Values that hold only where something else is on (and would be refused as having no effect) are left out while it is off.
    """
    plain: dict[str, Any] = json.loads(config.model_dump_json())
    if "mix_prob" not in config.model_fields_set:
        plain.pop("mix_prob")  # with mixing off everywhere it would be refused as having no effect
    plain = without_ineffective(plain, keep={key: plain[key] for key in plain if key in ("mix_prob", "mix_probs")})
    first = ("name", "seed", "rules", "data", "model", "batch_size")
    return {key: plain[key] for key in first} | {key: value for key, value in plain.items() if key not in first}


def config_hash(config: Config) -> str:
    """SHA-256 of the resolved configuration."""
    return _hash(config_dict(config))


SHARED_BY_SEEDS = ("precision", "layout", "micro_batch_size", "sync_batchnorm")  # of `engine`: part of the recipe


def recipe_hash(config: Config) -> str:
    """SHA-256 of what the seeds of one recipe share: the configuration without its seed, device and data folder."""
    engine = Engine(**{key: getattr(config.engine, key) for key in SHARED_BY_SEEDS})
    plain = config_dict(config.model_copy(update={"seed": 0, "engine": engine}))
    plain["data"]["root"] = None
    return _hash(plain)


def _hash(plain: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(with_former_names(plain), sort_keys=True).encode()).hexdigest()
