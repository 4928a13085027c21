"""The engines behind `augment:`: what they refuse, that they agree, and that pixels depend on seed, epoch and image alone."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.kill_resume import fingerprint
from conftest import tiny_raw
from PIL import Image

from cifar_small import environment
from cifar_small.config.hashing import config_dict, config_hash, dump_config
from cifar_small.config.loading import load_config, parse_config
from cifar_small.config.phases import resolve_phases
from cifar_small.config.resolved import resolve_config
from cifar_small.config.schema import AlbumentationsAugment, AnyAugment, Augment, Config, TorchvisionAugment
from cifar_small.config.strict_yaml import dump_yaml
from cifar_small.data.datamodule import DataModule, load_datamodule
from cifar_small.environment import package_versions
from cifar_small.errors import ConfigError
from cifar_small.randomness import AUGMENT, torch_generator
from cifar_small.runs.checkpoints import load_newest
from cifar_small.runs.directory import Run
from cifar_small.runs.locks import locked
from cifar_small.training.build import build_trainer
from cifar_small.training.train import train
from cifar_small.transforms.augmenter import Augmenter, epoch_order
from cifar_small.transforms.batched import crop_and_flip, draw, pad_images
from cifar_small.transforms.per_image import build_transform, check_pipelines
from cifar_small.transforms.preprocess import normalize

ROOT = Path(__file__).resolve().parents[2]
Tiny = Callable[..., Config]
PIPELINE: list[dict[str, Any]] = [
    {"name": "HorizontalFlip", "p": 0.5},
    {"name": "ShiftScaleRotate", "p": 0.5, "shift_limit": 0.1, "rotate_limit": 15},
    {"name": "RandomBrightnessContrast", "p": 0.3},
    {"name": "CoarseDropout", "p": 0.5, "num_holes_range": [1, 1], "hole_height_range": [8, 8], "hole_width_range": [8, 8]},
]
ALBUMENTATIONS = {"engine": "albumentations", "pipeline": PIPELINE}
TORCHVISION = {"engine": "torchvision", "policy": "trivialaugment_wide", "crop": 2, "flip": "none"}


@pytest.fixture(scope="module")
def datamodule() -> DataModule:
    return load_datamodule(parse_config(tiny_raw()))


def section(augment: dict[str, Any]) -> AnyAugment:
    return parse_config(tiny_raw(augment=augment)).augment


def pixels_of(
    datamodule: DataModule, augment: AnyAugment, epoch: int = 0, parts: list[Any] | None = None, seed: int = 0, workers: int = 0
) -> torch.Tensor:
    """The pixels of 24 places of an epoch's order, however they are cut into parts."""
    order = epoch_order(len(datamodule.images), seed, epoch)
    with closing(Augmenter(datamodule, seed, workers)) as augmenter:
        return torch.cat(list(augmenter.epoch(augment, order, epoch, parts or [slice(0, 24)])))


def probe(transform: Any, image: np.ndarray, count: int) -> np.ndarray:
    """The same image augmented with `count` seeds."""
    found: np.ndarray = transform(np.repeat(image[None], count, 0), np.arange(count))
    return found


def photograph(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)


# ---- the schema


def test_what_is_set_is_dumped_and_hashed(tmp_path: Path) -> None:
    plain = parse_config(tiny_raw())
    hashes = {config_hash(plain)}
    for changes in (
        {"augment": {"crop": 2, "flip": "none", "rotation": 15.0}},
        {"augment": {"crop": 2, "flip": "none", "policy": "randaugment", "magnitude": 5}},
        {"ricap_beta": 0.3},
        {"augment": ALBUMENTATIONS},
        {"augment": ALBUMENTATIONS, "engine": {"device": "cpu", "workers": 2}},
        {"augment": TORCHVISION},
        {"phases": [{"epochs": 1, "augment": ALBUMENTATIONS}, {"epochs": 1, "augment": {"engine": "tensor", "blur": 0.1}}]},
    ):
        config = parse_config(tiny_raw(**changes))
        (tmp_path / "config.yaml").write_text(dump_config(config))
        assert load_config(tmp_path / "config.yaml") == config
        assert resolve_phases(load_config(tmp_path / "config.yaml")) == resolve_phases(config)
        hashes.add(config_hash(config))
    assert len(hashes) == 8
    assert "engine" not in config_dict(plain)["augment"]
    assert "workers" not in config_dict(plain)["engine"]


