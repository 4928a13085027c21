"""One run over two gloo ranks: the pixels, losses and statistics of one process; killed runs go on with other ranks."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import train_until_save
from torch.nn import functional as F
from two_ranks import CONFIG

from cifar_small.config.hashing import dump_config
from cifar_small.config.loading import parse_config
from cifar_small.config.resolved import resolve_config
from cifar_small.errors import CheckpointError, ConfigError, UserError
from cifar_small.models import refresh_statistics
from cifar_small.runs.checkpoints import load_checkpoint
from cifar_small.runs.directory import Run
from cifar_small.runs.locks import locked
from cifar_small.runs.predictions import load_predictions
from cifar_small.training.build import build_trainer
from cifar_small.training.distributed import SINGLE_PROCESS, SyncedBatchNorm2d, World, share_batch, synchronize_batchnorm
from cifar_small.training.train import train

SCRIPT = Path(__file__).resolve().parents[1] / "two_ranks.py"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(SCRIPT.parent.parent), "OMP_NUM_THREADS": "1"}


def launch(*command: str | Path, group: bool = False) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(part) for part in command],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=group,
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 0, output
    return output


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process and what two ranks saw and made of the same config."""
    alone, together = tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("together")
    teacher = tmp_path_factory.mktemp("teacher") / "run"
    train(parse_config({**CONFIG, "seed": 1, "phases": [{"epochs": 1}]}), teacher, quiet=True)
    processes = [launch(sys.executable, SCRIPT, alone, teacher), launch(*TORCHRUN, SCRIPT, together, teacher)]
    for process in processes:
        finish(process)
    return {
        "alone": torch.load(alone / "rank0.pt", weights_only=True),
        "ranks": [torch.load(together / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)],
        "runs": (Run(alone / "run"), Run(together / "run")),
    }


def rows(run: Run) -> list[dict[str, str]]:
    return list(csv.DictReader(run.metrics_file.read_text().splitlines()))


def test_two_ranks_see_the_pixels_of_one_process(seen: dict[str, Any]) -> None:
    assert [rank["size"] for rank in seen["ranks"]] == [2, 2]
    assert len(seen["alone"]["pixels"]) == 12  # 4 epochs of 180 / 60 steps
    for whole, *parts in zip(seen["alone"]["pixels"], *(rank["pixels"] for rank in seen["ranks"]), strict=True):
        assert [len(part) for part in parts] == [30, 30]
        assert torch.equal(torch.cat(parts), whole)


def test_two_ranks_have_the_losses_of_one_process(seen: dict[str, Any]) -> None:
    """Sums are taken in another order, so the first losses agree to float32's rounding (some 1e-7 of 2.3); 12 updates amplify
    that a little. A wrong share, scale or statistic is off by more than 1e-3 after one step. In the last epoch each rank asks a
    teacher about its own share."""
    one, two = (rows(run) for run in seen["runs"])
    assert len(one) == len(two) == 4
    for mine, theirs in zip(one, two, strict=True):
        assert float(mine["train_loss"]) == pytest.approx(float(theirs["train_loss"]), abs=1e-4)
        assert float(mine["val_loss"]) == pytest.approx(float(theirs["val_loss"]), abs=1e-4)
        assert mine["lr"] == theirs["lr"]
        assert float(mine["val_accuracy"]) == pytest.approx(float(theirs["val_accuracy"]), abs=2.5 / 203)


def test_synchronized_batchnorm_is_batchnorm_of_all_images(seen: dict[str, Any]) -> None:
    """Shares of 3 and 4 images; images with a mean four times their deviation, where careless sums of squares would cancel."""
    whole = seen["alone"]["norms"]
    for rank in seen["ranks"]:
        for key in ("output", "buffers"):
            torch.testing.assert_close(rank["norms"][key], whole[key], atol=2e-6, rtol=2e-6)
        torch.testing.assert_close(rank["norms"]["gradients"], whole["gradients"], atol=2e-4, rtol=2e-5)


def test_ranks_agree(seen: dict[str, Any]) -> None:
    assert [rank["answers"] for rank in seen["ranks"]] == [[True, False], [True, False]]


def test_nothing_keeps_the_group_after_the_run(seen: dict[str, Any]) -> None:
    """Gloo's threads end when their group is freed; a rank at whose exit they were alive was aborted once."""
    assert [rank["groups_left"] for rank in seen["ranks"]] == [0, 0]


