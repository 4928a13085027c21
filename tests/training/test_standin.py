"""Whole training and prediction on the meta device, a stand-in for a GPU: nothing waits for it or mixes devices; its memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_raw
from torch import Tensor

from cifar_small.config.hashing import dump_config
from cifar_small.config.loading import load_config, parse_config
from cifar_small.inference.forward import compute_logits
from cifar_small.models.counting import trainable_parameters
from cifar_small.training import batches, trainer
from cifar_small.training.averaging import average_epoch
from cifar_small.training.batches import Batch
from cifar_small.training.standin import DeviceWatch, StandInTrainer, memory_needed, stand_in
from cifar_small.transforms.views import VIEWS

ROOT = Path(__file__).resolve().parents[2]
WHITENED = {
    "family": "whitened_resnet",
    "stages": [{"width": 16, "branch": [[3, 16]]}, {"width": 16, "branch": [[1, 8], [3, 16]]}],
}
PLAIN = {"family": "resnet", "widths": [8, 8, 16], "blocks": [1, 1, 1]}
LITE = {"family": "timm/tf_efficientnet_lite0"}
CACHED = [
    {"epochs": 2, "freeze": "backbone", "cached_views": 1, "augment": {"crop": 0, "flip": "none"}},
    {"epochs": 1, "freeze": "none"},
]
DISTORTED = {"rotation": 5, "scale": [0.9, 1.1], "policy": "randaugment", "brightness": 0.1, "hue": 0.1, "blur": 0.5}


def run(tmp_path: Path, precision: str = "bf16", **changes: Any) -> StandInTrainer:
    """Two steps of every phase, an average's end of an epoch, and a prediction, on 200 images."""
    teacher = parse_config(tiny_raw(model=PLAIN))
    (tmp_path / "config.yaml").write_text(dump_config(teacher))
    raw = tiny_raw(**{"rules": {"max_params": 10**9}, "batch_size": 32, "phases": [{"epochs": 2}], **changes})
    made = stand_in(parse_config(raw), 10, 200, precision)
    made.train_phases()
    last = made.resolved.phases[-1]
    with made.watch:
        average_epoch(made.state, last, made.batches.plain(0))
    return made


@pytest.mark.parametrize(
    "model",
    [
        {**PLAIN, "se_reduction": 4, "stochastic_depth": 0.2, "dropout": 0.1},
        {**PLAIN, "preact": True, "shortcut": "pad"},
        {"family": "wideresnet", "depth": 10, "widen_factor": 1, "dropout": 0.1},
        {**WHITENED, "stem_bias": True},
        {"family": "torchvision/resnet18", "stem": "cifar", "head": "se"},
        {"family": "torchvision/mobilenet_v3_small"},
        {"family": "torchvision/convnext_tiny"},
        {"family": "timm/efficientnet_b0"},
    ],
    ids=lambda model: model["family"],
)
def test_every_family_trains_and_predicts(tmp_path: Path, model: dict[str, Any]) -> None:
    if model["family"].startswith("timm"):
        pytest.importorskip("timm")
    made = run(tmp_path, model=model, views="flips_shift_blur")
    assert made.state.step == made.steps == 6
    assert all(parameter.is_meta for parameter in made.state.model.parameters())