def test_phases_change_keys_of_one_engine_and_replace_another() -> None:
    phases: list[dict[str, Any]] = [
        {"epochs": 1, "augment": {"rotation": 10.0, "border": "reflect", "policy": "randaugment", "magnitude": 5}},
        {"epochs": 1, "augment": {"rotation": 0.0, "policy": "trivialaugment"}},
        {"epochs": 1, "augment": TORCHVISION},
        {"epochs": 1, "augment": {"policy": "randaugment", "num_ops": 1}},
        {"epochs": 1, "augment": ALBUMENTATIONS},
        {"epochs": 1, "augment": {"pipeline": PIPELINE[:1]}},
        {"epochs": 1, "augment": {"engine": "tensor", "cutout": 4}},
    ]
    found = [phase.settings.augment for phase in resolve_phases(parse_config(tiny_raw(phases=phases)))]
    assert found == [
        Augment(crop=2, flip="none", rotation=10, border="reflect", policy="randaugment", magnitude=5),
        Augment(crop=2, flip="none", border="reflect", policy="trivialaugment"),
        TorchvisionAugment(engine="torchvision", policy="trivialaugment_wide", crop=2, flip="none"),
        TorchvisionAugment(engine="torchvision", policy="randaugment", num_ops=1, crop=2, flip="none"),
        AlbumentationsAugment(engine="albumentations", pipeline=tuple(PIPELINE)),
        AlbumentationsAugment(engine="albumentations", pipeline=tuple(PIPELINE[:1])),
        Augment(cutout=4),  # nothing of the older engines' settings
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augment": {"engine": "kornia"}}, "augment.engine: expected one of tensor, albumentations, torchvision"),
        ({"augment": {"rotatoin": 3}}, "augment.rotatoin: unknown key; did you mean 'rotation'?"),
        ({"augment": {"engine": "albumentations"}}, "augment.pipeline: field required"),
        ({"augment": {"engine": "albumentations", "pipeline": []}}, "pipeline must be a list of transforms"),
        ({"augment": {**ALBUMENTATIONS, "crop": 4}}, "augment.crop: unknown key"),
        ({"augment": {"engine": "albumentations", "pipeline": ["HorizontalFlip"]}}, "pipeline.0 must be a transform"),
        ({"augment": {"engine": "albumentations", "pipeline": [{"name": "Blur", "p": 2}]}}, "pipeline.0.p must be a prob"),
        (
            {"augment": {"engine": "albumentations", "pipeline": [{"name": "OneOf", "transforms": [{"p": 1}]}]}},
            "pipeline.0.transforms.0 must be a transform",
        ),
        (
            {"augment": {"engine": "albumentations", "pipeline": [{"name": "Blur", "blur_limit": float("nan")}]}},
            "finite numbers",
        ),
        ({"augment": {"engine": "torchvision", "policy": "autoaugment"}}, "augment.policy: "),
        ({"augment": {**TORCHVISION, "num_ops": 2}}, "num_ops has no effect with policy trivialaugment_wide"),
        ({"augment": {**TORCHVISION, "severity": 2}}, "severity has no effect with policy trivialaugment_wide"),
        ({"augment": {**TORCHVISION, "crop": 0, "pad": "reflect"}}, "pad has no effect while crop is 0"),
        ({"engine": {"workers": 2}}, "engine.workers 2 has no effect while no phase augments image by image"),
        ({"ricap_beta": 150}, "ricap_beta: "),
    ],
)
def test_refused_by_the_schema(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse_config(tiny_raw(**changes))


# ---- Albumentations


SMALLER = {"name": "RandomCrop", "height": 16, "width": 16, "p": 1e-6}  # a branch that is hardly ever drawn


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"name": "HorizontalFlop"}, "pipeline.0.name: .* no transform 'HorizontalFlop'; did you mean 'HorizontalFlip'"),
        ({"name": "Affine"}, "pipeline.0: Affine with these arguments changed none of 16 images"),
        (
            {"name": "OneOf", "transforms": [{"name": "NoOp"}, {"name": "Rotate", "limit": [0, 0]}]},
            "pipeline.0.transforms.1: Rotate with these arguments changed none of 16 images",
        ),
        (
            {"name": "CoarseDropout", "hole_height_range": [0.5, 1.0], "hole_width_range": [0.2, 0.4]},
            "pipeline.0.hole_height_range: .* a range that ends in 1 for pixels, so this hides one pixel at most",
        ),
        ({"name": "Affine", "rotate": 15}, "pipeline.0.rotate: a single number is no range .*: 15 would be done"),
        ({"name": "Affine", "translate_px": {"x": 3, "y": [-3, 3]}}, r"0.translate_px: .* or \[3, 3\] if that is meant"),
        ({"name": "Lambda"}, "pipeline.0.name: Lambda runs a function, which a config cannot hold"),
        ({"name": "Compose", "transforms": [{"name": "Blur"}]}, "no transform 'Compose'"),
        ({"name": "CoarseDropout", "max_holes": 3}, "augment.pipeline.0.max_holes: unknown argument of CoarseDropout; "),
        ({"name": "Affine", "scales": 2}, "augment.pipeline.0.scales: unknown argument of Affine; did you mean 'scale'?"),
        ({"name": "Blur", "always_apply": True}, "augment.pipeline.0.always_apply: unknown argument"),
        ({"name": "Blur", "blur_limit": "much"}, "pipeline.0: Blur refuses its arguments: .*blur_limit.int Input should be"),
        ({"name": "RandomResizedCrop", "size": 32}, "RandomResizedCrop refuses its arguments: .*size Input should be a val"),
        ({"name": "OneOf", "transforms": [{"name": "Blur", "q": 1}]}, "pipeline.0.transforms.0.q: unknown argument of Blur"),
        ({"name": "OneOf", "transforms": [{"name": "Blur"}], "n": 1}, "augment.pipeline.0.n: unknown argument of OneOf"),
        ({"name": "SomeOf", "transforms": [{"name": "Blur"}], "n": 3}, "SomeOf refuses its arguments: .*greater"),
        ({"name": "Normalize", "p": 0.001}, "turned a uint8 image .* into float32 of shape \\(32, 32, 3\\)"),
        ({"name": "Resize", "height": 16, "width": 16}, "into uint8 of shape \\(16, 16, 3\\); it must keep both"),
        ({"name": "BBoxSafeRandomCrop", "p": 0.001}, "augment.pipeline"),
        ({"name": "OneOf", "transforms": [{"name": "HorizontalFlip", "p": 1.0}, SMALLER]}, "into uint8 of shape .16, 16, 3"),
        ({"name": "OneOf", "transforms": [SMALLER, {"name": "HorizontalFlip", "p": 1.0}]}, "into uint8 of shape .16, 16, 3"),
        (
            {"name": "Sequential", "transforms": [{"name": "Blur"}, {"name": "SomeOf", "n": 1, "transforms": [
                {"name": "HorizontalFlip", "p": 1.0}, {"name": "OneOf", "transforms": [{"name": "Blur"}, SMALLER]}]}]},
            "into uint8 of shape .16, 16, 3",
        ),
    ],
)  # fmt: skip
def test_refused_by_albumentations_before_any_data_is_read(
    tiny: Tiny, tmp_path: Path, entry: dict[str, Any], message: str
) -> None:
    # The pipeline of a later phase, over a source that does not exist.
    later = {"epochs": 1, "augment": {"engine": "albumentations", "pipeline": [entry]}}
    config = tiny(data={"source": "npz", "root": str(tmp_path / "none.npz")}, phases=[{"epochs": 1}, later])
    with pytest.raises(ConfigError, match=message):
        train(config, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_transforms_of_a_pipeline_are_drawn_independently() -> None:
    """Seeding each transform alike would apply two of p 0.5 either both or not at all."""
    pipeline = ({"name": "HorizontalFlip", "p": 0.5}, {"name": "VerticalFlip", "p": 0.5})
    image = photograph()
    found = probe(build_transform(AlbumentationsAugment(engine="albumentations", pipeline=pipeline)), image, 1200)
    states = [image, image[:, ::-1], image[::-1], image[::-1, ::-1]]
    shares = [np.mean([np.array_equal(one, state) for one in found]) for state in states]
    assert sum(shares) == 1
    assert shares == pytest.approx([0.25] * 4, abs=0.05)


def test_nested_compositions_run() -> None:
    pipeline = (
        {"name": "OneOf", "p": 1.0, "transforms": [{"name": "HorizontalFlip", "p": 1.0}, {"name": "VerticalFlip", "p": 1.0}]},
    )
    image = photograph()
    found = probe(build_transform(AlbumentationsAugment(engine="albumentations", pipeline=pipeline)), image, 200)
    shares = [np.mean([np.array_equal(one, state) for one in found]) for state in (image[:, ::-1], image[::-1])]
    assert sum(shares) == 1
    assert min(shares) > 0.35


def test_a_branch_that_only_runs_after_another_is_no_fault() -> None:
    padded = [{"name": "PadIfNeeded", "min_height": 36, "min_width": 36, "p": 1.0},
              {"name": "RandomCrop", "height": 32, "width": 32, "p": 1.0}]  # fmt: skip
    never = {"name": "OneOf", "transforms": [{"name": "HorizontalFlip", "p": 1.0}, {**SMALLER, "p": 0}]}
    pipeline = ({"name": "SomeOf", "n": 2, "replace": False, "transforms": padded}, never)
    found = probe(build_transform(AlbumentationsAugment(engine="albumentations", pipeline=pipeline)), photograph(), 20)
    assert found.shape == (20, 32, 32, 3)


def test_a_hole_of_eight_pixels_where_asked() -> None:
    found = probe(build_transform(section({"engine": "albumentations", "pipeline": [{**PIPELINE[3], "fill": 7}]})),
                  np.full((32, 32, 3), 200, np.uint8), 300)  # fmt: skip
    holes = (found == 7).all(3).sum((1, 2))
    assert set(holes.tolist()) == {0, 64}
    assert (holes > 0).mean() == pytest.approx(0.5, abs=0.1)


# ---- torchvision


@pytest.mark.parametrize(
    "settings",
    [
        {"policy": "autoaugment_cifar10"},
        {"policy": "randaugment", "num_ops": 1, "magnitude": 20, "interpolation": "bilinear"},
        {"policy": "trivialaugment_wide"},
        {"policy": "augmix", "severity": 2, "mixture_width": 2, "chain_depth": 2, "alpha": 0.5, "all_ops": False},
    ],
)
def test_torchvision_is_seeded_by_image_and_leaves_global_state_alone(settings: dict[str, Any]) -> None:
    transform = build_transform(TorchvisionAugment(engine="torchvision", **settings))
    images = np.stack([photograph(seed) for seed in range(12)])
    torch.manual_seed(5)
    state = torch.get_rng_state()
    found = transform(images, np.arange(12))
    assert torch.equal(torch.get_rng_state(), state)
    assert (found.dtype, found.shape) == (np.uint8, (12, 32, 32, 3))
    torch.manual_seed(6)
    assert np.array_equal(transform(images[7:9], np.array([7, 8])), found[7:9])
    assert not np.array_equal(transform(images, np.arange(12) + 100), found)
    assert len({one.tobytes() for one in probe(transform, photograph(), 20)}) > 6


def test_torchvisions_policy_stands_between_crop_and_cutout(datamodule: DataModule) -> None:
    basic = {"crop": 2, "pad": "reflect", "flip": "random"}
    # Level 0 of every operation but autocontrast and equalize is the identity: those images are the tensor engine's.
    policy = {"engine": "torchvision", "policy": "randaugment", "num_ops": 1, "magnitude": 0, "cutout": 8}
    found = pixels_of(datamodule, section({**basic, **policy}))
    expected = pixels_of(datamodule, section({**basic, "cutout": 8}))
    same = [torch.equal(one, other) for one, other in zip(found, expected, strict=True)]
    assert 15 <= sum(same) < 24
    assert torch.equal(found == 0, expected == 0)  # the same squares are covered in the other images


# ---- all engines


def test_engines_agree_on_what_is_certain(datamodule: DataModule) -> None:
    """Mirrored and normalized: the same pixels by three libraries, and the statistics of the training images."""
    order = epoch_order(len(datamodule.images), 0, 0)
    mirrored = normalize(datamodule.images[order].flip(3), datamodule.mean, datamodule.std)
    everything = [slice(0, 100), slice(100, len(order))]
    flip = [{"name": "HorizontalFlip", "p": 1.0}]
    found = pixels_of(datamodule, section({"engine": "albumentations", "pipeline": flip}), parts=everything)
    assert torch.equal(found, mirrored)
    assert found.dtype == torch.float32
    assert found.mean((0, 2, 3)).abs().max().item() < 1e-4
    assert (found.std((0, 2, 3)) - 1).abs().max().item() < 1e-3
    plain: dict[str, Any] = {"crop": 0, "vertical_flip": 1.0, "flip": "none"}
    upside_down = normalize(datamodule.images[order].flip(2), datamodule.mean, datamodule.std)
    assert torch.equal(pixels_of(datamodule, section(plain), parts=everything), upside_down)
    pipeline = [{"name": "VerticalFlip", "p": 1.0}]
    found = pixels_of(datamodule, section({"engine": "albumentations", "pipeline": pipeline}), parts=everything)
    assert torch.equal(found, upside_down)
    policy = {"engine": "torchvision", "policy": "randaugment", "num_ops": 1, "magnitude": 0}
    found = pixels_of(datamodule, section({**plain, **policy}), parts=everything)
    same = (found == upside_down).flatten(1).all(1)
    assert 0.7 < same.float().mean().item() < 0.95  # 12 of 14 operations do nothing at level 0


ENGINES: dict[str, dict[str, Any]] = {
    "tensor": {"crop": 2, "rotation": 15.0, "policy": "trivialaugment", "blur": 0.5, "cutout": 4},
    "albumentations": ALBUMENTATIONS,
    "torchvision": {**TORCHVISION, "flip": "alternating", "erasing": 0.5},
}


@pytest.mark.parametrize("engine", ENGINES)
def test_pixels_depend_on_seed_epoch_and_image_only(datamodule: DataModule, engine: str) -> None:
    augment = section(ENGINES[engine])
    whole = pixels_of(datamodule, augment)
    assert torch.equal(pixels_of(datamodule, augment, parts=[slice(0, 5), slice(5, 24)]), whole)
    np.random.seed(1)
    torch.manual_seed(1)
    assert torch.equal(pixels_of(datamodule, augment, parts=[slice(16, 24)]), whole[16:])  # as after a resume in mid-epoch
    rows = torch.tensor([3, 11, 4, 20])  # as one of several ranks takes its share of a batch
    assert torch.equal(pixels_of(datamodule, augment, parts=[rows]), whole[rows])
    for other in ({"epoch": 1}, {"seed": 1}):
        order, its_order = epoch_order(256, 0, 0)[:24].tolist(), epoch_order(256, other.get("seed", 0), other.get("epoch", 0))
        parts = [torch.argsort(its_order)[order]]  # the same images, wherever they stand in the other order
        found = pixels_of(datamodule, augment, parts=parts, **other)
        assert sum(torch.equal(one, two) for one, two in zip(found, whole, strict=True)) < 12


def test_the_tensor_engine_is_the_plain_functions(datamodule: DataModule) -> None:
    augment = section({"crop": 2, "flip": "random"})
    assert isinstance(augment, Augment)
    order = epoch_order(len(datamodule.images), 3, 2)
    with closing(Augmenter(datamodule, 3)) as augmenter:
        found = next(augmenter.epoch(augment, order, 2, [slice(10, 20)]))
        draws = draw(augment, order, torch_generator(3, AUGMENT, 2), augmenter.parity, 2)[10:20]
    pixels = crop_and_flip(pad_images(datamodule.images, augment, datamodule.fill), order[10:20], draws)
    assert torch.equal(found, normalize(pixels, datamodule.mean, datamodule.std))


@pytest.fixture(scope="module")
def in_process(datamodule: DataModule) -> dict[str, torch.Tensor]:
    parts = [slice(start, start + 4) for start in range(0, 40, 4)]
    return {name: pixels_of(datamodule, section(ENGINES[name]), parts=parts) for name in ("albumentations", "torchvision")}


@pytest.mark.parametrize(("engine", "workers"), [("albumentations", 1), ("albumentations", 2), ("torchvision", 2)])
def test_workers_give_the_same_pixels_in_the_same_order(
    datamodule: DataModule, in_process: dict[str, torch.Tensor], engine: str, workers: int
) -> None:
    parts = [slice(start, start + 4) for start in range(0, 40, 4)]
    found = pixels_of(datamodule, section(ENGINES[engine]), parts=parts, workers=workers)
    assert torch.equal(found, in_process[engine])
    resumed = pixels_of(datamodule, section(ENGINES[engine]), parts=parts[7:], workers=workers)
    assert torch.equal(resumed, in_process[engine][28:])


def test_a_run_by_albumentations_resumes_in_mid_epoch_to_the_same_bits(tiny: Tiny, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"augment": ALBUMENTATIONS, "phases": [{"epochs": 1}, {"epochs": 1, "augment": TORCHVISION}]}
    train(tiny(**changes), tmp_path / "whole", quiet=True)
    saving = {"device": "cpu", "precision": "fp32", "threads": 1, "checkpoint_steps": 3}
    import cifar_small.training.trainer as module

    class StopError(Exception):
        pass

    original, steps = module.Trainer._save, 0

    def save(self: Any) -> None:
        nonlocal steps
        original(self)
        steps += 1
        if steps == 3:  # after step 3 of epoch 1, its end, and step 3 of epoch 2
            raise StopError

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module.Trainer, "_save", save)
        with pytest.raises(StopError):
            train(tiny(**changes, engine=saving), tmp_path / "cut", quiet=True)
    train(tiny(**changes, engine=saving), tmp_path / "cut", resume=True, quiet=True)
    assert fingerprint(tmp_path / "cut") == fingerprint(tmp_path / "whole")


