"""Estimates without labels: what belongs together, the calibrated interval, warnings, the study, and bad input."""

from __future__ import annotations

import csv
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import tiny_raw
from synthetic import NAMES, made

from cifar_small.config.hashing import config_dict
from cifar_small.config.loading import parse_config
from cifar_small.config.schema import Data
from cifar_small.data import load_test, load_unlabelled, write_unlabelled
from cifar_small.errors import DataError, UserError
from cifar_small.evaluation import estimate as estimate_module
from cifar_small.evaluation.calibrate import Judged, Trial, calibrate, fit, judge
from cifar_small.evaluation.compare import compare
from cifar_small.evaluation.entries import load_entries
from cifar_small.evaluation.estimate import DEFAULT, DropCalibration, RunEstimate, as_validation, estimate, scale
from cifar_small.figures.estimate import draw_study
from cifar_small.files import sha256_file
from cifar_small.inference.ensemble import combine
from cifar_small.metrics.classification import wilson_interval
from cifar_small.metrics.estimators import ESTIMATORS, agreement_line
from cifar_small.reporting.estimate_files import describe_estimation, estimation_record, load_calibration, study_tables
from cifar_small.reporting.page import _tables as page_tables
from cifar_small.runs.estimation import load_estimation
from cifar_small.runs.predictions import Predictions, load_predictions
from cifar_small.runs.records import DataFacts, ShiftFacts

DOC = DropCalibration("doc", 1.0, 2.0, 2000, "a test")


def net(number: int, sharpness: float, count: int = 1500, *, images: int = 0, **meta: Any) -> Predictions:
    """Predictions whose softmax is the truth, by a net of this number; images: which set, so that nets see the same labels."""
    rng, noise = np.random.default_rng([images, count]), np.random.default_rng([images, number])
    labels = rng.integers(0, 10, count)
    logits = noise.normal(0, 1, (count, 10))
    logits[np.arange(count), labels] += sharpness + noise.normal(0, 2, count)
    facts = {"split": "val", "images_sha256": str(images) * 8, "weights_sha256": f"w{number}", "views": "none"}
    one = made(labels, labels=labels, **facts | meta)
    return replace(one, logits=logits.astype(np.float32)).with_meta(file=f"{one.meta.split}{number}.npz")


def file_of(number: int, sharpness: float = 2.5, **meta: Any) -> Predictions:
    return net(number, sharpness, 1000, images=1, split="submit", **meta)


def test_runs_are_matched_by_what_made_them_and_labels_of_the_file_play_no_part() -> None:
    vals, files = [net(number, 4) for number in range(3)], [file_of(number) for number in range(3)]
    found = estimate(files, vals[::-1], DOC)
    assert [run.val.meta.file for run in found.runs] == ["val0.npz", "val1.npz", "val2.npz"]
    assert set(found.runs[0].raw) == {"confidence", "atc", "doc", "agreement", "bbse"}
    unlabelled = estimate([replace(one, labels=None) for one in files], vals, DOC)
    wrong = estimate([replace(one, labels=(one.labels + 1) % 10) for one in files if one.labels is not None], vals, DOC)
    assert [run.raw for run in found.runs] == [run.raw for run in unlabelled.runs] == [run.raw for run in wrong.runs]
    truth = files[0].accuracy
    assert vals[0].accuracy - truth > 0.1
    assert abs(found.runs[0].accuracy - truth) < (vals[0].accuracy - truth) / 2


def test_predictions_in_another_order_are_joined_by_id() -> None:
    vals, files = [net(number, 4) for number in range(3)], [file_of(number) for number in range(3)]
    order = np.random.default_rng(0).permutation(1000)
    moved = replace(files[1], ids=files[1].ids[order], logits=files[1].logits[order], labels=None)
    assert estimate([files[0], moved, files[2]], vals, DOC).runs[1].raw == estimate(files, vals, DOC).runs[1].raw