@pytest.mark.parametrize(
    "changes",
    [
        {"optim": {"name": "sgd", "lr": 0.1}, "ema_decay": 0.9, "ema_warmup": True, "cutmix_alpha": 1.0},
        {"optim": {"name": "adam"}, "mixup_alpha": 0.2, "sam": {"rho": 0.05}},
        {"optim": {"name": "adamw", "clip_norm": 1.0}, "ricap_beta": 0.3, "sam": {"rho": 2.0, "adaptive": True}},
        {"optim": {"name": "radam"}, "views": "flip_shift@0.25"},
        {"optim": {"name": "muon"}, "lookahead": {"steps": 2}, "label_smoothing": 0.1, "augment": DISTORTED},
        {
            "optim": {"name": "muon", "normalize": False, "bias": {"name": "adamw"}, "head": {"name": "adamw"}},
            "swa": {"every": 1},
        },
        {
            "model": {**WHITENED, "stem_bias": True},
            "phases": [{"epochs": 1, "freeze": "stem"}, {"epochs": 1, "resolution": 24}],
            "optim": {"name": "muon"},
        },
        {
            "augment": {"engine": "torchvision", "policy": "augmix", "cutout": 8, "erasing": 0.5},
            "engine": {"micro_batch_size": 8},
        },
        {"distill": {"teachers": ["TEACHER"]}, "cutmix_alpha": 1.0},
        {"distill": {"teachers": ["TEACHER"], "cached_views": 2}, "augment": DISTORTED, "phases": [{"epochs": 3}]},
        {"distill": {"predictions": "a.npz"}, "mixup_alpha": 1.0},
        {"select": {"share": 0.5, "proxy": "PROXY"}, "cutmix_alpha": 1.0},
        {"model": LITE, "phases": CACHED},
        {"input": {"size": 48, "augment": "after"}, "augment": {"policy": "trivialaugment", "crop": 4, "flip": "alternating"}},
    ],
    ids=[
        "sgd",
        "adam",
        "adamw",
        "radam",
        "muon",
        "swa",
        "phases",
        "image by image",
        "teachers",
        "cached teachers",
        "predictions",
        "proxy",
        "features",
        "enlarged",
    ],
)
def test_every_setting_trains_and_predicts(tmp_path: Path, changes: dict[str, Any]) -> None:
    if "teachers" in changes.get("distill", {}):
        changes = {**changes, "distill": {**changes["distill"], "teachers": [str(tmp_path)]}}
    if "select" in changes:
        changes = {**changes, "select": {"share": 0.5, "proxy": str(tmp_path)}}
    made = run(tmp_path, **{"model": PLAIN, **changes})
    assert made.watch.peak > made.watch.live > 0
    if "swa" in changes:
        assert made.state.averaged == 1


def test_a_scaled_loss_does_too(tmp_path: Path) -> None:
    run(tmp_path, "fp16", model=PLAIN)


@pytest.mark.parametrize("views", [*VIEWS, "flip_shift@0.25"])
def test_no_view_waits(views: str) -> None:
    made = stand_in(parse_config(tiny_raw(model=PLAIN)), 10, 200, "bf16")
    with made.watch:
        made.watch.strict = True
        logits = compute_logits(made.state.model, made.data.images, made.batches.preprocess, views, "bf16", 100)
    assert logits.shape == (200, 10)


def broken(change: Callable[[Tensor], object]) -> Callable[..., Any]:
    """A step of a trainer that also does something to its pixels."""
    step = StandInTrainer.step

    def changed(self: StandInTrainer, phase: Any, batch: Batch, stopped: Tensor) -> Tensor:
        self.watch.strict = True
        change(batch.pixels)
        return step(self, phase, batch, stopped)

    return changed


WAITS = {
    "item": (lambda x: x.sum().item(), "item"),
    "bool": (lambda x: 1 if x.sum() > 0 else 0, "item|bool"),
    "tolist": (lambda x: x[0, 0, 0, :2].tolist(), "no data"),
    "moved to the CPU": (lambda x: x.cpu(), "no data"),
    "nonzero": (lambda x: x[x > 0], "nonzero"),
    "a CPU tensor": (lambda x: x + torch.ones(32), "on the CPU"),
    "a CPU tensor without axes": (lambda x: x * torch.tensor(2.0), "on the CPU"),
    "a CPU index": (lambda x: x[torch.tensor([1, 0])], "on the CPU"),
    "a copy that waits": (lambda x: torch.ones(3).to(x.device), "non_blocking"),
    "another copy that waits": (lambda x: x.copy_(torch.ones(1)), "non_blocking"),
    "a new tensor": (lambda x: torch.tensor([1.0, 2.0], device=x.device), "waits for a copy"),
}


