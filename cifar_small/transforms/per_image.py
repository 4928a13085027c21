"""Augmentation image by image through a library: a pipeline of Albumentations, or a policy of torchvision.

`build_transform` makes a function of a batch and a seed for each image, and of nothing else: which process calls it, and what
it was called with before, makes no difference. The libraries are imported only here and only when a config asks for them.
"""

from __future__ import annotations

import difflib
import inspect
import os
import random
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cifar_small._torchvision import import_torchvision
from cifar_small.config.resolved import ResolvedConfig
from cifar_small.config.schema import AlbumentationsAugment, AnyAugment, Augment, OwnAugment, PerImageAugment
from cifar_small.data.images import SIDE
from cifar_small.errors import ConfigError
from cifar_small.transforms.own import check_own_augment

Pixels = npt.NDArray[np.uint8]
Seeds = npt.NDArray[np.int64]
Transform = Callable[[Pixels, Seeds], Pixels]  # uint8 (B, H, H, 3) and int64 (B,) -> uint8 (B, H, H, 3)


def check_pipelines(resolved: ResolvedConfig, stored: int | None = None) -> None:
    """Build the pipelines of all phases, so that one that cannot run fails before anything trains. Raises ConfigError.

    stored: pixels a side of the training images; None: not known yet, so that of pictures in files either size may do.
    """
    config = resolved.config
    for phase in resolved.phases:
        # Pictures in a folder that are all 32x32 stay so, which shows when they are read.
        possible = (config.read_at, SIDE) if stored is None else (stored,)
        sizes = dict.fromkeys(config.augmented_at(phase.settings.resolution, one) for one in possible)
        faults = [fault for side in sizes if (fault := _fault(phase.settings.augment, side)) is not None]
        if len(faults) == len(sizes):
            raise faults[0]


def _fault(augment: AnyAugment, side: int) -> ConfigError | None:
    try:
        match augment:
            case Augment():
                pass
            case OwnAugment():
                check_own_augment(augment, side)
            case _:
                build_transform(augment, side)
    except ConfigError as error:
        return error
    return None


def build_transform(settings: PerImageAugment, side: int = 32) -> Transform:
    """The function that augments a batch of images of `side` pixels. Raises ConfigError for a pipeline that cannot run."""
    if isinstance(settings, AlbumentationsAugment):
        return _albumentations(settings, side)
    transforms = import_torchvision("transforms.v2")
    given = settings.model_dump(exclude_none=True, include={*settings.ARGUMENTS, "interpolation"})
    if "interpolation" in given:
        given["interpolation"] = transforms.InterpolationMode(given["interpolation"])
    if settings.policy == "autoaugment_cifar10":
        policy = transforms.AutoAugment(transforms.AutoAugmentPolicy.CIFAR10, **given)
    else:
        classes = {"randaugment": "RandAugment", "trivialaugment_wide": "TrivialAugmentWide", "augmix": "AugMix"}
        policy = getattr(transforms, classes[settings.policy])(**given)

    def transform(pixels: Pixels, seeds: Seeds) -> Pixels:
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        with torch.random.fork_rng(devices=[]):  # torchvision draws from torch's global generator
            done = []
            for image, seed in zip(images, seeds.tolist(), strict=True):
                torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach GPUs too
                done.append(policy(image.contiguous()))
        return torch.stack(done).permute(0, 2, 3, 1).contiguous().numpy()

    return transform


def _albumentations(settings: AlbumentationsAugment, side: int) -> Transform:
    library = _import_albumentations()
    compose = library.Compose(_build_all(library, settings.pipeline, "augment.pipeline", {}))

    def transform(pixels: Pixels, seeds: Seeds) -> Pixels:
        return np.stack([_run(compose, image, seed) for image, seed in zip(pixels, seeds.tolist(), strict=True)])

    _require_effects(library, settings.pipeline, "augment.pipeline", side)
    # A pipeline that cannot run is found now, not when its rarest transform is first drawn.
    certain = [
        library.Compose(_build_all(library, _chosen(settings.pipeline, index), "augment.pipeline", {"p": 1.0}))
        for index in range(_most_choices(settings.pipeline))
    ]
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    for probe, seed in (*((one, 0) for one in certain), *((compose, seed) for seed in range(8))):
        try:
            once, again = (_run(probe, image.copy(), seed) for _ in range(2))
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(f"augment.pipeline fails on a {side}x{side} image: {type(error).__name__}: {error}") from error
        if not np.array_equal(once, again):
            raise ConfigError(
                "augment.pipeline is not reproducible: one of its transforms draws from a generator of its own, so the same "
                "seed gives other pixels; leave that transform out"
            )
    return transform


