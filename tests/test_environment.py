"""Device, precision and the description of a machine."""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import sys
import types
from pathlib import Path

import cv2
import numpy as np
import PIL
import pytest
import torch

from cifar_small import environment
from cifar_small.config.schema import Engine
from cifar_small.environment import (
    code_sha256,
    commit,
    cpu_name,
    machine_facts,
    peak_gpu_memory,
    resolve_device,
    resolve_precision,
)
from cifar_small.errors import UserError

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({}, 1000),
        ({"memory.max": "max", "memory.current": "300", "memory.stat": "inactive_file 5"}, 1000),
        ({"memory.max": "700", "memory.current": "300", "memory.stat": "anon 200\ninactive_file 50"}, 450),
        ({"memory.max": "700", "memory.current": "900", "memory.stat": "anon 200\ninactive_file 50"}, 0),
    ],
    ids=["no container", "no limit", "some is used", "over the limit"],
)
def test_what_a_container_uses_already_is_not_at_hand(files: dict[str, str], left: int, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text + "\n")
    assert environment._left_in_container(1000, tmp_path) == left


@pytest.mark.parametrize(
    ("flags", "precision"),
    [({"avx2", "amx_bf16"}, "bf16"), ({"avx512_bf16"}, "bf16"), ({"avx2", "avx512f"}, "fp32"), (set(), "fp32")],
)
def test_auto_precision_follows_the_instruction_sets(monkeypatch: pytest.MonkeyPatch, flags: set[str], precision: str) -> None:
    monkeypatch.setattr(environment, "_cpu_facts", lambda: ("a processor", frozenset(flags)))
    assert resolve_precision("auto", CPU) == precision
    assert [resolve_precision(asked, CPU) for asked in ("fp32", "bf16")] == ["fp32", "bf16"]
    assert cpu_name().startswith("a processor")
    assert ("bf16" in cpu_name()) == (precision == "bf16")


@pytest.mark.parametrize(
    ("hardware", "capability", "precision"), [(True, (8, 0), "bf16"), (False, (7, 5), "fp16"), (False, (6, 0), "fp32")]
)
def test_auto_precision_of_a_gpu_is_that_of_its_hardware(
    monkeypatch: pytest.MonkeyPatch, hardware: bool, capability: tuple[int, int], precision: str
) -> None:
    """Older GPUs only emulate bf16, which torch counts unless it is asked not to."""

    def supported(including_emulation: bool = True) -> bool:
        return hardware or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert resolve_precision("auto", torch.device("cuda")) == precision


def test_flags_are_read_from_cpuinfo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = "processor : 0\nmodel name : Some CPU @ 2 GHz\nflags : fpu avx2 amx_bf16\n"
    text = f"{first}\nprocessor : 1\nmodel name : Other\nflags : fpu\n"
    monkeypatch.setattr(environment, "Path", lambda path: tmp_path / "cpuinfo")
    flags = frozenset({"fpu", "avx2", "amx_bf16"})
    (tmp_path / "cpuinfo").write_text(text)
    assert environment._cpu_facts.__wrapped__() == ("Some CPU @ 2 GHz", flags)
    (tmp_path / "cpuinfo").write_text(f"cpu family : 26\nmodel : 2\n{text}")  # as on x86
    assert environment._cpu_facts.__wrapped__() == ("Some CPU @ 2 GHz, family 26 model 2", flags)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_never_replaced_silently() -> None:
    assert resolve_device("auto") == CPU
    for name in ("cuda", "cuda:1"):
        with pytest.raises(UserError, match=f"engine.device is {name} but no GPU was found .*set engine.device to auto"):
            resolve_device(name)


def test_the_memory_of_a_gpu_is_told_in_gib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * 2**29)
    assert [peak_gpu_memory(torch.device(name)) for name in ("cuda", "cpu")] == [1.5, 0.0]


def test_description_is_json_and_names_no_host_or_folder() -> None:
    text = json.dumps(machine_facts(CPU, "fp32"), allow_nan=False)
    facts = json.loads(text)
    assert facts["packages"]["torch"] == torch.__version__
    assert facts["packages"]["pillow"] == PIL.__version__
    opencv = {name: version for name, version in facts["packages"].items() if name.startswith("opencv-")}
    assert next(iter(opencv.values())).startswith(cv2.__version__)
    assert facts["packages"]["albucore"]
    assert facts["threads"] == torch.get_num_threads()
    assert facts["cpu_count"] == os.cpu_count()
    for private in (str(Path.home()), str(Path(environment.__file__).parent), socket.gethostname()):
        assert len(private) < 3 or private not in text


