"""A function of the user's own as augmentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cifar_small.config import own_code
from cifar_small.config.loading import load_config
from cifar_small.config.resolved import resolve_config
from cifar_small.config.schema import OwnAugment
from cifar_small.config.strict_yaml import dump_yaml
from cifar_small.errors import ConfigError
from cifar_small.runs.directory import Run
from cifar_small.training.train import train
from cifar_small.transforms.own import augment_by_own, check_own_augment
from tests.conftest import tiny_raw

OPS = """
import torch

def noise(images, generator, strength=20):
    shift = torch.randint(-strength, strength + 1, images.shape, generator=generator)
    return (images.int() + shift).clamp(0, 255).to(torch.uint8)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(own_code, "KEPT", tmp_path / "cache")


def own(text: str = OPS, **arguments: Any) -> OwnAugment:
    Path("my_ops.py").write_text(text)
    plain = own_code.with_hashes({"engine": "my_ops.py:noise", "arguments": arguments}, trusted=True)
    return OwnAugment.model_validate(plain)


def test_the_function_is_given_the_batch_the_generator_and_the_arguments() -> None:
    images = torch.full((4, 3, 8, 8), 100, dtype=torch.uint8)
    done = augment_by_own(own(strength=5), images, torch.Generator().manual_seed(0))
    assert done.dtype == torch.uint8
    assert 95 <= int(done.min()) < 97
    assert 103 < int(done.max()) <= 105
    assert torch.equal(images, torch.full_like(images, 100))


FAULTS = {
    "returns torch.float32 (8, 3, 32, 32); expected torch.uint8": OPS.replace(".to(torch.uint8)", ".float()"),
    "returns torch.uint8 (8, 3, 16, 32); expected torch.uint8 (8, 3, 32, 32)": OPS.replace(
        "clamp(0, 255)", "clamp(0, 255)[:, :, :16]"
    ),
    "gives other pixels for the same generator": OPS.replace(", generator=generator)", ")"),
    "changes nothing in 20 batches of 8 random images": OPS.replace("+ shift", "+ 0 * shift"),
    "cannot augment uint8 images (8, 3, 32, 32): ZeroDivisionError": OPS.replace("shift =", "1 / 0\n    shift ="),
    "cannot augment uint8 images (8, 3, 32, 32): SystemExit: 5": OPS.replace("shift =", "raise SystemExit(5)\n    shift ="),
    "has no noise; it defines another": OPS.replace("def noise", "def another"),
}


@pytest.mark.parametrize(("message", "text"), list(FAULTS.items()), ids=list(FAULTS))
def test_what_breaks_a_promise_is_told(message: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_own_augment(own(text), 32)
    assert message in str(caught.value)


def test_a_run_interrupted_within_an_epoch_sees_the_same_pixels() -> None:
    own()
    raw = tiny_raw(augment={"engine": "my_ops.py:noise"}, phases=[{"epochs": 2}])
    Path("mine.yaml").write_text(dump_yaml({**raw, "engine": {**raw["engine"], "checkpoint_steps": 1}}))
    config = load_config("mine.yaml")
    train(config, "runs/whole", quiet=True)
    count = 0

    class StopError(Exception):
        pass

    def stop() -> None:
        nonlocal count
        count += 1
        if count == 4:
            raise StopError

    with pytest.raises(StopError):
        train(config, "runs/parts", quiet=True, before_save=stop)
    train(config, "runs/parts", resume=True, quiet=True)
    first, second = (torch.load(Run(f"runs/{name}").best, weights_only=True)["weights"] for name in ("whole", "parts"))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert (Path("runs/whole") / "my_ops.py").read_text() == OPS


def test_an_unknown_engine_is_answered_with_the_known_ones() -> None:
    Path("mine.yaml").write_text(dump_yaml(tiny_raw(augment={"engine": "kornia"})))
    with pytest.raises(ConfigError, match=r"augment\.engine: expected one of tensor, albumentations, torchvision, my_ops\.py"):
        load_config("mine.yaml")


def test_views_that_are_kept_are_not_those_of_ones_own_function(tiny: Any) -> None:
    """It is given a batch and draws for all of it, so that its pixels depend on which images are in it."""
    augment = own().model_dump(mode="json")
    model = {"family": "torchvision/resnet18"}
    phase = {"epochs": 4, "freeze": "backbone", "cached_views": 2, "augment": augment}
    with pytest.raises(ConfigError, match=r"phases\.0\.cached_views 2 goes with no augmentation of your own, whose pixels"):
        resolve_config(tiny(model=model, rules={"max_params": 10**8}, phases=[phase]))