def test_slope_and_interval_by_hand() -> None:
    calibration = DropCalibration("doc", 1.5, 2.0, 2000, "")
    accuracy, low, high = calibration.apply(raw=0.80, val_accuracy=0.90, images=2000, val_images=5000)
    assert (accuracy, low, high) == pytest.approx((0.75, 0.75 - 2 * 0.025, 0.75 + 2 * 0.025))
    assert scale(0.15) == scale(-0.15) == pytest.approx(0.025)
    small = calibration.apply(0.80, 0.90, 100, 5000)
    chances = [(1 - 100 / 2000) * (0.75 - end) ** 2 for end in wilson_interval(75, 100)]
    assert small[1:] == pytest.approx((0.75 - (0.05**2 + chances[0]) ** 0.5, 0.75 + (0.05**2 + chances[1]) ** 0.5))
    assert calibration.apply(1.0, 1.0, 10, 5000)[1] < 0.75  # ten right of ten say little: 0.722 by Wilson
    few = calibration.apply(0.80, 0.90, 2000, 200)
    ends = wilson_interval(180, 200)
    distances = [(0.05**2 + (1 - 200 / 5000) * (0.90 - end) ** 2) ** 0.5 for end in ends]
    assert few == pytest.approx((0.75, 0.75 - distances[0], 0.75 + distances[1]))
    assert calibration.apply(0.80, 0.90, 50_000, 50_000) == (accuracy, low, high)  # more than the study's promise nothing
    assert calibration.apply(0.0, 0.90, 2000, 5000)[:2] == (0, 0)
    assert calibration.apply(1.0, 0.99, 2000, 5000)[2] == 1


def test_the_interval_holds_the_truth_also_where_val_is_small() -> None:
    """Of nets that are right in 95 % of the images of val and of the file, so that val's own error is all there is."""
    random, calibration = np.random.default_rng(0), DropCalibration("doc", 1.0, 1.0, 10_000, "")
    vals = random.binomial(100, 0.95, size=2000) / 100
    intervals = np.array([calibration.apply(val, val, 10_000, 100) for val in vals])
    assert ((intervals[:, 1] <= 0.95) & (intervals[:, 2] >= 0.95)).mean() > 0.93  # 69 % where val's size was left out


def test_the_interval_of_a_calibration_on_val_itself_holds_for_a_new_file() -> None:
    """What val's images have by chance is in the shifted ones too, and in no error that the width comes from."""
    random, calibration = np.random.default_rng(0), DropCalibration("doc", 1.0, 0.1, 5000, "", 5000, base="val")
    pairs = random.binomial([5000, 1000], 0.9, size=(2000, 2)) / [5000, 1000]
    intervals = np.array([calibration.apply(val, val, 1000, 5000) for val, _ in pairs])
    assert ((intervals[:, 1] <= pairs[:, 1]) & (intervals[:, 2] >= pairs[:, 1])).mean() > 0.94
    larger = replace(calibration, images=1000, base="test")
    assert larger.apply(0.9, 0.9, 1000, 5000)[1] > calibration.apply(0.9, 0.9, 1000, 5000)[1]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda files, vals: (files, vals[1:]), "submit0.npz was made by net .*, views none; none of the 2 val files was"),
        (lambda files, vals: ([files[0], file_of(1, images_sha256="x")], vals), "are predictions of different images"),
        (lambda files, vals: ([replace(files[0], classes=NAMES[::-1]), *files[1:]], vals), "the same classes in another order"),
        (lambda files, vals: (files, [replace(vals[0], classes=(*NAMES[:9], "lorry")), *vals[1:]]), "have other classes"),
        (lambda files, vals: ([*files, files[0]], vals), "the same weights with the same views stand twice"),
        (lambda files, vals: (files, [vals[0].with_meta(split="test"), *vals[1:]]), "val0.npz is of split test; expected val"),
        (
            lambda files, vals: (files, [replace(vals[0], labels=np.minimum(vals[0].labels, 8)), *vals[1:]]),
            "val0.npz has no image of truck; expected some of every class",
        ),
    ],
)
def test_what_does_not_belong_together_is_refused(change: Callable[..., Any], line: str) -> None:
    vals, files = [net(number, 4) for number in range(3)], [file_of(number) for number in range(3)]
    with pytest.raises(UserError, match=line) as caught:
        estimate(*change(files, vals), DOC)
    assert "\n" not in str(caught.value)


def test_one_run_has_no_agreement_and_says_so() -> None:
    found = estimate([file_of(0)], [net(0, 4)], DOC)
    assert "agreement" not in found.runs[0].raw
    assert found.notes == ("agreement needs at least 3 runs, and here is 1",)
    with pytest.raises(UserError, match="agreement, which was calibrated, gives no estimate here: agreement needs"):
        estimate([file_of(0)], [net(0, 4)], DropCalibration("agreement", 1.0, 2.0, 2000, ""))