def test_torchs_version_has_its_build_which_its_metadata_may_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.13.0+cu130")
    monkeypatch.setattr(environment, "PACKAGES", ("numpy", "a-package-that-nobody-has"))
    assert environment.package_versions() == {"torch": "2.13.0+cu130", "numpy": np.__version__}


def test_a_config_decides_whether_algorithms_are_deterministic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)

    def asked() -> tuple[bool, bool, bool]:
        cudnn = torch.backends.cudnn
        return torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark

    try:
        environment.prepare_process(Engine(deterministic=True))
        assert asked() == (True, True, False)
        assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    finally:
        environment.prepare_process(Engine())
    assert asked() == (False, False, True)


def test_without_a_number_of_threads_a_process_goes_back_to_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment._Threads, "set", 0)
    own = torch.get_num_threads()
    try:
        environment.prepare_process(Engine(threads=own + 2))
        environment.prepare_process(Engine(threads=own + 1))
        assert torch.get_num_threads() == own + 1
        environment.prepare_process(Engine())
        assert torch.get_num_threads() == own
        torch.set_num_threads(own + 3)  # by hand, or for each of several processes
        environment.prepare_process(Engine())
        assert torch.get_num_threads() == own + 3
        environment.prepare_process(Engine(threads=own))
        environment.prepare_process(Engine())
        assert torch.get_num_threads() == own + 3
    finally:
        torch.set_num_threads(own)


def test_each_gpu_is_asked_for_its_own_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine with a T4 and an A100, whatever device is the current one."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: [(7, 5), (8, 0)][device.index])
    assert environment.resolve_precision("auto", torch.device("cuda:0")) == "fp16"
    assert environment.resolve_precision("auto", torch.device("cuda:1")) == "bf16"


def test_large_blocks_are_reused_between_steps() -> None:
    """In a process of its own: page faults of allocating and freeing 64 MiB five times, before and after."""
    code = """
import resource, torch
from cifar_small.environment import prepare_process
from cifar_small.config.schema import Engine
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(16 * 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
fresh = faults()
prepare_process(Engine())
for _ in range(6):  # until the heap has grown to the size a step needs
    faults()
print(fresh, faults())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    fresh, kept = (int(number) for number in done.stdout.split())
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("another malloc than glibc's")
    assert kept < 0.05 * fresh


def test_only_a_package_that_git_tracks_has_a_commit(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        return subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    package = tmp_path / ".venv" / "site-packages" / "package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("version = 1\n")
    (tmp_path / ".gitignore").write_text(".venv\n")
    git("init", "-q")
    git("add", ".gitignore")
    git("commit", "-qm", "somebody's repository")
    installed = commit(package)
    assert installed == {"commit": None, "dirty": None, "code_sha256": code_sha256(package)}
    (package / "__init__.py").write_text("version = 2\n")
    assert commit(package)["code_sha256"] != installed["code_sha256"]
    git("add", "-f", ".venv")
    git("commit", "-qm", "with the package")
    assert commit(package) == {"commit": git("rev-parse", "HEAD").strip(), "dirty": False}
    (package / "__init__.py").write_text("version = 3\n")
    assert commit(package)["dirty"] is True


def test_bars_are_shown_in_terminals_and_notebooks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    assert environment.no_bar() is None
    assert environment.no_bar(False) is True
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    assert environment.no_bar() is False
    assert environment.no_bar(False) is True


@pytest.mark.parametrize(
    ("flags", "limit", "expected"),
    [
        ({"amx_bf16"}, None, True),
        ({"amx_bf16"}, "avx512_core_amx", True),
        ({"amx_bf16"}, "AVX512_CORE_BF16", False),
        ({"avx512_bf16"}, None, False),
    ],
)
def test_tiles_are_the_processors_unless_the_environment_forbids_them(
    flags: set[str], limit: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "_cpu_facts", lambda: ("a", frozenset(flags)))
    monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if limit is not None:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert environment.multiplies_in_tiles() is expected
