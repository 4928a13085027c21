"""Pydantic's validation errors as lines for people: `dotted.key: what was expected, got what`, with the nearest key."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable

from pydantic import BaseModel, ValidationError

from cifar_small.config.schema.kinds import kinds_of, sections_of
from cifar_small.config.schema.patterns import IN_WORDS
from cifar_small.config.schema.patterns import meant as meant_text


def describe_problems(root: type[BaseModel], error: ValidationError, prefix: str) -> list[str]:
    """Each pydantic error as `dotted.key: what was expected, got what`."""
    lines, problems = [], error.errors(include_url=False)
    # What a section of an unknown kind may hold is not known, so that its keys are not its problem.
    unknown = {item["loc"][:-1] for item in problems if item["type"] == "value_error" and item["loc"][-1:] == ("family",)}
    for item in problems:
        if item["type"] == "extra_forbidden" and item["loc"][:-1] in unknown:
            continue
        path, section, options = _walk(root, item["loc"])
        where = (prefix + ".".join(path)).rstrip(".")
        if item["type"] == "extra_forbidden":
            known = list(section.model_fields) if section else []
            near = difflib.get_close_matches(path[-1], known, 1, cutoff=0.5)
            begun = near and near[0].startswith(path[-1])  # mixup for mixup_alpha
            meant = "" if begun else meant_setting(root, path, prefix)
            hint = f"did you mean {meant or repr(near[0])}?" if meant or near else f"known here: {', '.join(known)}"
            lines.append(f"{where}: unknown key; {hint}")
            continue
        message = item["msg"].removeprefix("Value error, ")
        got = item.get("input")
        if item["type"] in ("union_tag_invalid", "union_tag_not_found"):
            key = item["ctx"]["discriminator"].strip("'")
            where, got = f"{where}.{key}", got.get(key) if isinstance(got, dict) else got
            message = f"expected one of {', '.join(kind for option in options for kind in kinds_of(option))}"
        near_value = ""
        if item["type"] == "string_pattern_mismatch":
            pattern = item["ctx"]["pattern"]
            message, near_value = f"expected {IN_WORDS[pattern]}", meant_text(pattern, str(got))
        if item["type"] in ("model_type", "model_attributes_type", "dict_type") and options:
            message = f"is a section, not one value; set what it holds, such as {where}.{next(iter(options[0].model_fields))}"
        shown = "" if item["type"] in ("missing", "value_error") else f", got {json.dumps(got, default=repr)[:80]}"
        shown += f"; did you mean {json.dumps(near_value)}?" if near_value else ""
        message = message[0].lower() + message[1:]
        lines.append(f"{where}: {message}{shown}" if where else message)
    return lines


# What newcomers call the things that have another name here.
MEANT = {
    "epochs": "phases.0.epochs",
    "learning_rate": "optim.lr",
    "bs": "batch_size",
    "random_seed": "seed",
    "dataset": "data.source",
    **dict.fromkeys(("data_dir", "data_path", "data_root"), "data.root"),
    **dict.fromkeys(("arch", "architecture", "net", "backbone"), "model.family"),
    "pretrained": "weights imagenet",
    **dict.fromkeys(("image_size", "img_size", "input_size", "imgsz"), "input.size"),
    **dict.fromkeys(("gpu", "gpus", "cuda"), "engine.device cuda"),
    **dict.fromkeys(("num_workers", "n_workers"), "engine.workers"),
    **dict.fromkeys(("amp", "fp16", "bf16"), "engine.precision"),
    **dict.fromkeys(("grad_accum", "accumulate_grad_batches"), "engine.micro_batch_size"),
    "warmup": "schedule.warmup_epochs",
    "pct_start": "schedule.rise",
    "div_factor": "schedule.start_divisor",
    "final_div_factor": "schedule.end_divisor",
    "T_0": "schedule.period",
    "T_mult": "schedule.multiplier",
    "eta_min": "schedule.min_lr",
    "tta": "views",
    "wd": "optim.weight_decay",
    "optimizer": "optim.name",
    "scheduler": "schedule.name",
    "ema": "ema_decay",
    "smoothing": "label_smoothing",
    "trivialaugment": "augment.policy trivialaugment",
    "randaugment": "augment.policy randaugment",
    "autoaugment": "augment {engine: torchvision, policy: autoaugment_cifar10}",
}


def meant_setting(root: type[BaseModel], path: list[str], prefix: str) -> str:
    """The setting that an unknown key means: of a section that has one of that name, or by another name; else nothing."""
    *outer, key = path
    if not outer and key not in MEANT:
        for name, field in root.model_fields.items():
            if any(key in section.model_fields for section in sections_of(field.annotation)):
                return f"{prefix}{name}.{key}"
    meant = MEANT.get(key, "")
    first = meant.replace(" ", ".").partition(".")[0]
    return f"{prefix}{meant}" if first in root.model_fields and outer in ([], [first]) else ""


def _walk(root: type[BaseModel], loc: Iterable[int | str]) -> tuple[list[str], type[BaseModel] | None, list[type[BaseModel]]]:
    """The dotted path of an error (without the union tags pydantic inserts), the section its last key belongs to, and the
    sections that may stand there."""
    path: list[str] = []
    options: list[type[BaseModel]] = [root]
    owner: type[BaseModel] | None = root
    for part in loc:
        tagged = [option for option in options if part in kinds_of(option)]
        if len(options) > 1 and tagged:
            options = tagged
            owner = tagged[0]
            continue
        path.append(str(part))
        owner = options[0] if options else None
        field = owner.model_fields.get(str(part)) if owner else None
        options = sections_of(field.annotation) if field else []
    return path, owner, options
