"""The SLURM batch file: what it asks for, what it starts, what it refuses."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from cifar_small.cli.main import main

CONFIG = str(Path(__file__).resolve().parents[2] / "configs" / "resnet_hour.yaml")


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["slurm", "--config", CONFIG, *arguments]) == 0
    return capsys.readouterr().out


def test_asks_for_what_was_asked(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "--nodes", "2", "--processes-per-node", "4", "--hours", "1.5", "--cpus", "3")
    wanted = {line.split("#SBATCH ")[1].split()[0] for line in text.splitlines() if line.startswith("#SBATCH")}
    assert wanted == {
        "--job-name=resnet_hour", "--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=12", "--gpus-per-node=4",
        "--time=01:30:00", "--signal=TERM@120", "--requeue",
    }  # fmt: skip
    assert "--nnodes=2 --nproc-per-node=4" in text
    assert "--gpus" not in printed(capsys, "--cpu-only")
    assert "--gpus" not in printed(capsys, "--engine.device", "cpu")


def test_jobs_that_share_a_machine_meet_at_ports_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys)
    (line,) = (line for line in text.splitlines() if line.startswith("port="))
    for job, port in ((7, 10007), (123_456_789, 10000 + 123_456_789 % 20_000)):
        found = subprocess.run(
            ["bash", "-c", f"SLURM_JOB_ID={job}\n{line}\necho $port"], capture_output=True, text=True, check=True
        )
        assert int(found.stdout) == port
    assert '--rdzv-endpoint="$head:$port"' in text


def test_it_is_shell_that_starts_the_training_with_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "--output", "runs/a b", "--optim.lr", "0.2", "--phases", "[{epochs: 3}]")
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    command = shlex.split(text[text.index("srun") :].replace("\\\n", " "))
    assert command[command.index("train") + 1 :] == [
        "--config", CONFIG, "--output", "runs/a b", "--optim.lr", "0.2", "--phases", "[{epochs: 3}]", "--resume",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--nodes", "3"],
            "batch_size 128 cannot be shared by 3 processes; use another number of processes, or a batch_size that",
        ),
        (["--nodes", "0"], "0 nodes: expected at least 1"),
        (
            ["--hours", "0"],
            "a time limit of 0 hours: expected more than the 2 minutes that are kept to stop and save; use --hours",
        ),
        (["--hours", "0.03"], "of 0.03 hours: expected more than the 2 minutes"),
        (["--hours", "inf"], "of inf hours: expected more than the 2 minutes"),
        (["--hours", "nan"], "of nan hours: expected more than the 2 minutes"),
        (
            ["--processes-per-node", "4", "--engine.device", "cuda:0"],
            "engine.device is cuda:0, one GPU, but 4 processes need one each; use cuda or auto",
        ),
        (["--optim.rate", "1"], "optim.rate: unknown key"),
    ],
)
def test_refusals(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["slurm", "--config", CONFIG, *arguments]) == 2
    assert message in capsys.readouterr().err