def test_runs_with_different_val_images_have_no_agreement() -> None:
    vals = [net(0, 4), net(1, 4), net(2, 4, images=3)]
    assert estimate([file_of(number) for number in range(3)], vals, DOC).notes == (
        "agreement needs the same val images of all runs, and these differ",
    )


def test_a_far_file_and_a_file_of_few_classes_are_warned_of() -> None:
    val = net(0, 5)
    assert estimate([file_of(0, 4.6)], [val], DOC).warnings == ()
    far = estimate([file_of(0, 1)], [val], DOC).warnings
    assert any("trust no estimate" in line for line in far)
    file = file_of(0, 4.6)
    few = (file.labels < 3) if file.labels is not None else np.zeros(0, bool)
    part = replace(file, ids=file.ids[few], logits=file.logits[few], labels=None)
    assert any(
        "class shares seem to differ" in line and "label shift" in line for line in estimate([part], [val], DOC).warnings
    )
    assert estimate([file], [val], DOC, ["copies of train: 7"]).warnings[0] == "copies of train: 7"


def test_estimators_that_disagree_and_val_that_chose_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    (run,), val = estimate([file_of(0)], [net(0, 4)], DOC).runs, as_validation(net(0, 4))
    scores = val.score(file_of(0).logits)

    def warned(run: RunEstimate, calibration: DropCalibration = DOC) -> list[str]:
        return estimate_module._warnings([run], [val], [scores], calibration, [])

    assert warned(replace(run, raw={"doc": 0.8, "atc": 0.81})) == []
    apart = warned(replace(run, raw={"doc": 0.9, "atc": 0.2}))
    assert any("the estimators lie 70.0 points apart" in line and "some assumption fails" in line for line in apart)
    agreed, drop = replace(run, raw={"doc": 0.8, "atc": 0.81}), run.val.accuracy - run.accuracy
    for largest, said in ((drop - 0.01, True), (drop + 0.01, False)):
        lines = warned(agreed, replace(DOC, largest=largest))
        assert any("that the calibration has seen: calibrate on stronger shifts" in line for line in lines) is said
    assert warned(agreed, DEFAULT) == []
    of_digits = replace(run.val, meta=run.val.meta.updated(data=DataFacts(source="digits")))
    (line,) = warned(replace(agreed, val=of_digits), DEFAULT)
    assert "comes from shifted images of cifar10; these nets were trained on other data (data.source digits): make" in line
    assert warned(replace(agreed, val=of_digits)) == []
    monkeypatch.setattr(estimate_module, "val_chose", lambda predictions: "its members")
    assert any("val chose its members, so its accuracy is optimistic" in line for line in warned(run))


def test_agreements_off_a_line_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    vals, files = [net(number, 4) for number in range(3)], [file_of(number) for number in range(3)]
    for square, said in ((0.99, False), (0.2, True)):
        line = agreement_line([as_validation(val) for val in vals], [as_validation(vals[0]).score(one.logits) for one in files])
        monkeypatch.setattr(estimate_module, "agreement_line", lambda *_, square=square, line=line: line._replace(fit=square))
        found = estimate(files, vals, DOC).warnings
        assert any(f"agreements do not lie on a line (R squared {square:.2f})" in one for one in found) is said


def trials(bias: float, spread: float, seed: int = 0) -> list[Trial]:
    """Estimators that say a share of the true drop, with noise: `doc` two thirds, `atc` all of it but noisier."""
    rng, found = np.random.default_rng(seed), []
    for family in ("noise", "blur", "jpeg"):
        for severity in range(1, 41):
            drop = rng.uniform(0, 0.25)
            facts = ShiftFacts(kind=family, severity=severity, family=family, base="val", base_sha256="x")
            raw = {"doc": 0.9 - drop / 1.5 + bias + rng.normal(0, spread), "atc": 0.9 - drop + rng.normal(0, 4 * spread)}
            found.append(Trial("run", facts, 2000, 5000, 0.9, 0.9 - drop, raw))
    return found