def test_only_rank_0_writes(seen: dict[str, Any]) -> None:
    one, two = seen["runs"]
    names = [sorted(path.name for path in run.folder.iterdir()) for run in (one, two)]
    assert names[0] == names[1]
    assert [session.processes for session in two.sessions()] == [2]
    assert load_checkpoint(two.last)["epoch"] == 4


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run of two ranks of which one was killed, which ended the other."""
    place = tmp_path_factory.mktemp("killed")
    config, folder = place / "config.yaml", place / "run"
    config.write_text(dump_config(parse_config(CONFIG)))
    started = launch(*TORCHRUN, "-m", "cifar_small", "train", "--config", config, "--output", folder)
    try:
        while not (folder / "last.pt").exists():
            assert started.poll() is None, started.communicate()[0]
            time.sleep(0.02)
        victim = min(_children(started.pid))
        os.kill(victim, signal.SIGKILL)
        output, _ = started.communicate(timeout=120)
    finally:
        started.kill()
    assert started.returncode != 0
    assert "SIGKILL" in output
    assert not (folder / "summary.json").exists()
    return folder


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_run_whose_rank_was_killed_goes_on(killed: Path, tmp_path: Path, seen: dict[str, Any], ranks: int) -> None:
    """With one process to the rounding of its sums, with two as if nothing had happened, to the last bit."""
    folder = shutil.copytree(killed, tmp_path / "run")
    command = ["-m", "cifar_small", "train", "--config", killed.with_name("config.yaml"), "--output", folder, "--resume"]
    assert "resuming" in finish(launch(*(TORCHRUN if ranks == 2 else [sys.executable]), *command))
    resumed, whole = rows(Run(folder)), rows(seen["runs"][ranks - 1])[:3]  # without the epoch that has a teacher
    assert [session.processes for session in Run(folder).sessions()] == [2, ranks]
    assert [row["epoch"] for row in resumed] == ["1", "2", "3"]
    for mine, theirs in zip(resumed, whole, strict=True):
        losses = [[float(row[name]) for name in ("train_loss", "val_loss")] for row in (mine, theirs)]
        assert losses[0] == (losses[1] if ranks == 2 else pytest.approx(losses[1], abs=1e-4))


def test_a_signal_to_all_processes_saves_the_step_under_way(tmp_path: Path) -> None:
    """As a job scheduler or Ctrl+C sends it: to each rank, and to torchrun, which then sends it to each rank again.

    Without checkpoints within epochs, only such a save has a step above 0. The signal may come in an epoch's last step, one of
    20; then once more.
    """
    config = tmp_path / "config.yaml"
    engine = {**CONFIG["engine"], "checkpoint_steps": None}
    data = {**CONFIG["data"], "train_limit": 1200}
    config.write_text(dump_config(parse_config({**CONFIG, "engine": engine, "data": data})))
    for attempt in range(4):
        folder = tmp_path / f"run{attempt}"
        command = ["-m", "cifar_small", "train", "--config", config, "--output", folder, "--phases.1.epochs", "200"]
        started = launch(*TORCHRUN, *command, group=True)
        try:
            while not (folder / "last.pt").exists():
                assert started.poll() is None, started.communicate()[0]
                time.sleep(0.02)
            os.killpg(started.pid, signal.SIGTERM)
            output, _ = started.communicate(timeout=120)
        finally:
            started.kill()
        assert started.returncode != 0
        assert f"stopped by SIGTERM; the run is saved in {folder}" in output
        assert "KeyboardInterrupt" not in output
        if load_checkpoint(folder / "last.pt")["step"]:
            return
    pytest.fail("no save within an epoch in four runs")


def test_two_ranks_go_on_with_what_one_process_began(
    tmp_path: Path, seen: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(dump_config(parse_config(CONFIG)))
    folder = tmp_path / "run"
    train_until_save(parse_config(CONFIG), folder, 1, monkeypatch)
    command = ["-m", "cifar_small", "train", "--config", config, "--output", folder, "--resume"]
    assert "resuming" in finish(launch(*TORCHRUN, *command))
    assert [session.processes for session in Run(folder).sessions()] == [1, 2]
    for mine, theirs in zip(rows(Run(folder)), rows(seen["runs"][0])[:3], strict=True):
        assert float(mine["train_loss"]) == pytest.approx(float(theirs["train_loss"]), abs=1e-4)


MICRO = {
    **CONFIG,
    "model": {"family": "whitened_resnet", "stages": [{"width": 12, "branch": [[3, 8], [1, 12]]}] * 2},
    "optim": {"name": "muon", "lr": 0.1, "bias": {"lr": 2.0}, "head": {"lr": 0.2}},
    "ema_decay": None,
    "selection": "last",
    "phases": [{"epochs": 1, "resolution": 16}, {"epochs": 2}],
    "engine": {**CONFIG["engine"], "sync_batchnorm": False, "micro_batch_size": 15},
}


def test_ranks_with_their_own_statistics_are_micro_batches(tmp_path: Path) -> None:
    """Where BatchNorm sees 15 images at a time, two ranks of two such slices make the gradients of one process of four.

    Not so the running statistics, which are of rank 0's images. Muon rounds its updates to bfloat16 (3 digits), so weights
    agree to a hundredth of their norm; the classifier and the norms' biases take plain SGD steps of gradients that a wrong
    mean over slices or ranks would halve or double.
    """
    config = tmp_path / "config.yaml"
    config.write_text(dump_config(parse_config(MICRO)))
    launched = launch(*TORCHRUN, "-m", "cifar_small", "train", "--config", config, "--output", tmp_path / "together")
    train(parse_config(MICRO), tmp_path / "alone", quiet=True)
    finish(launched)
    one, two = Run(tmp_path / "alone"), Run(tmp_path / "together")
    assert [session.processes for session in two.sessions()] == [2]
    for mine, theirs in zip(rows(one), rows(two), strict=True):
        assert float(mine["train_loss"]) == pytest.approx(float(theirs["train_loss"]), rel=1e-2)
    judged = load_predictions(two.predictions / "val.npz")  # by rank 0 alone, with the weights of the end
    loss = F.cross_entropy(torch.from_numpy(judged.logits), torch.from_numpy(judged.labels))
    assert float(rows(two)[-1]["val_loss"]) == pytest.approx(loss.item(), rel=1e-4)  # all ranks judge by its statistics
    weights, others = (load_checkpoint(run.last)["model"] for run in (one, two))
    for name in (name for name in weights if name.endswith(("weight", "bias"))):
        assert (weights[name] - others[name]).norm() <= 0.01 * weights[name].norm(), name


def _children(parent: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:  # a process that ended while we looked
            continue
        if int(fields[1]) == parent:
            found.append(int(status.parent.name))
    return found


def test_a_refusal_ends_all_ranks_with_one_message(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("kept")
    config = tmp_path / "config.yaml"
    config.write_text(dump_config(parse_config(CONFIG)))
    process = launch(*TORCHRUN, "-m", "cifar_small", "train", "--config", config, "--output", tmp_path / "run")
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert output.count("is not empty and is not a run directory (contains mine.txt, ...)") == 1
    assert 'Traceback (most recent call last):\n  File "' + str(SCRIPT.parent.parent / "cifar_small") not in output


def test_ranks_begin_a_phase_with_the_statistics_of_rank_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What freezes in it would stay each rank's own, where torch does not share buffers (before 2.13)."""
    shared: list[tuple[torch.Tensor, ...]] = []
    trainer = build_trainer(resolve_config(parse_config(CONFIG)), Run(tmp_path), quiet=True)
    monkeypatch.setattr(World, "broadcast", lambda self, *tensors: shared.append(tensors))
    trainer.enter_phase(trainer.resolved.phases[1])
    assert [id(tensor) for tensor in shared[0]] == [id(buffer) for buffer in trainer.state.model.buffers()]