def children_of(process: int) -> set[int]:
    found = {
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/stat")
        if (fields := _stat(path)) and int(fields.rpartition(")")[2].split()[1]) == process
    }
    return found | {grandchild for child in found for grandchild in children_of(child)}


def _stat(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it has ended
        return ""


def deaf_to(number: int, process: int) -> bool:
    """Whether a process blocks or ignores a signal."""
    lines = dict(line.split(":\t") for line in Path(f"/proc/{process}/status").read_text().splitlines())
    return bool((int(lines["SigBlk"], 16) | int(lines["SigIgn"], 16)) >> (number - 1) & 1)


def wait_for(what: Callable[[], Any], seconds: float) -> Any:
    end = time.monotonic() + seconds
    while not (found := what()) and time.monotonic() < end:
        time.sleep(0.05)
    return found


@pytest.mark.slow
def test_transforms_that_do_nothing_alone_or_on_purpose_are_taken() -> None:
    pipeline = (
        {"name": "PadIfNeeded", "min_height": 40, "min_width": 40},
        {"name": "RandomCrop", "height": 32, "width": 32},
        {"name": "OneOf", "transforms": [{"name": "NoOp"}, {"name": "Affine", "rotate": [-15, 15]}]},
        {"name": "CoarseDropout", "hole_height_range": [0.2, 0.99], "hole_width_range": [4, 8]},
    )
    images = np.random.default_rng(1).integers(0, 256, (4, 32, 32, 3), np.uint8)
    done = build_transform(AlbumentationsAugment(engine="albumentations", pipeline=pipeline))(images, np.arange(4))
    assert done.shape == images.shape
    assert not np.array_equal(done, images)


def test_the_least_severity_of_augmix_moves_nothing() -> None:
    """As the description of the setting says; values that four bits hold tell moved pixels from recolored ones."""
    image = np.random.default_rng(0).integers(0, 16, (32, 32, 3), np.uint8) * 16
    moved = {}
    for severity in (1, 3):
        augment = section({"engine": "torchvision", "policy": "augmix", "severity": severity})
        done = probe(build_transform(augment), image, 60)
        values = (
            (one[..., channel], image[..., channel] == value) for one in done for channel in range(3) for value in (0, 64, 128)
        )
        moved[severity] = any(len(np.unique(plane[where])) > 1 for plane, where in values)
    assert moved == {1: False, 3: True}


@pytest.mark.parametrize("how", ["SIGKILL to the trainer", "SIGTERM to its group"])
def test_workers_of_a_run_that_was_stopped(tmp_path: Path, how: str) -> None:
    """They end with it, keep nothing locked, and do not spoil its saving when the signal reaches them too."""
    engine = {"device": "cpu", "precision": "fp32", "threads": 1, "checkpoint_steps": 1, "workers": 2}
    raw = tiny_raw(augment=ALBUMENTATIONS, engine=engine, phases=[{"epochs": 100_000}])
    (tmp_path / "tiny.yaml").write_text(dump_yaml(raw))
    command = [sys.executable, "-m", "cifar_small", "train", "--config", "tiny.yaml", "--output", "run"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        try:
            assert wait_for((tmp_path / "run" / "previous.pt").exists, 300)
            children = children_of(process.pid)
            assert len(children) >= 3  # two workers and the process that forks them
            assert all(deaf_to(signal.SIGTERM, child) and deaf_to(signal.SIGINT, child) for child in children)
            if how.startswith("SIGKILL"):
                process.kill()
            else:
                os.killpg(process.pid, signal.SIGTERM)
            message = process.stderr.read().decode() if process.stderr and "TERM" in how else ""
            assert process.wait(60) == (-9 if how.startswith("SIGKILL") else 143), message
            assert wait_for(lambda: not [child for child in children if Path(f"/proc/{child}").exists()], 20)
        finally:
            if process.poll() is None:
                process.kill()
    with locked(tmp_path / "run"):  # at once
        run = Run(tmp_path / "run")
        assert load_newest(run.last, run.previous)[0]["step"] >= 0  # SIGKILL may fall between the two renames of a save


def test_workers_do_not_run_the_users_script_again(tmp_path: Path) -> None:
    """A script without `if __name__ == "__main__"`, as a notebook saved as one."""
    raw = tiny_raw(augment=ALBUMENTATIONS, engine={"device": "cpu", "threads": 1, "workers": 2}, phases=[{"epochs": 1}])
    script = (
        f"print('begun', flush=True)\nimport cifar_small\ncifar_small.train({raw!r}, folder='run')\nprint(__file__, __spec__)\n"
    )
    (tmp_path / "script.py").write_text(script)
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines.count("begun") == 1
    assert lines[-1] == f"{tmp_path / 'script.py'} None"


def test_without_albumentations_only_a_config_that_uses_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "albumentations", None)
    with pytest.raises(ConfigError, match=r"^augment.engine albumentations needs .* pip install 'albumentations==2.0.8'"):
        build_transform(section(ALBUMENTATIONS))
    build_transform(section({"engine": "torchvision", "policy": "randaugment"}))
    monkeypatch.setattr(environment, "PACKAGES", ("numpy", "no-such-package"))
    assert package_versions() == {"torch": torch.__version__, "numpy": np.__version__}


@pytest.mark.parametrize(("stored", "fits"), [(32, True), (64, False)])
def test_a_pipeline_is_held_against_the_size_that_pictures_have(tmp_path: Path, stored: int, fits: bool) -> None:
    """Pictures of a folder that are all 32x32 are left so, which is known once they are read, and then it is said at once."""
    for split, name in product(("train", "test"), ("ant", "bee")):
        (tmp_path / split / name).mkdir(parents=True)
        for number in range(4):
            colors = np.random.default_rng(number).integers(0, 256, (stored, stored, 3), np.uint8)
            Image.fromarray(colors).save(tmp_path / split / name / f"{number}.png")
    cropped = [{"name": "PadIfNeeded", "min_height": 40, "min_width": 40}, {"name": "RandomCrop", "height": 32, "width": 32}]
    config = parse_config(
        tiny_raw(
            data={"source": "folder", "root": str(tmp_path), "val_size": 2},
            input={"size": 64},
            batch_size=4,
            augment={"engine": "albumentations", "pipeline": cropped},
        )
    )
    check_pipelines(resolve_config(config))  # at one of both sizes it can run
    if fits:
        assert build_trainer(resolve_config(config), Run(tmp_path), quiet=True).data.side == 32
    else:
        with pytest.raises(ConfigError, match=r"augment\.pipeline\.0: PadIfNeeded"):
            build_trainer(resolve_config(config), Run(tmp_path), quiet=True)
