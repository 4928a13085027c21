"""What a run directory keeps whatever happens: readings of test are evidence, whole or not there."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny_raw

from cifar_small.config.loading import parse_config
from cifar_small.errors import DiskError
from cifar_small.files import append_whole, sha256_bytes
from cifar_small.runs.directory import Run, config_differences


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file can grow beyond so many bytes; what fits is written, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def read(run: Run, command: str) -> None:
    run.append_test_reading(
        command=command, views="none", images=360, accuracy=0.5, predictions="test.npz", predictions_sha256="0"
    )


def test_a_reading_is_recorded_whole_or_not_at_all(tmp_path: Path) -> None:
    run = Run(tmp_path)
    read(run, "first")
    before = run.test_readings_file.read_bytes()
    with full_disk(len(before) + 20), pytest.raises(DiskError, match=r"cannot write .*test_readings\.jsonl: File too large"):
        read(run, "second")
    assert run.test_readings_file.read_bytes() == before
    run.test_readings_file.write_bytes(before + b'{"time": "20')  # torn by an earlier version, or by a power cut
    assert [one.command for one in run.test_readings()] == ["first"]
    read(run, "third")
    assert [one.command for one in run.test_readings()] == ["first", "third"]
    assert run.test_readings()[1].previous_sha256 == sha256_bytes(before.rstrip(b"\n"))


def test_readings_at_the_same_time_are_all_recorded_in_one_chain(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: read(run, str(number)), range(16)))
    readings, lines = run.test_readings(), run.test_reading_lines()
    assert sorted(int(one.command) for one in readings) == list(range(16))
    assert [one.previous_sha256 for one in readings[1:]] == [sha256_bytes(line.encode()) for line in lines[:-1]]


def test_lines_are_appended_all_or_none(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    assert append_whole(path, b"one\ntwo\n") == 0
    with full_disk(10), pytest.raises(DiskError, match=r"cannot append to .*journal"):
        append_whole(path, b"three\nfour\n")
    assert path.read_bytes() == b"one\ntwo\n"
    path.write_bytes(b"one\ntw")
    assert append_whole(path, b"three\n") == 2
    assert path.read_bytes() == b"one\nthree\n"


TWO = {"phases": [{"epochs": 2, "sam": {"rho": 0.05}, "optim": {"clip_norm": 1.0}, "freeze": ["layer1"]}, {"epochs": 2}]}


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ({"sam": None}, "phases.1.sam: not set -> None"),
        ({"optim": {"clip_norm": None}}, "phases.1.optim.clip_norm: not set -> None"),
        ({"freeze": []}, "phases.1.freeze: not set -> []"),
        ({"swa": {}}, "phases.1.swa: not set -> {}"),
        ({"lookahead": {}}, "phases.1.lookahead: not set -> {}"),
        ({"schedule": {}}, "phases.1.schedule: not set -> {}"),
    ],
)
def test_what_a_phase_switches_off_or_takes_as_it_is_makes_another_recipe(second: dict[str, Any], said: str) -> None:
    """Nothing, null and an empty section are three things in a phase: as before, off, and on with its defaults."""
    before = parse_config(tiny_raw(**TWO))
    after = parse_config(tiny_raw(phases=[TWO["phases"][0], {**TWO["phases"][1], **second}]))
    assert config_differences(before, after) == [said]
    assert config_differences(after, before) != []
    assert config_differences(after, after) == []
