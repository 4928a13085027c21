#!/usr/bin/env bash
# optuna 5.0.0: PercentilePruner(75.0) keeps 68 of 200 trials, not 151, and MedianPruner 33, not 102: a trial is held against those alone that were kept, so that the bar only rises; sweep/search.py takes the median of all
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet optuna==5.0.0 numpy==2.4.6 || exit 77
"$folder/venv/bin/python" - <<'PYTHON'
import random
from importlib.metadata import version
from statistics import mean

import optuna

TRIALS, STUDIES = 200, 6
optuna.logging.set_verbosity(optuna.logging.ERROR)


def kept(pruner: optuna.pruners.BasePruner, seed: int) -> int:
    """Trials that ran to their end, of which each is as likely as another to have any place among all after its first epoch."""
    drawn = random.Random(seed)

    def objective(trial: optuna.Trial) -> float:
        accuracy = drawn.random()
        trial.report(accuracy, 1)
        if trial.should_prune():
            raise optuna.TrialPruned
        return accuracy

    study = optuna.create_study(direction="maximize", pruner=pruner, sampler=optuna.samplers.RandomSampler(seed=seed))
    study.optimize(objective, n_trials=TRIALS)
    return len(study.get_trials(states=[optuna.trial.TrialState.COMPLETE]))


pruners = {
    "PercentilePruner(25.0)": (25, lambda: optuna.pruners.PercentilePruner(25.0)),
    "MedianPruner()": (50, optuna.pruners.MedianPruner),
    "PercentilePruner(75.0)": (75, lambda: optuna.pruners.PercentilePruner(75.0)),
}
expected = {name: 5 + share * (TRIALS - 5) / 100 for name, (share, _) in pruners.items()}  # the first 5 are never pruned
seen = {name: mean(kept(make(), seed) for seed in range(STUDIES)) for name, (_, make) in pruners.items()}
print("version:", {name: version(name) for name in ("optuna", "numpy")})
print(f"expected: of {TRIALS} trials about this many are kept:", {name: round(count) for name, count in expected.items()})
print("seen:", {name: round(count) for name, count in seen.items()}, f"on average over {STUDIES} studies")
raise SystemExit(0 if all(seen[name] < 0.5 * expected[name] for name in pruners) else 1)
PYTHON
