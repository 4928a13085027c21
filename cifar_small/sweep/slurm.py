"""The SLURM batch file of a run over several machines, as text to read, change and submit."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Sequence

from cifar_small.errors import UserError

SAVING = 2  # minutes before the end in which a job saves


def batch_file(
    name: str,
    train_arguments: Sequence[str],
    *,
    nodes: int,
    processes: int,
    gpus: bool,
    hours: float,
    cpus: int,
) -> str:
    """An sbatch script that starts `processes` ranks of one training on each of `nodes` machines.

    train_arguments: what follows `cifar-small train`; --resume is added, so that a requeued job goes on. Raises UserError.
    """
    for what, number in (("nodes", nodes), ("processes per node", processes), ("cores per process", cpus)):
        if number < 1:
            raise UserError(f"{number} {what}: expected at least 1")
    minutes = round(hours * 60) if math.isfinite(hours) else 0
    if minutes <= SAVING:
        raise UserError(
            f"a time limit of {hours:g} hours: expected more than the {SAVING} minutes that are kept to stop and save",
            remedy="hours",
        )
    resources = [f"#SBATCH --gpus-per-node={processes}"] if gpus else []
    train = shlex.join([*train_arguments, *([] if "--resume" in train_arguments else ["--resume"])])
    return "\n".join(
        [
            "#!/bin/bash",
            f"#SBATCH --job-name={shlex.quote(name)}",
            f"#SBATCH --nodes={nodes}",
            "#SBATCH --ntasks-per-node=1          # torchrun starts the ranks of its machine",
            f"#SBATCH --cpus-per-task={cpus * processes}",
            *resources,
            f"#SBATCH --time={minutes // 60:02d}:{minutes % 60:02d}:00",
            f"#SBATCH --signal=TERM@{60 * SAVING}            # seconds left: ranks stop (on GPUs in 50 steps), rank 0 saves",
            "#SBATCH --requeue                    # after a preemption or a failed node; after the time limit, submit it again",
            "",
            "# Submit it from the folder that holds the config, on a file system all machines share.",
            "set -euo pipefail",
            'head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
            f"export TORCH_ELASTIC_SHUTDOWN_TIMEOUT={60 * SAVING - 10}  # torchrun's 30 seconds may be too few to save in",
            "port=$((10000 + SLURM_JOB_ID % 20000))     # another one for each job, should two share a machine",
            # Of itself srun does not pass on the cores of a task (from Slurm 22.05), and all ranks would share one.
            f'srun --cpus-per-task="$SLURM_CPUS_PER_TASK" {shlex.quote(sys.executable)} -m torch.distributed.run \\',
            f'  --nnodes={nodes} --nproc-per-node={processes} --rdzv-id="$SLURM_JOB_ID" \\',
            '  --rdzv-backend=c10d --rdzv-endpoint="$head:$port" \\',
            f"  -m cifar_small train {train}",
            "",
        ]
    )