@pytest.mark.parametrize(("count", "size"), [(10, 3), (2, 4), (60, 2), (7, 1)])
def test_shares_are_whole_and_nearly_equal(count: int, size: int) -> None:
    shares = [range(count)[World(rank, size).share(count)] for rank in range(size)]
    assert [index for share in shares for index in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_batches_that_cannot_be_shared_are_refused() -> None:
    assert share_batch(60, 20, 1) == 20
    assert share_batch(60, 20, 3) == 20
    with pytest.raises(ConfigError, match=r"batch_size 60 cannot be shared by 2 processes in slices .* multiple of 40"):
        share_batch(60, 20, 2)
    with pytest.raises(ConfigError, match=r"batch_size 60 cannot be shared by 7 processes; .* multiple of 7"):
        share_batch(60, None, 7)


def test_a_process_is_left_images_enough_for_batchnorm() -> None:
    assert share_batch(6, None, 3) == 2
    assert share_batch(3, None, 3, synced=True) == 1  # whose statistics are of all three
    with pytest.raises(ConfigError, match=r"batch_size 3 leaves each of 3 processes a single image.* batch_size of 6 or more"):
        share_batch(3, None, 3)


def test_a_batchnorm_without_weights_is_synchronized_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cifar_small.training.distributed._sum_over_ranks", lambda part: part)  # of one rank
    plain, net = torch.nn.BatchNorm2d(2, affine=False), torch.nn.Sequential(torch.nn.BatchNorm2d(2, affine=False))
    synchronize_batchnorm(net)
    assert type(net[0]) is SyncedBatchNorm2d
    images = torch.randn(8, 2, 4, 4)
    torch.testing.assert_close(net(images), plain(images))
    torch.testing.assert_close(net[0].running_var, plain.running_var)


def test_a_synchronized_batchnorm_takes_plain_means_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a stochastic average of weights gets its statistics, and a BatchNorm whose momentum is None."""
    monkeypatch.setattr("cifar_small.training.distributed._sum_over_ranks", lambda part: part)  # of one rank
    batches = [torch.randn(8, 2, 4, 4) + index for index in range(3)]
    plain, net = (torch.nn.Sequential(torch.nn.BatchNorm2d(2)) for _ in range(2))
    synchronize_batchnorm(net)
    for each in (plain, net):
        refresh_statistics(each, batches)
    for mine, theirs in zip(net.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs)
    assert net[0].num_batches_tracked == 3
    assert net[0].momentum == 0.1


def test_a_batchnorm_without_running_statistics_is_refused() -> None:
    net = torch.nn.Sequential(torch.nn.BatchNorm2d(2, track_running_stats=False))
    with pytest.raises(ConfigError, match=r"engine\.sync_batchnorm needs running statistics, and 0 of this net keeps none"):
        synchronize_batchnorm(net)


@pytest.mark.parametrize("parents", [1, 2])
def test_a_batchnorm_at_two_places_stays_one(parents: int) -> None:
    norm, conv = torch.nn.BatchNorm2d(3), torch.nn.Conv2d(3, 3, 1)
    net = torch.nn.Sequential(norm, conv, norm)
    if parents == 2:
        net = torch.nn.Sequential(torch.nn.Sequential(norm, conv), torch.nn.Sequential(conv, norm))
    synchronize_batchnorm(net)
    found = [module for _, module in net.named_modules(remove_duplicate=False) if isinstance(module, SyncedBatchNorm2d)]
    assert len(found) == 2
    assert found[0] is found[1]
    assert not any(type(module) is torch.nn.BatchNorm2d for module in net.modules())


def test_a_batchnorm_of_another_kind_is_not_left_unsynchronized() -> None:
    class WithActivation(torch.nn.BatchNorm2d):
        pass

    net = torch.nn.Sequential(torch.nn.BatchNorm2d(2), WithActivation(2))
    with pytest.raises(ConfigError, match=r"engine\.sync_batchnorm cannot synchronize the WithActivation of this net"):
        synchronize_batchnorm(net)


def test_a_net_that_synchronizes_by_itself_is_left_alone() -> None:
    net = torch.nn.Sequential(torch.nn.SyncBatchNorm(3), torch.nn.BatchNorm2d(3))
    synchronize_batchnorm(net)
    assert [type(module) for module in net] == [torch.nn.SyncBatchNorm, SyncedBatchNorm2d]


def test_a_batchnorm_of_vectors_is_not_left_unsynchronized() -> None:
    net = torch.nn.Sequential(torch.nn.BatchNorm2d(2), torch.nn.Flatten(), torch.nn.BatchNorm1d(8))
    with pytest.raises(ConfigError, match=r"engine\.sync_batchnorm cannot synchronize the BatchNorm1d of this net"):
        synchronize_batchnorm(net)


def test_alone_nothing_is_exchanged(tmp_path: Path) -> None:
    tensor = torch.ones(3)
    assert SINGLE_PROCESS.sum(tensor) is tensor
    assert SINGLE_PROCESS.gather(tensor, 3) is tensor
    assert SINGLE_PROCESS.any(True, torch.device("cpu"))
    assert train(parse_config({**CONFIG, "phases": [{"epochs": 1}]}), tmp_path / "run", quiet=True).epochs == 1


def test_a_run_in_use_ends_all_ranks_with_one_message(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(dump_config(parse_config(CONFIG)))
    with locked(tmp_path / "run"):
        process = launch(*TORCHRUN, "-m", "cifar_small", "train", "--config", config, "--output", tmp_path / "run")
        output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert output.count("is in use by process") == 1
    assert output.count("rank 0 rejected this run") == 1


def test_a_machine_that_does_not_see_the_run_directory_is_told(tmp_path: Path) -> None:
    class Elsewhere(World):
        def first_then_all(self, check: Callable[[], bool]) -> bool:
            return True  # as rank 0, on its own disk, would answer

    config = parse_config(CONFIG)
    (tmp_path / "run").mkdir()
    trainer = build_trainer(resolve_config(config), Run(tmp_path / "run"), quiet=True)
    trainer.checkpoints = replace(trainer.checkpoints, world=Elsewhere(1, 2))
    with pytest.raises(CheckpointError, match=r"rank 1 cannot see .*last\.pt, rank 0 can; put .* on a shared file system"):
        trainer.restore()


def test_a_world_size_alone_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for key in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(key, raising=False)
    with pytest.raises(UserError, match=r"WORLD_SIZE is 2 but RANK, .* is not set; start the processes by torchrun"):
        train(parse_config(CONFIG), tmp_path / "run", quiet=True)