@pytest.mark.parametrize("name", list(WAITS))
def test_a_step_that_waits_or_mixes_devices_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    change, message = WAITS[name]
    monkeypatch.setattr(StandInTrainer, "step", broken(change))
    with pytest.raises((AssertionError, RuntimeError, NotImplementedError), match=message):
        run(tmp_path, model=PLAIN)


@pytest.mark.parametrize("place", ["optimizer", "mixing", "averaging", "loss"])
def test_it_is_found_wherever_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """In what the step calls: a `.item()` there raises too."""
    module, name = {
        "optimizer": (trainer, "clip_and_check"),
        "mixing": (batches, "apply_mix"),
        "averaging": (trainer, "average_step"),
        "loss": (trainer, "distilled_loss"),
    }[place]
    real = getattr(module, name)

    def waiting(*arguments: Any) -> Any:
        result = real(*arguments)
        torch.zeros((), device="meta").item()
        return result

    monkeypatch.setattr(module, name, waiting)
    with pytest.raises(RuntimeError, match="item"):
        run(tmp_path, model=PLAIN, cutmix_alpha=1.0, ema_decay=0.9, distill={"predictions": "a.npz"})


def test_a_copy_that_does_not_wait_is_allowed() -> None:
    with DeviceWatch() as watch:
        watch.strict = True
        moved = torch.ones(1000).to("meta", non_blocking=True)
        torch.ones(3).double().sum().item()  # all on the CPU
    assert watch.live == watch.peak == 4096
    del moved
    assert watch.live == 0


def test_live_memory_is_counted_to_the_byte() -> None:
    """A linear layer: 512 x 256 weights, their gradient, the input that the backward pass needs, and the output."""
    with DeviceWatch() as watch:
        layer = torch.nn.Linear(512, 256, bias=False, device="meta")
        pixels = torch.zeros(1024, 512, device="meta")
        weights, inputs, outputs = 4 * 512 * 256, 4 * 1024 * 512, 4 * 1024 * 256
        assert watch.live == weights + inputs
        y = layer(pixels)
        del pixels
        assert watch.live == weights + inputs + outputs  # the graph holds the input
        y.sum().backward()
        assert watch.live == 2 * weights + outputs
        view = y.T
        del y
        assert watch.live == 2 * weights + outputs
        del view
        assert watch.live == 2 * weights


@pytest.mark.parametrize(
    ("name", "classes", "gib"), [("resnet_5m", 10, 2.42), ("wrn_28_10_cifar100", 100, 1.85)], ids=["resnet_5m", "wrn_28_10"]
)
def test_the_memory_of_large_nets_stays_within_bounds(name: str, classes: int, gib: float) -> None:
    """In bf16, the data set included: a change that keeps more of a step alive shows."""
    config = load_config(ROOT / "configs" / f"{name}.yaml", [("phases", "[{epochs: 30}]")])
    assert memory_needed(config, classes, 49_500) / 2**30 == pytest.approx(gib, rel=0.03)


def test_memory_follows_what_a_step_keeps() -> None:
    def needed(precision: str = "fp32", micro_batch_size: int | None = None, **changes: Any) -> int:
        engine = {"precision": precision, "micro_batch_size": micro_batch_size, "eval_batch_size": 16}
        config = parse_config(
            tiny_raw(**{"model": {**PLAIN, "widths": [32, 32, 32]}, "batch_size": 256, "engine": engine, **changes})
        )
        return memory_needed(config, 10, 512)

    whole = needed()
    assert needed(micro_batch_size=64) < 0.4 * whole
    assert needed("bf16") < 0.7 * whole
    assert needed(optim={"name": "adamw"}) > whole  # two moments instead of one
    slow = needed(lookahead={"steps": 2}) - whole  # its slow weights, also in the first phase
    assert slow >= 4 * trainable_parameters(parse_config(tiny_raw(model={**PLAIN, "widths": [32, 32, 32]})).model, 10)
