"""The configs that come with the package, by name: the project's `configs/`, which a wheel holds as `cifar_small/configs/`."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path

from cifar_small.config.strict_yaml import read_yaml
from cifar_small.errors import ConfigError
from cifar_small.files import refuse_existing, write_atomic

PACKAGE = Path(__file__).resolve().parents[1]


def shipped_folder() -> Path:
    """The folder of the shipped configs: within the package where it is installed, beside it in a checkout."""
    inside = PACKAGE / "configs"
    return inside if inside.is_dir() else PACKAGE.parent / "configs"


def shipped_configs() -> dict[str, Path]:
    """The files of all shipped configs and sweeps by names such as `resnet_hour` and `speed/cifar10_94`."""
    folder = shipped_folder()
    found = {path.relative_to(folder).with_suffix("").as_posix(): path for path in folder.rglob("*.yaml")}
    return dict(sorted(found.items(), key=lambda item: (item[0].count("/"), item[0])))


def find_shipped(name: str | Path) -> Path | None:
    """The shipped config, or folder of them, of a name such as `cifar10_94`, `speed/cifar10_94`, `speed` or `configs/speed`."""
    relative = Path(name).as_posix().removesuffix(".yaml")
    relative = "." if relative == "configs" else relative.removeprefix("configs/")
    folder = shipped_folder() / relative
    if folder.is_dir():
        return folder
    return next((file for key, file in shipped_configs().items() if relative in (key, file.stem)), None)


def find_config(path: str | Path) -> Path:
    """The path itself if something is there, else what it names of the shipped configs, if anything.

    So what the documentation shows, such as `configs/speed/cifar10_94.yaml`, works in any folder. A copy of a shipped config in
    ./configs comes before it: whoever copied and edited it means that one, by whichever name.
    """
    path = Path(path)
    if os.path.exists(path) or (shipped := find_shipped(path)) is None:
        return path
    copy = Path("configs") / shipped.relative_to(shipped_folder())
    return copy if copy.exists() and not copy.samefile(shipped) else shipped


def require_config(path: str | Path) -> Path:
    """The same. Raises ConfigError for what is not there where another is called much the same."""
    found = find_config(path)
    if not os.path.exists(found) and (near := _nearest_config(found)):
        raise ConfigError(f"there is no config {path}; did you mean {near}?")
    return found


def _nearest_config(path: Path) -> str | None:
    """The file beside a missing one, or the shipped config, whose name is most like its own."""
    beside = [str(file) for file in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
    known = {Path(name).stem: name for name in (*reversed(shipped_configs()), *beside)}
    near = [stem for stem in known if stem.startswith(path.stem)] or difflib.get_close_matches(path.stem, known, 1, cutoff=0.75)
    return known[near[0]] if near else None


def shipped_name(path: Path) -> str | None:
    """The name of a file among the shipped configs; None for another file."""
    return next((name for name, file in shipped_configs().items() if file == path), None)


def headline(path: Path) -> str:
    """The first line of a config, which says what it is for."""
    return path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")


def copy_configs(paths: Sequence[Path], target: Path, overwrite: bool = False) -> list[Path]:
    """Copy shipped configs, and those that they extend or vary, into a folder; returns the new files.

    Raises UserError, before anything is written, for a file that exists already.
    """
    folder = shipped_folder()
    sources = list(dict.fromkeys(needed for path in paths for needed in _with_bases(path)))
    targets = [target / source.relative_to(folder) for source in sources]
    for file in targets:
        refuse_existing(file, overwrite)
    for source, file in zip(sources, targets, strict=True):
        write_atomic(file, source.read_bytes())
    return targets


def _with_bases(path: Path) -> list[Path]:
    raw = read_yaml(path)
    bases = [(path.parent / raw[key]).resolve() for key in ("extends", "config") if key in raw]
    return [path, *(needed for base in bases for needed in _with_bases(base))]
