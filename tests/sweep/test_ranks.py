"""Whether a cheap sweep ranks settings as the full one does: numbers by hand, and the command over two sweeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import yaml
from conftest import tiny_raw
from synthetic import summary_of

from cifar_small.config.hashing import dump_config
from cifar_small.errors import UserError
from cifar_small.files import sha256_bytes, write_atomic, write_json
from cifar_small.sweep.ranks import agreement
from cifar_small.sweep.run import prepare
from cifar_small.sweep.table import CellResult, collect

RATES = [0.4, 0.3, 0.2, 0.1]


def sweep(folder: Path, name: str, accuracies: Sequence[float], epochs: int, rates: Sequence[float] = RATES) -> Path:
    """A sweep over the learning rate whose runs are done, with these accuracies; a rate more than there are is left open."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}-base.yaml").write_text(yaml.safe_dump(tiny_raw(phases=[{"epochs": epochs}])))
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"name": name, "config": f"{name}-base.yaml", "parameters": {"optim.lr": list(rates)}}))
    spec, directory, cells = prepare(path)
    for cell, accuracy in zip(cells, accuracies, strict=False):
        run = directory.run(cell, spec.seeds[0])
        run.folder.mkdir(parents=True)
        write_atomic(run.config_file, dump_config(cell.seeded(0)).encode())
        write_atomic(run.best, b"")
        write_json(run.summary_file, summary_of(val_accuracy=accuracy, weights_sha256=sha256_bytes(b"")))
    return path


def rows(path: Path) -> list[CellResult]:
    return collect(*prepare(path))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_numbers_by_hand() -> None:
    """Ranks 1 2 3 4 against 2 1 3 4: one swap of six pairs, squared rank differences of 2 in all."""
    cheap = sweep(Path("a"), "cheap", [0.8, 0.7, 0.6, 0.5], 1)
    full = sweep(Path("a"), "full", [0.90, 0.92, 0.85, 0.80], 3)
    found = agreement(rows(cheap), rows(full))
    assert (found.rho, found.tau) == pytest.approx((1 - 6 * 2 / (4 * 15), 1 - 2 * 1 / 6))
    assert found.p == pytest.approx(8 / 24)  # of 24 orders, 4 have a tau this high and as many one this low
    assert found.lost == pytest.approx(0.02)
    assert [pair[1:] for pair in found.pairs] == [(0.8, 0.9), (0.7, 0.92), (0.6, 0.85), (0.5, 0.8)]
    reversed_ = sweep(Path("b"), "reversed", [0.1, 0.2, 0.3, 0.4], 2)
    assert agreement(rows(cheap), rows(reversed_)).rho == -1


def test_command(said: Callable[..., tuple[int, str, str]]) -> None:
    cheap = sweep(Path("a"), "cheap", [0.8, 0.7, 0.6, 0.5], 1)
    full = sweep(Path("a"), "full", [0.90, 0.92, 0.85, 0.80], 3)
    before = sorted(Path().rglob("*"))
    code, out, err = said("sweep", cheap, "--against", full)
    assert (code, err) == (0, "")
    assert "4 cells: Spearman's rho 0.80, Kendall's tau 0.67" in out
    assert "the proxy's best settings are 2.00 points below the best of these cells in full" in out
    assert sorted(Path().rglob("*")) == before


def test_open_cells_and_other_settings_do_not_count() -> None:
    cheap = sweep(Path("a"), "cheap", [0.8, 0.7, 0.6, 0.5], 1)
    full = sweep(Path("a"), "full", [0.9, 0.8, 0.7, 0.6, 0.5], 3, [0.4, 0.3, 0.2, 0.15, 0.12])
    with pytest.raises(UserError, match="share 3 finished cells of equal settings; expected at least 4"):
        agreement(rows(cheap), rows(full))
    with pytest.raises(UserError, match="share 2 finished cells"):
        agreement(rows(cheap), rows(sweep(Path("a"), "open", [0.9, 0.8], 3)))


def test_equal_accuracies_have_no_ranks() -> None:
    cheap, full = sweep(Path("a"), "cheap", [0.5] * 4, 1), sweep(Path("a"), "full", [0.9, 0.8, 0.7, 0.6], 3)
    with pytest.raises(UserError, match="have the same accuracy and so no ranks"):
        agreement(rows(cheap), rows(full))