def test_the_slope_is_found_and_the_width_holds_the_asked_share() -> None:
    found = fit("doc", trials(0.0, 0.004))
    assert found.slope == pytest.approx(1.5, abs=0.03)
    known = trials(0.0, 0.004, seed=1)
    inside = [low <= one.truth <= high for one in known for _, low, high in [found.apply(one.raw["doc"], one.val, 2000, 5000)]]
    assert 0.88 <= np.mean(inside) <= 1
    judged = {name: judge(name, known, ["noise", "blur", "jpeg"]) for name in ("doc", "atc")}
    assert judged["doc"].scaled < judged["atc"].scaled < judged["doc"].plain
    assert judged["doc"].trials == sum(one.drop < 0.2 for one in known)


def test_a_family_is_judged_by_what_the_others_say() -> None:
    """One family obeys another slope: it is judged badly, which fitting on it would hide."""
    known = trials(0.0, 0.0)
    odd = [
        replace(one, raw={**one.raw, "doc": one.val - one.drop / 3}) if one.shift.family == "noise" else one for one in known
    ]
    near = [one for one in odd if one.shift.family == "noise" and one.drop < 0.2]
    error = float(np.mean([abs(1.5 * one.drop / 3 - one.drop) for one in near]))
    assert judge("doc", odd, ["noise"]).scaled == pytest.approx(error, abs=0.003)


@pytest.fixture
def shifts(tmp_path: Path) -> Path:
    """Predictions of three nets on nine sets, as shift writes them, and of val."""
    folder = tmp_path / "shift"
    for family, harder in (("noise", 1.0), ("blur", 0.6), ("crop", 0.8)):
        for severity in range(1, 4):
            facts = ShiftFacts(kind=family, severity=severity, family=family, base="val", base_sha256="x")
            for number in range(3):
                meta = {"split": "shift", "shift": facts}
                one = net(number, 4 - harder * severity / 2, 500, images=2, **meta)
                one.save(folder / f"net{number}" / f"{facts.name}.npz")
    for number in range(3):
        net(number, 4).save(tmp_path / f"val{number}.npz")
    return folder


def test_the_study_chooses_by_its_table_and_keeps_the_untouched_out(shifts: Path) -> None:
    vals = [net(number, 4) for number in range(3)]
    study = calibrate(shifts, vals, ["crop"])
    assert len(study.trials) == 27
    assert study.chosen.method == study.judged[0].method
    assert [one.scaled for one in study.judged] == sorted(one.scaled for one in study.judged)
    assert study.untouched_kinds == ("crop",)
    assert {one.trials for one in study.untouched} == {sum(one.drop < 0.2 for one in study.trials if one.shift.kind == "crop")}
    alone = [one for one in study.trials if one.shift.kind != "crop"]
    best = next(one for one in study.judged if one.method == study.chosen.method)
    assert replace(fit(study.chosen.method, alone), held=round(best.told_covered, 3)) == study.chosen
    with pytest.raises(UserError, match="no predictions of the shift 'fog'"):
        calibrate(shifts, vals, ["fog"])
    with pytest.raises(DataError, match="net2 has no predictions of val with the same weights and views"):
        calibrate(shifts, vals[:2])
    with pytest.raises(UserError, match=r"shifts of 1 families on which .* less than 20 points below .*; expected at least 2"):
        calibrate(shifts, vals, ["crop", "blur"])


