#!/usr/bin/env bash
# submitit 1.5.4: update_parameters refuses the number of requeues after a time limit, three unless another was given when the executor was made; sweep/cluster.py gives it there
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet submitit==1.5.4 || exit 77
"$folder/venv/bin/python" - "$folder/jobs" <<'PYTHON'
import sys

import submitit

print("version: submitit", submitit.__version__)
print("expected: a job with a checkpoint method goes on after its time limit until it is done, or update_parameters sets how often")
executor = submitit.AutoExecutor(folder=sys.argv[1], cluster="local")
print("seen: requeues after a time limit:", executor._executor.max_num_timeout)
try:
    executor.update_parameters(slurm_max_num_timeout=10_000)
    refused = ""
except Exception as error:  # its type is no part of the finding
    refused = str(error)
print("seen: update_parameters(slurm_max_num_timeout=10_000):", refused or "accepted")
given = submitit.AutoExecutor(folder=sys.argv[1], cluster="local", local_max_num_timeout=10_000)
raise SystemExit(0 if executor._executor.max_num_timeout == 3 and refused and given._executor.max_num_timeout == 10_000 else 1)
PYTHON
