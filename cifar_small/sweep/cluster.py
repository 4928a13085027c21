"""Workers as jobs, through submitit: on SLURM, or as processes of this machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cifar_small.config.shipped import require_config
from cifar_small.config.strict_yaml import parse_yaml
from cifar_small.errors import ConfigError, UserError
from cifar_small.sweep.run import finish, prepare, run_sweep
from cifar_small.sweep.states import SweepDirectory
from cifar_small.wording import plural

TIMEOUTS = 10_000  # time limits after which a worker is not queued again


@dataclass(frozen=True)
class Job:
    """The work of one job: an ordinary worker, which continues where it was cut off."""

    path: Path
    folder: Path
    command: str

    def __call__(self) -> int:
        """Run the worker; returns its exit code."""
        return run_sweep(self.path, self.folder, command=self.command)

    def checkpoint(self) -> Any:
        """What submitit requeues when a job's time is up: the same worker, which resumes the saved runs."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def submit_workers(
    path: Path, folder: Path | None, *, cluster: str, jobs: int, settings: Mapping[str, Any], command: str
) -> int:
    """Send `jobs` workers; `slurm` returns when they are queued, `local` when all have ended, with their exit code.

    Raises ConfigError before anything is sent if a cell cannot run, UserError off-cluster or without submitit.
    """
    sweep, directory, _ = prepare(path, folder)
    executor = _executor(directory, cluster)
    _configure(executor, cluster, settings, sweep.name)
    # Absolute, as a job may start in another folder; the command recorded in each run is the user's own.
    job = Job(require_config(path).resolve(), directory.folder.resolve(), command)
    sent = _send(executor, job, jobs, visible_gpus() if cluster == "local" else [])
    print(
        f"{plural(jobs, 'worker')} sent to {cluster}: {', '.join(task.job_id for task in sent)}; "
        f"logs in {directory.folder / 'jobs'}",
        flush=True,
    )
    if cluster == "slurm":
        return 0
    for task in sent:
        task.wait()
    if failed := [task for task in sent if task.exception() is not None]:
        reason = _reason(failed[0].exception())
        raise UserError(
            f"{len(failed)} of {jobs} workers ended early ({reason}); their logs are in {directory.folder / 'jobs'}"
        )
    sweep, directory, cells = prepare(path, folder)
    return finish(sweep, directory, cells)


def _reason(error: BaseException) -> str:
    """The last line of a job's traceback, below which submitit says where the logs are."""
    traceback = str(error).partition("You can check full logs")[0].rstrip("-\n ")
    return (traceback or str(error).strip()).splitlines()[-1]


def _send(executor: Any, job: Job, jobs: int, gpus: Sequence[int]) -> list[Any]:
    """Send the job `jobs` times; where `gpus` are given, each sees one of them in turn."""
    if not gpus:
        with executor.batch():
            return [executor.submit(job) for _ in range(jobs)]
    sent = []
    for index in range(jobs):
        executor.update_parameters(gpus_per_node=1, local_visible_gpus=[gpus[index % len(gpus)]])
        sent.append(executor.submit(job))
    return sent


def visible_gpus() -> list[int]:
    """The GPUs of this machine by the numbers that CUDA_VISIBLE_DEVICES takes; submitit's workers see none unless told.

    Raises ConfigError where that names them otherwise, since submitit takes numbers alone.
    """
    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not count or named is None:
        return list(range(count))
    numbers = [number.strip() for number in named.split(",")[:count]]
    if odd := [number for number in numbers if not number.isdigit()]:
        raise ConfigError(f"CUDA_VISIBLE_DEVICES names the GPU {odd[0]!r}; expected numbers, such as 0,1, to send workers to")
    return [int(number) for number in numbers]


def parse_settings(pairs: Sequence[str]) -> dict[str, object]:
    """Turn ["partition=gpu", "time=600"] into {"partition": "gpu", "time": 600}. Raises ConfigError."""
    settings: dict[str, object] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals and value):
            raise ConfigError(f"SLURM settings: expected key=value such as partition=gpu, got {pair!r}")
        if key in settings:
            raise ConfigError(f"SLURM settings: {key} is given twice; remove one")
        settings[key] = parse_yaml(value, f"SLURM setting {key}")
    return settings


def _executor(directory: SweepDirectory, cluster: str) -> Any:
    try:
        import submitit
    except ModuleNotFoundError as error:
        raise UserError(
            f"sending jobs needs submitit ({error}): pip install 'cifar_small[sweep]', "
            "or start cifar-small sweep on each machine"
        ) from None
    if cluster == "slurm" and not (shutil.which("sbatch") and shutil.which("srun")):
        raise UserError(
            "this machine has no sbatch and srun; submit from a login node of the cluster, or to the cluster 'local'",
            remedy="submit=local",
        )
    # By itself submitit requeues a job after three time limits at most, and then counts it as failed; a sweep ends by itself.
    return submitit.AutoExecutor(folder=str(directory.folder / "jobs"), cluster=cluster, slurm_max_num_timeout=TIMEOUTS)


def _configure(executor: Any, cluster: str, settings: Mapping[str, Any], name: str) -> None:
    if cluster != "slurm":
        # submitit wants a limit; here it is only there to end what hangs, and a week is longer than a sweep on one machine.
        executor.update_parameters(timeout_min=7 * 24 * 60, name=name)
        return
    if "time" not in settings:
        raise UserError(
            "SLURM jobs need a time limit in minutes: submitit's own of 5 minutes would end every job",
            remedy="slurm=time=MINUTES",
        )
    try:
        executor.update_parameters(name=name, **{f"slurm_{key}": value for key, value in settings.items()})
    except (ValueError, NameError, TypeError, AssertionError) as error:
        raise UserError(f"SLURM settings: submitit refuses {dict(settings)}: {' '.join(str(error).split())[:400]}") from None