def _require_effects(library: Any, pipeline: Sequence[Mapping[str, Any]], where: str, side: int) -> None:
    """Raise ConfigError for a transform that changes no image: `Affine`, for one, does nothing with its default arguments."""
    rng = np.random.default_rng(0)
    # Crops to the side of the images do something to larger ones alone.
    images = [rng.integers(0, 256, (size, size, 3), np.uint8) for size in (side, side + 8) for _ in range(8)]
    for index, entry in enumerate(pipeline):
        if "transforms" in entry:
            _require_effects(library, entry["transforms"], f"{where}.{index}.transforms", side)
        elif entry["name"] != "NoOp":
            compose = library.Compose([_build(library, entry, f"{where}.{index}", {"p": 1.0})])
            if not any(_changes(compose, image, seed) for seed, image in enumerate(images)):
                raise ConfigError(
                    f"{where}.{index}: {entry['name']} with these arguments changed none of {len(images)} images; say what it "
                    "is to do, or leave it out (NoOp is the transform that is meant to do nothing)"
                )


def _changes(compose: Any, image: Pixels, seed: int) -> bool:
    compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
    try:
        return not np.array_equal(compose(image=image.copy())["image"], image)
    except Exception:  # of an image that alone does not fit; whether the pipeline runs is looked at as a whole
        return True


