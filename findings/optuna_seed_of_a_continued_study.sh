#!/usr/bin/env bash
# optuna 5.0.0: a seeded sampler begins again in a study that is continued; sweep/search.py seeds one for each trial
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet optuna==5.0.0 numpy==2.4.6 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
import optuna
from optuna.storages import InMemoryStorage

optuna.logging.set_verbosity(optuna.logging.ERROR)
print("version: optuna", optuna.__version__)
print("expected: a study that goes on with TPESampler(seed=0) asks for points that it has not tried yet")
storage = InMemoryStorage()


def session() -> list[float]:
    sampler = optuna.samplers.TPESampler(seed=0)
    study = optuna.create_study(storage=storage, study_name="lr", sampler=sampler, load_if_exists=True)
    asked = []
    for _ in range(5):
        trial = study.ask()
        asked.append(trial.suggest_float("lr", 1e-3, 1, log=True))
        study.tell(trial, asked[-1])
    return asked


first, second = session(), session()
print("seen:", [round(value, 4) for value in first], "then", [round(value, 4) for value in second])
raise SystemExit(0 if first == second else 1)
PYTHON
