"""Where a run is computed: device, precision, and what `env.json` says about the machine."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import re
import signal
import subprocess
import sys
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, assert_never

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from cifar_small.config.schema import Engine
from cifar_small.errors import UserError
from cifar_small.wording import plural

PACKAGE = Path(__file__).resolve().parent
# What asks a run to end: Ctrl-C, a scheduler, a lost terminal, and the warnings before a time limit (USR2 is submitit's).
_ENDING = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
ENDING_SIGNALS = tuple(getattr(signal, name) for name in _ENDING if hasattr(signal, name))  # Windows has two of them
PACKAGES = (
    *("torchvision", "albumentations", "albucore", "numpy", "pandas", "pillow", "pydantic", "PyYAML", "scikit-learn", "scipy"),
    # One of these, which share the module cv2 and decide pixels: between two versions one pipeline gave other images.
    *("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless"),
    "timm",
)


def no_bar(wanted: bool = True) -> bool | None:
    """What tqdm's `disable` is to be: a bar in a terminal (None: tqdm looks) and in a notebook, none in a log."""
    if not wanted:
        return True
    return False if "ipykernel" in sys.modules else None  # a notebook is no terminal


def memory_at_hand() -> int | None:
    """Bytes that a process can still take; None where that is not known.

    On Linux what is available, within a container's limit; elsewhere all memory of the machine.
    """
    with suppress(OSError, ValueError):
        available = int(re.findall(r"MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text())[0]) * 1024
        return min(available, _left_in_container(available))
    names = getattr(os, "sysconf_names", {})
    if {"SC_PAGE_SIZE", "SC_PHYS_PAGES"} <= names.keys():
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def _left_in_container(otherwise: int, group: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that a container may still take, the file cache that it can give back included; without a limit, `otherwise`."""
    try:
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return max(0, limit - used + int(statistics["inactive_file"]))
    except (OSError, ValueError, KeyError):  # no cgroup of this kind; "max" is no number
        return otherwise


def resolve_device(name: str) -> torch.device:
    """The device a config asks for; `auto` takes a GPU if there is one. Never falls back silently."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        build = torch.version.cuda or "a CPU build"
        raise UserError(
            f"engine.device is {name} but no GPU was found (torch {torch.__version__}, {build}); set engine.device to auto"
        )
    device = torch.device(name)
    if device.index is not None and device.index >= torch.cuda.device_count():
        raise UserError(
            f"engine.device is {name} but this machine has {plural(torch.cuda.device_count(), 'GPU')}; use cuda:0 to cuda:N-1"
        )
    return device


def resolve_precision(precision: str, device: torch.device) -> str:
    """`auto` takes bf16 where the hardware computes in it, fp16 on GPUs whose tensor cores have that alone, else fp32."""
    if precision != "auto":
        return precision
    if computes_in_bf16(device):
        return "bf16"
    return "fp16" if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (7, 0) else "fp32"


def computes_in_bf16(device: torch.device) -> bool:
    """Whether the hardware does; elsewhere torch takes up to 26 times as long for products of matrices as in fp32."""
    if device.type == "cuda":
        # Not torch.cuda.is_bf16_supported, which speaks of the current device.
        return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "meta" or _cpu_has_bf16()


BF16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")  # as Linux names them; bf16 is Arm's


def _cpu_has_bf16() -> bool:
    return bool(_cpu_facts()[1].intersection(BF16_FLAGS))


def multiplies_in_tiles() -> bool:
    """Whether torch multiplies matrices of bf16 in tiles (AMX) here: the processor can, and the environment lets oneDNN."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA", "ALL")).upper()
    return "amx_bf16" in _cpu_facts()[1] and (limit in ("ALL", "DEFAULT") or "AMX" in limit)


def integer_sums_saturate() -> bool:
    """Whether this is an x86 processor without VNNI: its sums of two 8-bit products stop at 16 bits, so int8 nets may err."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return x86 and not _cpu_facts()[1].intersection(("avx_vnni", "avx512_vnni"))


@cache
def _cpu_facts() -> tuple[str, frozenset[str]]:
    """The processor's name and instruction sets, from /proc/cpuinfo: torch's own list is missing in older torch.

    On x86 with the family and model numbers: virtual machines often name no more than the brand, whose generations differ in
    speed.
    """
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return name, frozenset()
    lines = [line.partition(":") for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()]
    facts = {key.strip(): value.strip() for key, _, value in reversed(lines)}  # of the first core
    name = facts.get("model name", name)
    if "cpu family" in facts and "model" in facts:
        name = f"{name}, family {facts['cpu family']} model {facts['model']}"
    return name, frozenset(facts.get("flags", facts.get("Features", "")).split())


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """The autocast context of a resolved precision; one that does nothing for fp32 and for the int8 of an ONNX file."""
    if precision not in ("fp16", "bf16"):
        return nullcontext()
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return MetaAutocast(dtype) if device.type == "meta" else torch.autocast(device.type, dtype=dtype)


class MetaAutocast(TorchFunctionMode):
    """What autocast does on a GPU, as far as shapes and types tell, for the meta device, which torch has none for."""

    LOWERED = frozenset({torch.conv2d, F.linear, torch.matmul, torch.bmm, torch.baddbmm})
    RAISED = frozenset({F.layer_norm, F.softmax, F.cross_entropy})

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of torch with its arguments in the type that it computes in."""
        kwargs = kwargs or {}
        if func in self.LOWERED or func in self.RAISED:
            dtype = self.dtype if func in self.LOWERED else torch.float32
            args, kwargs = tree_map_only(Tensor, lambda x: x.to(dtype) if x.is_floating_point() else x, (args, kwargs))
        return func(*args, **kwargs)


def memory_format(engine: Engine) -> torch.memory_format:
    """The memory order of images and weights that the config asks for."""
    match engine.layout:
        case "channels_last":
            return torch.channels_last
        case "contiguous":
            return torch.contiguous_format
        case unknown:
            assert_never(unknown)


def compiled(model: nn.Module, engine: Engine) -> nn.Module:
    """The net compiled as the config asks for, for the shapes and the frozen layers it has now; itself without `compile`."""
    if not engine.compile:
        return model
    # A phase may have another resolution, dropout or frozen layers: each is compiled for its own shapes, and what was
    # compiled before does not count against torch's limit of recompilations, beyond which it would run eagerly.
    torch.compiler.reset()
    mode = None if engine.compile is True else engine.compile
    return torch.compile(model, mode=mode, dynamic=False)  # type: ignore[return-value]


class _Threads:
    """What torch had before a config asked for another number of threads, so that the next one may ask for torch's default."""

    before = 0
    set = 0


def prepare_process(engine: Engine) -> None:
    """Use as many CPU threads as the config says, or torch's default, and keep freed memory for the next step.

    On a GPU: the fastest convolutions for the shapes at hand or, if the config says so, those that give the same bits each
    time, and fp32 that is fp32, where torch would take TF32.
    """
    if torch.get_num_threads() != _Threads.set:  # set by hand, or for each of several processes
        _Threads.before = torch.get_num_threads()
    _Threads.set = engine.threads or _Threads.before
    torch.set_num_threads(_Threads.set)
    if engine.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA is first used
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # it shows faults, for time
    if engine.deterministic or torch.are_deterministic_algorithms_enabled():  # asking imports torch's compiler: seconds
        torch.use_deterministic_algorithms(engine.deterministic, warn_only=True)  # it names the operations that have none
    torch.backends.cudnn.deterministic = engine.deterministic
    torch.backends.cudnn.benchmark = not engine.deterministic  # all batches of a phase have one shape
    torch.backends.cudnn.allow_tf32 = False
    _keep_freed_memory()


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


@cache
def _keep_freed_memory() -> bool:
    """Let malloc reuse the large blocks of one step in the next instead of giving them back; is there such a malloc?

    By default glibc maps each block above 32 MiB afresh, and the kernel then fills it with zeros page by page as it is first
    touched: a tenth of a CPU training step (measured: 554 -> 638 images/s, whitened ResNet, micro-batches of 250).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    thresholds = (2**30, 2**25)  # older glibc takes no more than 32 MiB
    return any(mallopt(M_MMAP_THRESHOLD, size) for size in thresholds) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


def peak_gpu_memory(device: torch.device) -> float:
    """GiB of the tensors that this process has had on a GPU at its fullest moment so far; 0 on another device."""
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0


def machine_facts(device: torch.device, precision: str) -> dict[str, object]:
    """Machine, versions and commit of a run as plain JSON values, without names of users, hosts or folders."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
        "device_type": device.type,
        "precision": precision,
        "threads": torch.get_num_threads(),
        "cpu_count": os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
        "packages": package_versions(),
        "cifar_small": package_version(),
        **commit(),
    }


def package_versions() -> dict[str, str]:
    """The installed versions of what a result depends on; torch's names the build too, such as 2.14.1+cu130."""
    return {"torch": str(torch.__version__), **_installed(PACKAGES)}


@cache
def _installed(names: tuple[str, ...]) -> dict[str, str]:
    versions = {}
    for name in names:
        with suppress(metadata.PackageNotFoundError):  # of one's own choice, or where no config uses it
            versions[name] = metadata.version(name)
    return versions


def package_version() -> str:
    """The installed version of this package."""
    from cifar_small import __version__

    return __version__


def usable_cores() -> int:
    """Processor cores that this process may use; where the system does not say which, all of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_name() -> str:
    """The processor as the system calls it, with the bf16 instructions it has."""
    name, flags = _cpu_facts()
    found = [flag for flag in BF16_FLAGS if flag in flags]
    return f"{name} ({', '.join(found)})" if found else name


def commit(folder: Path = PACKAGE) -> dict[str, object]:
    """Commit and dirty flag of the git checkout that a package is run from; elsewhere the SHA-256 of its files.

    A package that lies in a repository but is no part of it, as in an ignored .venv, is not of that repository's commit.
    """

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", "__init__.py") is None:
        return {"commit": None, "dirty": None, "code_sha256": code_sha256(folder)}
    status = git("status", "--porcelain", "--untracked-files=no")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


def code_sha256(folder: Path = PACKAGE) -> str:
    """The SHA-256 of the names and contents of a package's Python files, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()
