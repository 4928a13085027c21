#!/usr/bin/env bash
# submitit 1.5.4: a job that saves itself at its time limit is requeued three times and then fails, and update_parameters cannot change that; sweep/cluster.py sets the bound
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet submitit==1.5.4
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