def _branches(entry: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Of an entry that applies one of several transforms: those it may draw."""
    if entry["name"] in ("OneOf", "OneOrOther") or (entry["name"] == "SomeOf" and entry.get("n") == 1):
        return [branch for branch in entry.get("transforms", ()) if branch.get("p") != 0]
    return []


def _chosen(pipeline: Sequence[Mapping[str, Any]], index: int) -> list[Mapping[str, Any]]:
    """The pipeline with one transform in the place of each choice of one among several: that at `index`, counted round."""
    chosen: list[Mapping[str, Any]] = []
    for entry in pipeline:
        if branches := _branches(entry):
            chosen += _chosen([branches[index % len(branches)]], index // len(branches))
        elif "transforms" in entry:
            chosen.append({**entry, "transforms": _chosen(entry["transforms"], index)})
        else:
            chosen.append(entry)
    return chosen


def _most_choices(pipeline: Sequence[Mapping[str, Any]]) -> int:
    """How many indices `_chosen` needs to have each transform chosen at least once."""
    most = 1
    for entry in pipeline:
        branches = _branches(entry)
        most = max(most, max(1, len(branches)) * _most_choices(branches or entry.get("transforms", ())))
    return most


def _import_albumentations() -> Any:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # otherwise the import asks a server for its newest version
    try:
        import albumentations
        import cv2
    except ImportError as error:
        raise ConfigError(
            f"augment.engine albumentations needs the package albumentations, which cannot be imported ({error}): "
            "pip install 'albumentations==2.0.8'; the engines tensor and torchvision need nothing more"
        ) from None

    cv2.setNumThreads(0)  # threads slow it down on images this small
    return albumentations


def _run(compose: Any, image: Pixels, seed: int) -> Pixels:
    # `set_random_seed` would give every transform the same stream, so that two transforms of p 0.5 were applied either both
    # or not at all; sharing one generator among them is what a pipeline means.
    compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
    result = compose(image=np.ascontiguousarray(image))["image"]
    if not isinstance(result, np.ndarray) or result.shape != image.shape or result.dtype != np.uint8:
        shape, kind = getattr(result, "shape", "no shape"), getattr(result, "dtype", type(result).__name__)
        raise ConfigError(
            f"augment.pipeline turned a uint8 image of shape {image.shape} into {kind} of shape {shape}; it must keep both: "
            f"normalization follows, and a crop needs a pad or resize to {image.shape[0]}"
        )
    return result


def _build_all(library: Any, pipeline: Sequence[Mapping[str, Any]], where: str, forced: Mapping[str, Any]) -> list[Any]:
    return [_build(library, entry, f"{where}.{index}", forced) for index, entry in enumerate(pipeline)]


def _build(library: Any, entry: Mapping[str, Any], where: str, forced: Mapping[str, Any]) -> Any:
    """One transform with its arguments. Albumentations only warns of an argument it does not know; here it is an error."""
    known = _known(library)
    name = entry["name"]
    if name == "Lambda":
        raise ConfigError(
            f"{where}.name: Lambda runs a function, which a config cannot hold and no seed makes reproducible; expected a "
            "transform with arguments of text and numbers"
        )
    if name not in known:
        near = difflib.get_close_matches(name, known, 1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"such as {', '.join(list(known)[:5])}"
        raise ConfigError(f"{where}.name: Albumentations {library.__version__} has no transform {name!r}; {hint}")
    parameters = [key for key in inspect.signature(known[name]).parameters if key not in ("self", "strict")]
    given = {key: _tuples(value) for key, value in entry.items() if key != "name"}
    for key in given:
        if key not in parameters:
            near = difflib.get_close_matches(key, parameters, 1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(parameters)}"
            raise ConfigError(f"{where}.{key}: unknown argument of {name}; {hint}")
    _require_ranges(name, given, where)
    if "transforms" in given:
        given["transforms"] = _build_all(library, entry["transforms"], f"{where}.transforms", forced)
    elif issubclass(known[name], library.BasicTransform):
        given["strict"] = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            warnings.filterwarnings("ignore", message="ShiftScaleRotate is a special case of Affine")
            return known[name](**{**given, **forced})
    except (TypeError, ValueError, UserWarning) as error:
        lines = [line.strip() for line in str(error).splitlines() if "For further information" not in line]
        raise ConfigError(f"{where}: {name} refuses its arguments: {' '.join(lines)}") from error


def _require_ranges(name: str, given: Mapping[str, Any], where: str) -> None:
    """Raise ConfigError for numbers that the library takes for something else than they look like; see docs/surprises.md."""
    for key in ("hole_height_range", "hole_width_range"):
        ends = given.get(key)
        if isinstance(ends, tuple) and len(ends) == 2 and 0 < ends[0] < 1 and ends[1] == 1:
            raise ConfigError(
                f"{where}.{key}: Albumentations takes a range that ends in 1 for pixels, so this hides one pixel at most; end "
                "it below 1, such as 0.99, for shares of the image"
            )
    for key in ("rotate", "shear", "translate_percent", "translate_px", "scale") if name == "Affine" else ():
        parts = given[key].values() if isinstance(given.get(key), Mapping) else [given.get(key)]
        for value in parts:
            if isinstance(value, int | float):
                raise ConfigError(
                    f"{where}.{key}: a single number is no range to Albumentations' Affine: {value:g} would be done to every "
                    f"image exactly; write [low, high], or [{value:g}, {value:g}] if that is meant"
                )


def _known(library: Any) -> dict[str, Any]:
    """Every transform and composition of the library by name, without base classes and what needs Python functions."""
    bases = (library.BasicTransform, library.BaseCompose)
    left_out = {"BasicTransform", "ImageOnlyTransform", "DualTransform", "Transform3D", "Lambda"}
    left_out |= {"BaseCompose", "Compose", "ReplayCompose"}
    found = {name: getattr(library, name) for name in dir(library) if name not in left_out}
    return {name: value for name, value in found.items() if isinstance(value, type) and issubclass(value, bases)}


def _tuples(value: Any) -> Any:
    """The library wants tuples where YAML has lists."""
    if isinstance(value, Mapping):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value


_transform: Transform | None = None  # of a worker process


def start_worker(settings: PerImageAugment, side: int) -> None:
    """Make this process a worker for one config."""
    global _transform
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _transform = build_transform(settings, side)


def _end_with_parent() -> None:
    """End this worker with its parent, which may have been killed; it would wait for work for ever."""
    import multiprocessing

    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def work(pixels: Pixels, seeds: Seeds) -> Pixels:
    """Augment one batch in a worker."""
    assert _transform is not None, "start_worker comes first"
    return _transform(pixels, seeds)
