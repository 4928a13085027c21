"""What `train --dry-run` says: the same numbers as the training would have, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import tiny_raw

from cifar_small.config.schema import Config
from cifar_small.config.strict_yaml import dump_yaml
from cifar_small.errors import CheckpointError, ConfigError, UserError
from cifar_small.reporting.dry_run import describe_run
from cifar_small.training.standin import memory_needed
from cifar_small.training.train import train


def test_it_says_what_a_run_would_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Callable[..., tuple[int, str, str]]
) -> None:
    monkeypatch.chdir(tmp_path)
    raw = tiny_raw(phases=[{"epochs": 2, "resolution": 16}, {"epochs": 1, "sam": {"rho": 0.05}}])
    Path("a.yaml").write_text(dump_yaml(raw))
    code, out, err = said("train", "--config", "a.yaml", "--dry-run", "--seed", "7")
    assert (code, err) == (0, "")
    assert "tiny, seed 7" in out
    assert "budget  20,034 of 100,000 trainable parameters, 79,966 left" in out
    assert "data    256 training images and 200 of val of digits" in out
    assert "steps   12: 3 epochs of 4 with 64 images each" in out
    assert "phase" in out
    assert list(tmp_path.iterdir()) == [tmp_path / "a.yaml"]


def test_work_is_that_of_every_phase_at_its_size(tiny: Callable[..., Config]) -> None:
    """A quarter of the pixels is a quarter of the work of the convolutions; SAM doubles it."""

    def work(**phase: object) -> float:
        line = next(
            line for line in describe_run(tiny(phases=[{"epochs": 4, **phase}])).splitlines() if line.startswith("work")
        )
        return float(line.split()[1])

    assert work(resolution=16) == pytest.approx(work() / 4, rel=0.1)
    assert work(sam={"rho": 0.05}) == pytest.approx(2 * work(), rel=0.1)


def test_data_of_unknown_size_is_read(tiny: Callable[..., Config], tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (90, 32, 32, 3), np.uint8)
    np.savez(tmp_path / "a.npz", train_images=images, train_labels=np.arange(90) % 3, classes=np.array(["a", "b", "c"]))
    config = tiny(data={"source": "npz", "root": str(tmp_path / "a.npz"), "val_size": 9}, batch_size=27)
    text = describe_run(config)
    assert "data    81 training images and 9 of val of npz" in text
    assert "steps   6: 2 epochs of 3 with 27 images each" in text
    assert f"{memory_needed(config, 3, 81) / 2**30:.2f} GiB" in text


def test_a_run_that_starts_from_another_has_its_input(tiny: Callable[..., Config], tmp_path: Path) -> None:
    train(tiny(input={"size": 48}, phases=[{"epochs": 1}]), tmp_path / "first", quiet=True)
    rules = {"max_params": 100_000, "rows": 360, "pretrained": True}
    text = describe_run(tiny(weights=str(tmp_path / "first"), rules=rules))
    assert "for an image of 48x48 pixels" in text
    assert text == describe_run(tiny(weights=str(tmp_path / "first"), rules=rules, input={"size": 48}))
    with pytest.raises(CheckpointError, match="gone does not exist"):
        describe_run(tiny(weights=str(tmp_path / "gone"), rules=rules))


def test_what_training_refuses_is_refused(tiny: Callable[..., Config]) -> None:
    with pytest.raises(ConfigError, match="over the budget of 100"):
        describe_run(tiny(rules={"max_params": 100}))
    with pytest.raises(UserError, match="batch_size 512 is above the 256 training images"):
        describe_run(tiny(batch_size=512))
