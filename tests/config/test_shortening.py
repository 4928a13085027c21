"""Configs at another length: everything counted in epochs follows, and every published config can be tried in seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny_raw
from hypothesis import given
from hypothesis import strategies as st

from cifar_small.cli.main import main
from cifar_small.config.loading import load_config, parse_config
from cifar_small.config.phases import resolve_phases
from cifar_small.config.schema import Config
from cifar_small.config.shortening import SMOKE_BATCH, smoke_config, with_epochs
from cifar_small.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
RUNNABLE = [path for path in sorted(CONFIGS.rglob("*.yaml")) if "\nseeds:" not in path.read_text(encoding="utf-8")]
Tiny = Callable[..., Config]


def test_all_that_is_counted_in_epochs_follows(tiny: Tiny) -> None:
    config = tiny(
        phases=[
            {"epochs": 60, "schedule": {"name": "multistep", "milestones": [30, 50], "warmup_epochs": 5}},
            {"epochs": 40, "schedule": {"name": "cosine_restarts", "period": 10}, "swa": {"every": 4}},
        ],
        patience=20,
        engine={"keep_every": 10},
    )
    scaled, changes = with_epochs(config, 20)
    assert changes == [
        "phases.0.epochs 60 -> 12",
        "phases.0.schedule.warmup_epochs 5 -> 1",
        "phases.0.schedule.milestones [30, 50] -> [6, 10]",
        "phases.1.epochs 40 -> 8",
        "phases.1.swa.every 4 -> 1",
        "phases.1.schedule.period 10 -> 2",
        "patience 20 -> 16",  # of every fourth epoch, then of every one
        "engine.keep_every 10 -> 2",
    ]
    first, second = resolve_phases(scaled)
    assert (first.end, second.end, scaled.patience, scaled.engine.keep_every) == (12, 20, 16, 2)
    assert with_epochs(config, 100)[1] == []


@pytest.mark.parametrize(
    ("phase", "patience"),
    [({}, 1), ({"swa": {"every": 10}}, 3), ({"swa": {"every": 5}}, 3), ({"swa": {"every": 1}}, 1)],
)
def test_patience_lasts_for_the_same_share_of_a_run(tiny: Tiny, phase: dict[str, Any], patience: int) -> None:
    config = tiny(phases=[{"epochs": 100, **phase}], patience=3)
    assert with_epochs(config, 20)[0].patience == patience  # a tenth of ten sets, as before


def test_a_schedule_over_several_phases_follows_their_sum(tiny: Tiny) -> None:
    config = tiny(
        phases=[{"epochs": 3}, {"epochs": 5, "schedule": {"name": "cosine", "warmup_epochs": 4}}, {"epochs": 5}],
        schedule={"name": "constant", "warmup_epochs": 1.5},
    )
    phases = resolve_phases(with_epochs(config, 4)[0])
    assert [phase.settings.epochs for phase in phases] == [1, 2, 1]
    assert [phase.settings.schedule.warmup_epochs for phase in phases] == [0.5, 1.2, 1.2]  # of 1 and of 3 epochs


def test_cached_views_are_no_more_than_epochs_and_never_a_single_random_one(tiny: Tiny) -> None:
    model = {"family": "timm/tf_efficientnet_lite0"}
    phase = {"epochs": 8, "freeze": "backbone", "cached_views": 4, "augment": {"crop": 4}}
    config = tiny(model=model, phases=[phase], rules={"max_params": 5_000_000})
    assert [with_epochs(config, epochs)[0].phases[0]["cached_views"] for epochs in (4, 3, 1)] == [4, 3, None]
    assert smoke_config(config).phases[0]["cached_views"] is None
    assert with_epochs(config, 1)[1] == ["phases.0.epochs 8 -> 1", "phases.0.cached_views 4 -> none"]


def test_teachers_are_asked_about_no_more_views_than_epochs(tiny: Tiny) -> None:
    config = tiny(distill={"teachers": ["a"], "cached_views": 4}, augment={"crop": 4}, phases=[{"epochs": 4}, {"epochs": 12}])

    def views(epochs: int) -> list[int | None]:
        return [phase.settings.distill.cached_views for phase in resolve_phases(with_epochs(config, epochs)[0])]  # type: ignore[union-attr]

    assert [views(epochs) for epochs in (16, 8, 4)] == [[4, 4], [2, 4], [None, 3]]
    assert "phases.0.distill.cached_views 4 -> 2" in with_epochs(config, 8)[1]


def test_what_has_no_room_is_dropped_and_said(tiny: Tiny) -> None:
    schedule = {"name": "multistep", "milestones": [80, 90, 95], "warmup_epochs": 1}
    config = tiny(phases=[{"epochs": 100, "schedule": schedule, "swa": {"every": 10}}])
    _, changes = with_epochs(config, 4)
    assert "phases.0.schedule.milestones [80, 90, 95] -> [3]" in changes
    scaled, changes = with_epochs(config, 1)
    assert changes[1:] == [
        "phases.0.swa.every 10 -> none",
        "phases.0.schedule.name multistep -> constant",
        "phases.0.schedule.warmup_epochs 1 -> 0.01",
        "phases.0.schedule.milestones [80, 90, 95] -> none",
    ]
    assert resolve_phases(scaled)[0].settings.swa is None
    with pytest.raises(ConfigError, match="1 epoch for 2 phases: each needs one"):
        with_epochs(tiny(phases=[{"epochs": 5}, {"epochs": 5}]), 1)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=5), st.integers(5, 500))
def test_phases_keep_their_proportions(lengths: list[int], epochs: int) -> None:
    config = parse_config(tiny_raw(phases=[{"epochs": length} for length in lengths]))
    found = [phase.settings.epochs for phase in resolve_phases(with_epochs(config, epochs)[0])]
    assert sum(found) == epochs
    assert min(found) >= 1
    if min(lengths) * epochs >= sum(lengths):  # room for all
        ideal = [length * epochs / sum(lengths) for length in lengths]
        assert max(abs(one - other) for one, other in zip(found, ideal, strict=True)) < 1


@pytest.mark.parametrize("path", RUNNABLE, ids=lambda path: path.stem)
def test_every_config_can_be_had_short_long_and_as_a_smoke_test(path: Path) -> None:
    config = load_config(path)
    for epochs in (len(config.phases), 3 * config.epochs):
        assert with_epochs(config, epochs)[0].epochs == epochs
    smoke = smoke_config(config)
    assert smoke.epochs == len(config.phases)
    assert smoke.model == config.model


def test_a_smoke_test_holds_out_the_images_that_a_proxy_did(tiny: Tiny) -> None:
    phases = [{"epochs": 2, "select": {"share": 0.5, "proxy": "runs/proxy"}}]
    assert smoke_config(tiny(phases=phases)).data.val_size == tiny().data.val_size > smoke_config(tiny()).data.val_size


def test_a_smoke_test_of_a_small_share_has_a_batch_it_leaves_images_of(tiny: Tiny) -> None:
    phases = [{"epochs": 2, "select": {"share": 0.05, "proxy": "runs/proxy"}}]
    assert smoke_config(tiny(phases=phases, batch_size=100)).batch_size == 40
    assert smoke_config(tiny(batch_size=100)).batch_size == SMOKE_BATCH
    most = [{"epochs": 1, "select": {"share": 0.98, "proxy": "a"}}]
    assert smoke_config(tiny(phases=most, batch_size=100)).batch_size == 50  # of which one is left out


@pytest.mark.parametrize(("share", "limit", "expected"), [(0.05, None, 80), (0.05, 60, 60), (0.5, None, 32), (0.5, 20, 20)])
def test_a_smoke_test_has_the_images_of_two_batches(tiny: Tiny, share: float, limit: int | None, expected: int) -> None:
    phases = [{"epochs": 2, "select": {"share": share, "proxy": "runs/proxy"}}]
    data = {**tiny_raw()["data"], "train_limit": limit}
    smoke = smoke_config(tiny(phases=phases, batch_size=50, data=data))
    assert smoke.data.train_limit == expected >= smoke.batch_size


def run_main(*arguments: Any) -> int:
    return main([str(argument) for argument in arguments])


def test_a_smoke_test_trains_every_phase_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert run_main("train", CONFIGS / "smoke.yaml", "--smoke") == 0
    said = capsys.readouterr().out
    assert "epoch   2/2" in said
    assert said.splitlines()[-1] == "smoke: everything ran, 2 phases of two small batches; the figures mean nothing"
    assert not (tmp_path / "runs").exists()
    assert run_main("train", CONFIGS / "smoke.yaml", "--smoke", "--resume") == 2


def test_epochs_on_the_command_line_say_what_they_change(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main("train", CONFIGS / "smoke.yaml", "--epochs", 12, "--print-config") == 0
    out, err = capsys.readouterr()
    assert err == ("6 -> 12 epochs: phases.0.epochs 4 -> 8; phases.0.schedule.warmup_epochs 1 -> 2; phases.1.epochs 2 -> 4\n")
    assert "warmup_epochs: 2" in out
    assert run_main("slurm", CONFIGS / "smoke.yaml", "--epochs", 12, "--cpu-only") == 0
    assert "--epochs 12" in capsys.readouterr().out