def test_the_mean_of_the_estimators_is_judged_and_never_chosen(shifts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file of one run has it, so `estimate` could not be calibrated by it."""

    def flattered(method: str, *more: Any) -> Judged:
        found = judge(method, *more)
        return replace(found, scaled=0.0) if method == "mean" else found

    monkeypatch.setattr("cifar_small.evaluation.calibrate.judge", flattered)
    study = calibrate(shifts, [net(number, 4) for number in range(3)])
    assert study.judged[0].method == "mean"
    assert study.chosen.method == study.judged[1].method


def test_runs_that_saw_other_images_are_not_compared_with_each_other(shifts: Path) -> None:
    """One set of one run is of other images, or the runs held out other images: agreement is not asked, and nothing raises."""
    vals = [net(number, 4) for number in range(3)]
    assert "agreement" in {one.method for one in calibrate(shifts, vals).judged}
    odd = [*vals[:2], net(2, 4, 1400, images=7)]
    assert "agreement" not in {one.method for one in calibrate(shifts, odd).judged}
    (shifts / "net2" / "crop-1.npz").unlink()
    facts = ShiftFacts(kind="crop", severity=1, family="crop", base="val", base_sha256="y")
    net(2, 3.6, 400, images=3, split="shift", shift=facts).save(shifts / "net2" / "crop-1.npz")
    study = calibrate(shifts, vals, ["crop"])
    assert {one.method for one in study.judged} == {"confidence", "atc", "doc", "bbse", "mean"}
    assert len(draw_study(study).axes) >= 4


def ruined(shifts: Path, family: str) -> None:
    """Predictions of a family become guesses, far below val."""
    for path in shifts.glob(f"*/{family}-*.npz"):
        one = load_predictions(path)
        replace(one, logits=np.roll(one.logits, 1, axis=0)).save(path)


def test_untouched_kinds_and_families_that_are_all_too_hard_are_said_not_raised(shifts: Path) -> None:
    vals = [net(number, 4) for number in range(3)]
    ruined(shifts, "crop")
    study = calibrate(shifts, vals, ["crop"])
    assert (study.untouched, study.untouched_kinds) == ((), ("crop",))
    (table,) = study_tables(study)
    assert table.notes[-1] == "untouched: crop: all 20 points or more below val, so not judged"
    whole, chosen = calibrate(shifts, vals).chosen, study.chosen
    assert replace(whole, held=chosen.held) == chosen  # left out by hand or for being far: the same, but for what it held
    assert (whole.held, chosen.held) == (pytest.approx(2 / 3, abs=0.001), 1.0)
    ruined(shifts, "blur")
    with pytest.raises(UserError, match="shifts of 1 families"):
        calibrate(shifts, vals)


@pytest.mark.parametrize("untouched", [[], ["crop"]])
def test_the_picture_of_a_study_shows_every_trial_once(shifts: Path, untouched: list[str]) -> None:
    study = calibrate(shifts, [net(number, 4) for number in range(3)], untouched)
    many = [replace(trial, shift=trial.shift.updated(family=f"f{number}")) for number, trial in enumerate(study.trials)]
    for trials in (study.trials, tuple(many)):  # more families than colors, too
        first, *others, _ = draw_study(replace(study, trials=trials)).axes
        for axes in (first, *others):
            drawn = [value for line in axes.lines[1:] for value in line.get_xdata()]
            assert sorted(drawn) == pytest.approx(sorted(100 * trial.truth for trial in trials))
        styles = [(line.get_marker(), line.get_color()) for line in first.lines[1:]]
        assert len(set(styles)) == len(styles)


def test_commands_write_the_calibration_the_record_and_one_line_for_what_is_wrong(
    shifts: Path, tmp_path: Path, said: Callable[..., tuple[int, str, str]]
) -> None:
    vals = [tmp_path / f"val{number}.npz" for number in range(3)]
    code, out, _ = said("calibrate", shifts, "--untouched", "crop", "--val", *vals)
    assert code == 0
    assert "chosen: " in out
    assert {path.name for path in shifts.glob("calibration.*")} == {
        f"calibration.{kind}" for kind in ("json", "csv", "md", "png")
    }
    rows = (shifts / "calibration.csv").read_text().splitlines()
    assert len(rows) == 28
    for number in range(3):
        file_of(number).save(tmp_path / f"file{number}.npz")
    files = [tmp_path / f"file{number}.npz" for number in range(3)]
    record = tmp_path / "estimate.json"
    words = ["estimate", *files, "--val", *vals, "--calibration", shifts / "calibration.json", "--output", record]
    code, out, _ = said(*words)
    assert code == 0
    plain = json.loads(record.read_text())
    assert plain["looked_at"] == {"source": "file.pkl", "images": 1000, "images_sha256": "1" * 8}
    assert plain["labels_of_the_file"] == "not used"
    assert plain["calibration"]["study"] == str(shifts / "calibration.json")
    assert load_estimation(record).by_maker().keys() == {file_of(number).meta.maker for number in range(3)}
    assert load_calibration(shifts / "calibration.json").method in out
    code, _, err = said(*words)
    assert (code, err.count("\n")) == (2, 1)
    assert "add --overwrite" in err
    replace(file_of(0), labels=None).save(tmp_path / "bare.npz")
    code, _, err = said("calibrate", shifts, "--val", tmp_path / "bare.npz", *vals, "--output", tmp_path / "x")
    assert (code, err.count("\n")) == (3, 1)
    assert "bare.npz is of split submit and has no labels; expected val, with labels" in err
    code, _, err = said("estimate", files[0], "--val", *vals, "--calibration", rows_file(tmp_path), "--output", tmp_path / "x")
    assert (code, err.count("\n")) == (3, 1)
    assert "is not a calibration" in err
    broken = replace(file_of(0), logits=np.zeros((1000, 10), np.float32))
    np.savez(tmp_path / "nan.npz", **{**dict(np.load(files[0])), "logits": np.full_like(broken.logits, np.nan)})
    code, _, err = said("estimate", tmp_path / "nan.npz", "--val", *vals, "--output", tmp_path / "x")
    assert (code, err.count("\n")) == (3, 1)
    assert "1,000 of 1,000 images have NaN" in err
    assert not (tmp_path / "x").exists()


def rows_file(folder: Path) -> Path:
    path = folder / "other.json"
    path.write_text('{"chosen": {"method": "luck", "slope": 1, "width": 1, "images": 5, "study": ""}}')
    return path


def test_the_default_is_what_the_study_chose_and_its_table_gives_it_again() -> None:
    folder = Path(__file__).resolve().parents[2] / "submissions" / "studies" / "estimate"
    plain = json.loads((folder / "calibration.json").read_text())
    assert replace(DEFAULT, study="", held=None) == DropCalibration(**plain["chosen"])
    used = []
    for row in csv.DictReader((folder / "calibration.csv").read_text().splitlines()):
        if row["kind"] not in plain["untouched_kinds"]:
            names = {"kind": row["kind"], "severity": int(row["severity"]), "family": row["family"]}
            facts = ShiftFacts(**names, base="test", base_sha256="x")
            raw = {name: float(row[name]) for name in ("doc", "atc")}
            used.append(Trial(row["run"], facts, int(row["images"]), 5000, float(row["val"]), float(row["truth"]), raw))
    again = fit(DEFAULT.method, used)
    assert again.slope == pytest.approx(DEFAULT.slope, abs=0.011)
    assert again.width == pytest.approx(DEFAULT.width, abs=0.05)
    best = next(one for one in plain["judged"] if one["method"] == DEFAULT.method)
    families = sorted({one.shift.family for one in used} - {"clean"})
    judged = judge(DEFAULT.method, used, families)
    assert (judged.trials, judged.scaled) == (best["trials"], pytest.approx(best["scaled"], abs=0.0003))
    assert (judged.told, judged.told_covered) == (528, pytest.approx(DEFAULT.held, abs=0.0005))
    assert ESTIMATORS[DEFAULT.method].runs == 1


@pytest.mark.parametrize(
    ("held", "base", "said"),
    [
        (None, "test", "the interval is made to hold 95% of truths (x)"),
        (
            0.875,
            "test",
            "held 87.5% on families of shifts that it was not fitted on, where it estimated a drop of at most 20",
        ),
        (0.875, "val", "of at most 20 points; of val's own images, so that on a new file it holds less (x)"),
    ],
)
def test_an_estimate_says_what_its_interval_held(held: float | None, base: str, said: str) -> None:
    found = estimate([file_of(0)], [net(0, 4)], replace(DOC, study="x", base=base, held=held))
    assert said in " ".join(describe_estimation(found).split())


def test_a_family_that_is_far_off_throughout_is_judged_where_its_estimates_are_near(tmp_path: Path) -> None:
    """Nobody who has no labels could leave it out."""
    near, far = trials(0.0, 0.005), trials(0.0, 0.005, seed=1)
    facts = ShiftFacts(kind="fog", severity=1, family="fog", base="val", base_sha256="x")
    far = [replace(one, shift=facts, truth=one.val - 0.5) for one in far]
    families = sorted({one.shift.family for one in near} - {"clean"})
    without, all_of_them = judge("atc", near, families), judge("atc", [*near, *far], [*families, "fog"])
    assert without.told_covered is not None
    assert all_of_them.told_covered is not None
    assert (without.trials, without.scaled) == (all_of_them.trials, pytest.approx(all_of_them.scaled))
    assert all_of_them.told > without.told
    assert all_of_them.told_covered < without.told_covered - 0.2


def record_of(folder: Path, vals: list[Predictions], files: list[Predictions]) -> Path:
    path = folder / "estimate.json"
    path.write_text(json.dumps(estimation_record(estimate(files, vals, DOC), "a command").plain()))
    return path


def test_a_comparison_shows_the_estimate_beside_val(tmp_path: Path, said: Callable[..., tuple[int, str, str]]) -> None:
    vals, files = [net(number, 4) for number in range(2)], [file_of(number) for number in range(2)]
    for number, val in enumerate(vals):
        val.save(tmp_path / f"net{number}.npz")
    record = record_of(tmp_path, vals, files[:1])
    words = ["compare", tmp_path / "net0.npz", tmp_path / "net1.npz", "--estimate", record]
    code, out, _ = said(*words)
    assert code == 0
    found = estimate(files[:1], vals, DOC).runs[0]
    assert f"{100 * found.accuracy:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]" in out
    assert "Expected on the file without labels" not in said(*words[:-2])[1]
    said(*words, "--output", tmp_path / "all.csv")
    first, second = csv.DictReader((tmp_path / "all.csv").read_text().splitlines()[:3])
    assert float(first["estimate"]) == pytest.approx(found.accuracy)
    assert second["estimate"] == ""
    code, _, err = said(*words[:2], "--estimate", record_of(tmp_path, vals, files[1:]))
    assert (code, err.count("\n")) == (2, 1)
    assert "the estimate is of none of these entries with these views" in err
    code, _, err = said(*words[:-1], tmp_path / "all.csv")
    assert (code, err.count("\n")) == (3, 1)
    assert "all.csv is not JSON; expected what estimate wrote" in err


def test_warnings_are_of_the_file_that_was_predicted(tmp_path: Path, said: Callable[..., tuple[int, str, str]]) -> None:
    val, file = net(0, 4), replace(file_of(0), labels=None)
    val.save(tmp_path / "val.npz")
    file.save(tmp_path / "submit.npz")
    write_unlabelled(tmp_path / "other.pkl", np.zeros((20, 32, 32, 3), np.uint8), np.arange(20))
    words = ["estimate", tmp_path / "submit.npz", "--val", tmp_path / "val.npz", "--output", tmp_path / "estimate.json"]
    code, _, err = said(*words, "--images", tmp_path / "other.pkl")
    assert (code, err.count("\n")) == (3, 1)
    assert "other.pkl holds other images than submit.npz predicts; name the file predicted" in err
    code, _, err = said(*words, "--layout", "CHW")
    assert (code, "--config, --data-root and --layout say how --images is read and compared" in err) == (2, True)
    rows = np.random.default_rng(0).integers(0, 256, (20, 3072), np.uint8)  # noise, whose layout cannot be told
    write = {b"data": rows, b"ids": np.arange(20)}
    (tmp_path / "rows.pkl").write_bytes(pickle.dumps(write))
    planes = load_unlabelled(tmp_path / "rows.pkl", layout="CHW", classes=file.classes)[0]
    file.with_meta(images_sha256=planes.sha256).save(tmp_path / "submit.npz")
    assert said(*words, "--images", tmp_path / "rows.pkl")[0] == 3
    code, _, err = said(*words, "--images", tmp_path / "rows.pkl", "--layout", "CHW")
    assert code == 0, err
    (tmp_path / "estimate.json").unlink()


def test_the_file_is_compared_with_what_the_net_was_trained_on(
    tmp_path: Path, said: Callable[..., tuple[int, str, str]]
) -> None:
    digits = load_test(Data(source="digits"))
    write_unlabelled(tmp_path / "file.pkl", digits.images[:20], np.arange(20))
    config = config_dict(parse_config(tiny_raw(rules={"rows": 20})))  # on digits, so that no CIFAR is looked for
    meta = {"config": config, "images_sha256": load_unlabelled(tmp_path / "file.pkl", classes=NAMES)[0].sha256}
    net(0, 4).save(tmp_path / "val.npz")
    replace(file_of(0).with_meta(**meta), labels=None).save(tmp_path / "submit.npz")
    words = ["estimate", tmp_path / "submit.npz", "--val", tmp_path / "val.npz", "--output", tmp_path / "estimate.json"]
    code, out, err = said(*words, "--images", tmp_path / "file.pkl")
    assert code == 0, err
    assert "copies of test: 20 exact and 0 near copies" in out


def three_classes(seed: int, file: np.ndarray, val: np.ndarray) -> tuple[Predictions, Predictions]:
    """Predictions of a file and of 150 images of val, 50 of each class, by a net of this seed."""
    facts = {"classes": ("a", "b", "c"), "seed": seed, "weights_sha256": str(seed)}
    known = made(val, labels=np.repeat(np.arange(3), 50), split="val", images_sha256="v" * 64, **facts)
    return made(file, **facts), known


def test_shifted_classes_are_seen_by_whichever_run_sees_them() -> None:
    val, file = np.repeat(np.arange(3), 50), np.repeat(np.arange(3), (120, 15, 15))
    val[::7] = (val[::7] + 1) % 3
    good, collapsed = three_classes(1, file, val), three_classes(2, file % 2, val % 2)  # which never says c
    for runs in ((good, collapsed), (collapsed, good)):
        found = estimate([one for one, _ in runs], [known for _, known in runs], DOC)
        (line,) = (line for line in found.warnings if "class shares" in line)
        assert "seem by net (seed 1) to differ" in line
        assert any("bbse is not determined: on val a class is never predicted, or the" in note for note in found.notes)


def test_runs_that_agree_equally_often_are_on_no_line() -> None:
    runs = []
    for seed in range(3):
        answers = np.repeat(np.arange(3), 50)
        answers[5 * seed : 5 * seed + 5] = (answers[5 * seed : 5 * seed + 5] + 1) % 3
        runs.append(three_classes(seed, answers, answers))
    found = estimate([one for one, _ in runs], [known for _, known in runs], DOC)
    assert "all runs agree equally often on the file, so whether agreements lie on a line cannot be told" in found.warnings
    assert "nan" not in " ".join(found.warnings)


def test_a_calibration_on_test_images_is_said_to_be_one() -> None:
    shown = describe_estimation(estimate([file_of(0)], [net(0, 4)], DEFAULT))
    assert "fitted on labels of shifted test images" in shown
    assert "fitted on labels of shifted test images" not in describe_estimation(estimate([file_of(0)], [net(0, 4)], DOC))
    of_test = [replace(one, shift=one.shift.updated(base="test")) for one in trials(0.0, 0.01)]
    assert fit("doc", of_test).base == "test"


def test_a_submission_chosen_by_its_estimate_says_so(tmp_path: Path, said: Callable[..., tuple[int, str, str]]) -> None:
    vals = [net(number, 4) for number in range(2)]
    files = [replace(file_of(number), labels=None) for number in range(2)]
    files[0].save(tmp_path / "submit.npz")
    record = record_of(tmp_path, vals, files)
    words = ["submit", tmp_path / "submit.npz", "--output", tmp_path / "mine" / "mine.csv"]
    assert said(*words, "--estimate", record)[0] == 0
    found = estimate(files, vals, DOC).runs
    kept = json.loads((tmp_path / "mine" / "mine.json").read_text())["estimate"]
    assert kept["estimate"] == pytest.approx(found[0].accuracy)
    assert (kept["runs"], kept["highest"]) == (2, found[0].accuracy >= found[1].accuracy)
    assert kept["sha256"] == sha256_file(record)
    assert said(*words, "--overwrite")[0] == 0
    assert "estimate" not in json.loads((tmp_path / "mine" / "mine.json").read_text())
    alone = record_of(tmp_path, vals, files[1:])
    code, _, err = said(*words, "--overwrite", "--estimate", alone)
    assert (code, err.count("\n")) == (3, 1)
    assert "has no estimate of net" in err


def test_an_ensemble_is_estimated_like_a_run() -> None:
    vals, files = [net(number, 4) for number in range(2)], [file_of(number) for number in range(2)]
    both = [combine(members) for members in (vals, files)]
    found = estimate([files[0], both[1]], [both[0], *vals], DOC)
    assert found.runs[1].val.accuracy == both[0].accuracy > vals[0].accuracy
    assert found.runs[1].accuracy > found.runs[0].accuracy


def test_the_page_has_the_table_of_estimates(tmp_path: Path) -> None:
    vals, files = [net(number, 4) for number in range(2)], [file_of(number) for number in range(2)]
    for number, val in enumerate(vals):
        val.save(tmp_path / f"net{number}.npz")
    entries = load_entries([str(tmp_path / f"net{number}.npz") for number in range(2)])
    known = load_estimation(record_of(tmp_path, vals, files)).by_maker()
    titles = [[table.title for table in page_tables(compare(entries, estimates=given))] for given in (None, known)]
    assert titles == [["Side by side"], ["Side by side", "Expected on the file without labels"]]
