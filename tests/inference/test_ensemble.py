"""Ensembles: the mean of logits, joined by id, of members that are of the same images and really different."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import tiny_raw
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from synthetic import NAMES, made

from cifar_small.cli.main import main
from cifar_small.config.schema import Rules
from cifar_small.config.strict_yaml import dump_yaml
from cifar_small.errors import DataError
from cifar_small.evaluation.entries import val_chose
from cifar_small.inference.blend import blend
from cifar_small.inference.ensemble import Verdict, combine, find_val, judge, match_val, on_shared_images
from cifar_small.runs.predictions import Predictions, load_predictions
from cifar_small.runs.records import PredictionsMeta, parse


def small(logits: Any, ids: Any = (10, 11), **meta: Any) -> Predictions:
    facts = {"name": "a", "seed": 0, "parameters": 5, "images_sha256": "i", "rules": {}, "split": "submit"}
    known = parse(PredictionsMeta, {**facts, **meta}, "small")
    return Predictions(np.array(ids), np.array(logits, np.float32), None, ("x", "y"), known)


def test_mean_by_hand_joined_by_id() -> None:
    first = small([[1, 2], [3, 4]], [10, 11])
    second = small([[30, 10], [7, 5]], [11, 10])  # the other order
    third = small([[-2, 0.5], [0, 1]], [10, 11])
    joined = combine([first, second, third])
    assert joined.ids.tolist() == [10, 11]
    assert joined.logits.dtype == np.float32
    assert joined.logits.tolist() == [[2.0, 2.5], [11.0, 5.0]]
    assert joined.predicted.tolist() == [1, 0]


def test_parameters_are_listed_and_summed() -> None:
    members = [made(seed=seed, parameters=100 + seed, val_accuracy=0.5, sha256=f"s{seed}") for seed in (1, 2, 3)]
    meta = combine(members).meta
    assert meta.parameters == 306
    assert [member.parameters for member in meta.members] == [101, 102, 103]
    assert [member.sha256 for member in meta.members] == ["s1", "s2", "s3"]
    assert meta.name == "mean of logits: net (seed 1), net (seed 2), net (seed 3)"
    for key in ("rules", "images_sha256", "source", "split"):
        assert getattr(meta, key) == getattr(members[0].meta, key)


def test_labels_are_kept_and_scored() -> None:
    joined = combine([made([1, 2, 3], labels=[1, 2, 0], seed=1), made([1, 0, 3], labels=[1, 2, 0], seed=2)])
    assert joined.labels is not None
    assert joined.labels.tolist() == [1, 2, 0]


NOISE = hnp.arrays(np.float32, (3, 4, 2), elements=st.integers(-1000, 1000).map(float))


@settings(deadline=None, max_examples=60)
@given(NOISE, st.permutations(range(3)), st.permutations(range(4)))
def test_order_of_members_and_of_rows_does_not_matter(logits: np.ndarray, members: list[int], rows: list[int]) -> None:
    logits = logits + np.arange(3, dtype=np.float32)[:, None, None] * 4096  # so that no two are equal
    ids = np.array([3, 0, 9, 4])
    plain = combine([small(one, ids) for one in logits])
    # only the first member keeps its rows: its order is the ensemble's
    shuffled = combine([small(logits[members[0]], ids), *(small(logits[number][rows], ids[rows]) for number in members[1:])])
    assert shuffled.ids.tolist() == plain.ids.tolist()
    assert shuffled.logits.tobytes() == plain.logits.tobytes()


@settings(deadline=None, max_examples=60)
@given(NOISE)
def test_mean_lies_between_its_members_and_of_nearly_equal_ones_is_the_member(logits: np.ndarray) -> None:
    logits = logits + np.arange(3, dtype=np.float32)[:, None, None] / 1024
    joined = combine([small(one, range(4)) for one in logits]).logits
    assert (joined >= logits.min(0)).all()
    assert (joined <= logits.max(0)).all()
    base = logits[0]
    near = [small(base + offset, range(4)) for offset in np.float32([-0.25, 0.25])]
    assert np.array_equal(combine(near).logits, base)


def test_ensemble_of_one_or_none_is_refused() -> None:
    with pytest.raises(DataError, match="needs at least two predictions files, got 1"):
        combine([made()])
    with pytest.raises(DataError, match="got 0"):
        combine([])


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (made(ids=[0, 1, 3], seed=2), r"b\.npz has other ids than .*a\.npz"),
        (made([3, 1], seed=2), r"b\.npz has other ids than .*a\.npz"),
        (made([3, 1, 4, 4], seed=2), r"b\.npz has other ids than .*a\.npz"),
        (made(classes=NAMES[::-1], seed=2), "the same classes in another order, first truck and airplane in place 0; the same"),
        (made(classes=(*NAMES, "extra"), seed=2), "other classes: extra in the one alone, none in the other; the same names"),
        (made(classes=(*NAMES[:-1], "lorry"), seed=2), "classes: lorry in the one alone, truck in the other; the same names"),
        (made(seed=2, images_sha256="0" * 64), r"b\.npz and .*a\.npz are of different images"),
        (made(seed=2, split="val"), r"b\.npz is of val, .*a\.npz of submit; the same split is needed"),
        (
            made(seed=2, rules={"max_params": 7}),
            r"b\.npz and .*a\.npz were trained under different rules \(.*params: 7 and",
        ),
        (made(seed=1), r"b\.npz and .*a\.npz have the same weights; leave one out"),
    ],
)
def test_members_that_do_not_belong_together_are_refused(second: Predictions, message: str) -> None:
    first = made(seed=1, file="a.npz")
    second = second.with_meta(file="b.npz")
    with pytest.raises(DataError, match=message):
        combine([first, second])


def test_the_rules_of_the_competition_stand_above_those_of_the_members(tmp_path: Path) -> None:
    first, second = made(seed=1, file="a.npz"), made(seed=2, file="b.npz", rules={**made().meta.rules, "max_params": 7})
    rules = Rules(max_params=9_000_000)
    for method in ("logits", "vote"):
        joined = combine([first, second], method, rules=rules)
        assert joined.meta.rules == rules.model_dump(mode="json")
        assert np.array_equal(joined.logits, combine([first, made(seed=2, file="b.npz")], method).logits)
    for one in (first, second):
        one.save(tmp_path / one.meta.file)
    files = [str(tmp_path / name) for name in ("a.npz", "b.npz")]
    assert main(["ensemble", *files, "--output", str(tmp_path / "c.npz")]) != 0
    (tmp_path / "rules.yaml").write_text(dump_yaml(tiny_raw(rules={"max_params": 9_000_000})))
    assert main(["ensemble", *files, "--output", str(tmp_path / "c.npz"), "--config", str(tmp_path / "rules.yaml")]) == 0
    assert load_predictions(tmp_path / "c.npz").meta.rules["max_params"] == 9_000_000


def test_a_duplicate_is_found_among_many() -> None:
    members = [made(seed=seed, file=f"{seed}.npz") for seed in (1, 2, 3, 2)]
    with pytest.raises(DataError, match=r"2\.npz and .*2\.npz have the same weights"):
        combine(members)


def test_a_duplicate_in_another_order_is_found() -> None:
    one = made(seed=1)
    rows = np.array([2, 0, 1])
    turned = Predictions(one.ids[rows], one.logits[rows], None, one.classes, one.meta)
    with pytest.raises(DataError, match="have the same weights"):
        combine([one, turned])


def test_members_with_other_labels_are_refused() -> None:
    with pytest.raises(DataError, match="labels"):
        combine([made(labels=[1, 2, 3], seed=1), made(labels=[3, 2, 1], seed=2)])


def test_a_member_with_nan_cannot_even_be_loaded(tmp_path: Path) -> None:
    good = made(seed=1)
    good.save(tmp_path / "good.npz")
    logits = good.logits.copy()
    logits[2, 5] = np.nan
    with np.load(tmp_path / "good.npz") as file:
        np.savez(tmp_path / "bad.npz", **{**file, "logits": logits})
    with pytest.raises(DataError, match=r"bad\.npz, of file\.pkl: 1 of 3 images have NaN or infinite logits, first ids \[2\]"):
        combine([load_predictions(tmp_path / name) for name in ("good.npz", "bad.npz")])


# -------------------------------------------------------------------------------------------------------- methods and weights

LABELS = np.arange(60) % 10


def right_on(part: slice, seed: int, **meta: Any) -> Predictions:
    """Of 60 labelled val images, those of `part` right."""
    wrong = (LABELS + 1) % 10
    wrong[part] = LABELS[part]
    return made(wrong, labels=LABELS, seed=seed, **{"split": "val", "images_sha256": "v" * 64, "sha256": f"val{seed}", **meta})


SUBMIT = [
    made([3, 1, 4, 1], seed=seed, parameters=1000 * seed, sha256=f"submit{seed}", file="submit.npz") for seed in (1, 2, 3)
]
# The first is right almost everywhere, the second on the rest, the third nowhere.
VAL = [right_on(slice(0, 50), 1), right_on(slice(45, 60), 2), right_on(slice(0, 0), 3)]


@pytest.mark.parametrize("method", ["logits", "probabilities", "vote", "weighted", "greedy"])
def test_an_ensemble_can_be_made_again_from_its_meta(method: Any) -> None:
    joined = combine(SUBMIT, method, VAL)
    meta = joined.meta
    assert meta.method == method
    by_hash = {member.meta.sha256: member.logits for member in SUBMIT}
    logits = np.stack([by_hash[member.sha256] for member in meta.members])
    weights = np.array([member.weight for member in meta.members])
    assert weights.sum() == pytest.approx(1)
    assert blend(method, logits, weights).tobytes() == joined.logits.tobytes()
    assert meta.parameters == sum(member.parameters for member in meta.members)
    assert len(meta.members) + len(meta.left_out) == 3


@pytest.mark.parametrize("method", ["weighted", "greedy"])
def test_weights_come_from_val_and_a_useless_member_is_left_out(method: Any) -> None:
    joined = combine(SUBMIT, method, [VAL[2], VAL[0], VAL[1]])  # in any order
    first, second = (member.weight for member in joined.meta.members)
    assert first > second > 0
    assert [member.seed for member in joined.meta.members] == [1, 2]
    assert [member.seed for member in joined.meta.left_out] == [3]
    assert joined.meta.parameters == 3000
    assert joined.meta.name.endswith(f": net (seed 1) x {first:.3f}, net (seed 2) x {second:.3f}")
    assert joined.meta.fitted_on.plain() == {
        "split": "val",
        "images": 60,
        "images_sha256": "v" * 64,
        "predictions": ["val1", "val2", "val3"],
    }


def held_out(seed: int, ids: list[int], predicted: list[int], **meta: Any) -> Predictions:
    data = {"source": "digits", "sha256": "d", "val_sha256": str(len(ids))}
    facts = {"split": "val", "images_sha256": f"val of {len(ids)}", "data": data, **meta}
    return made(predicted, ids, labels=[image % 10 for image in ids], seed=seed, **facts)


def test_weights_are_fitted_on_the_images_that_all_members_held_out() -> None:
    """The second is wrong on the two shared images alone, the first on the one that it alone held out."""
    members = [made(seed=seed) for seed in (1, 2)]
    val = [held_out(1, [5, 3, 7], [0, 3, 7]), held_out(2, [7, 3, 8, 9], [8, 4, 8, 9])]
    joined = combine(members, "greedy", val)
    assert [member.weight for member in joined.meta.members] == [1.0]
    assert joined.meta.members[0].weights_sha256 == "1"
    assert joined.meta.fitted_on is not None
    assert joined.meta.fitted_on.images == 2
    on_val = combine(val, "greedy", val)
    assert on_val.ids.tolist() == [3, 7]
    assert on_val.meta.images_sha256 == joined.meta.fitted_on.images_sha256
    assert val_chose(on_val) == "the weights of its members"
    verdict = judge(combine(val), val)
    assert (verdict.images, verdict.best_accuracy) == (2, 1.0)
    same = [held_out(seed, [5, 3], [5, 3]) for seed in (1, 2)]
    assert all(one is other for one, other in zip(on_shared_images(same), same, strict=True))


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (held_out(2, [1, 2], [1, 2]), "share no image of val, so there is none that none of them was trained on"),
        (held_out(2, [3, 7], [3, 7], data={"source": "digits", "sha256": "other"}), "are of different images"),
        (held_out(2, [3, 7], [3, 7], data=None), "are of different images"),
    ],
)
def test_val_of_other_data_or_without_a_shared_image_is_refused(second: Predictions, message: str) -> None:
    with pytest.raises(DataError, match=message):
        combine([held_out(1, [5, 3, 7], [5, 3, 7]), second])


def test_what_is_not_fitted_says_so() -> None:
    meta = combine(SUBMIT, "vote").meta
    assert (meta.fitted_on, meta.left_out) == (None, [])
    assert meta.name.startswith("majority vote: net (seed 1), net")


@pytest.mark.parametrize(
    ("val", "message"),
    [
        (None, "method greedy fits the members' weights on val: give the val predictions of every member"),
        ([], r"net-seed0/submit\.npz has no val predictions .*; 3 of 3 members miss theirs"),
        (
            VAL[:2],
            r"net-seed0/submit\.npz has no val predictions by the same weights with the same views \(none\): predict",
        ),
        ([*VAL[:2], right_on(slice(0, 9), 3, views="flip")], "no val predictions by the same weights with the same views"),
        ([*VAL[:2], right_on(slice(0, 9), 4)], "no val predictions by the same weights"),
        ([*VAL[:2], right_on(slice(0, 9), 3, split="test")], "is of the split test; weights are fitted on val alone, never on"),
        ([*VAL[:2], made(seed=3, split="val")], "is of the split val; weights are fitted on val alone"),  # without labels
        ([*VAL[:2], right_on(slice(0, 9), 3, images_sha256="0" * 64)], "are of different images"),
    ],
)
def test_weights_are_fitted_on_every_members_own_val_or_not_at_all(val: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        combine(SUBMIT, "greedy", val)


def test_val_predictions_are_found_beside_the_members(tmp_path: Path) -> None:
    paths = []
    for seed, val in zip((1, 2, 3), VAL, strict=True):
        folder = tmp_path / f"run{seed}" / "predictions"
        right_on(slice(0, 60), seed, views="flip").save(folder / "val_flip.npz")  # of the same net, with other views
        made([3, 1, 4, 1], seed=seed).save(folder / "submit.npz")
        if seed < 3:
            val.save(folder / "val.npz")
        paths.append(folder / "submit.npz")
    members = [load_predictions(path) for path in paths]
    found = find_val(paths, members)
    assert [one.meta.seed for one in found] == [1, 2]
    assert [one.meta.views for one in found] == ["none", "none"]
    assert combine(members[:2], "weighted", found).meta.fitted_on.predictions == [one.meta.sha256 for one in found]


def test_an_ensemble_of_ensembles_knows_its_nets_and_its_val() -> None:
    def outer(nets: list[Predictions]) -> Predictions:
        return combine([combine(nets[:2], "probabilities"), nets[2]], "logits")

    assert [net.seed for net in outer(SUBMIT).meta.nets()] == [1, 2, 3]
    assert outer(SUBMIT).meta.parameters == 6000
    val = outer(VAL)
    assert match_val([outer(SUBMIT)], [val]) == [val]
    with pytest.raises(DataError, match="have the same weights"):
        combine([combine(SUBMIT[:2]), SUBMIT[1]])
    other = combine([combine(VAL[:2], "vote"), VAL[2]], "logits")
    other = other.with_meta(split="val")
    with pytest.raises(DataError, match="no val predictions"):
        match_val([outer(SUBMIT)], [other])


def test_verdict_by_hand() -> None:
    better = np.array([True] * 9 + [False] * 3)
    worse = np.array([True] * 3 + [False] * 8 + [True])
    verdict = Verdict.between("ensemble", better, "a (seed 1)", worse)
    assert (verdict.only_ours, verdict.only_best, verdict.p) == (6, 1, 2 * 8 / 128)
    assert str(verdict) == (
        "better than its best member by 41.67 points, which may be chance: 75.00% of 12 images against 33.33% of a (seed 1) "
        "(only the ensemble has 6 right, only that member 1; paired exact McNemar p = 0.125)"
    )
    assert str(Verdict.between("ensemble", np.repeat(better, 4), "a", np.repeat(worse, 4))).startswith(
        "better than its best member by 41.67 points: 75.00% of 48"
    )
    assert str(Verdict.between("soup", worse, "a", better)).startswith("no better than its best member: 33.33% of 12 images")
    assert str(Verdict.between("soup", worse, "a", worse)).startswith("no better than its best member")


def test_the_best_member_is_found_by_id() -> None:
    order = np.random.default_rng(0).permutation(60)
    first = VAL[0]
    turned = Predictions(first.ids[order], first.logits[order], LABELS[order], first.classes, first.meta)
    members = [VAL[2], VAL[1], turned]
    verdict = judge(combine(members, "vote"), members)
    assert verdict.best == "net (seed 1)"
    assert verdict.best_accuracy == 50 / 60
    # Two of three are wrong in the same way on images 0 to 44 and 50 to 59, so the vote is right on 45 to 49 alone.
    assert (verdict.accuracy, verdict.only_ours, verdict.only_best) == (5 / 60, 0, 45)
    assert str(verdict).startswith("no better than its best member: 8.33% of 60 images against 83.33% of net (seed 1)")


# -------------------------------------------------------------------------------------------------------------------- command


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """The submit predictions of three members, with the val predictions of each beside it."""
    paths = []
    for submit, val in zip(SUBMIT, VAL, strict=True):
        folder = tmp_path / f"run{submit.meta.seed}" / "predictions"
        submit.save(folder / "submit.npz")
        val.save(folder / "val.npz")
        paths.append(str(folder / "submit.npz"))
    return paths


def test_the_command_judges_on_val_what_has_no_labels(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(tmp_path / "all.npz")
    assert main(["ensemble", *files, "--method", "weighted", "--output", output]) == 0
    first, left_out, parameters, verdict = capsys.readouterr().out.splitlines()
    assert first.startswith("weighted mean of probabilities: net (seed 1) x 0.")
    assert first.endswith(f"-> {output}")
    assert left_out == "left out, with weight 0: net (seed 3)"
    assert parameters == "parameters 1,000 + 2,000 = 3,000, within the budget of 5,000,000"
    assert verdict.startswith(
        "on val, which fitted the weights: no better than its best member: 83.33% of 60 images against 83.33%"
    )
    assert load_predictions(output).meta.method == "weighted"
    assert main(["ensemble", *files, "--method", "vote", "--output", str(tmp_path / "vote.npz")]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("on val: no better than its best member: 8.33%")


def test_the_command_says_what_it_does_not_know(files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run2" / "predictions" / "val.npz").rename(tmp_path / "elsewhere.npz")
    assert main(["ensemble", *files, "--output", str(tmp_path / "a.npz")]) == 0
    assert "not compared with its best member; run predict --split val" in capsys.readouterr().out
    assert main(["ensemble", *files, "--method", "greedy", "--output", str(tmp_path / "b.npz")]) == 3
    assert "submit.npz has no val predictions" in capsys.readouterr().err
    assert not (tmp_path / "b.npz").exists()
    val = [str(path) for path in (tmp_path / "elsewhere.npz", *tmp_path.glob("run[13]/predictions/val.npz"))]
    assert main(["ensemble", *files, "--method", "greedy", "--val", *val, "--output", str(tmp_path / "b.npz")]) == 0


def test_members_that_held_out_no_common_image_are_combined_and_not_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vals = [held_out(1, [5, 3, 7], [0, 3, 7]), held_out(2, [1, 2], [1, 2]), held_out(2, [3, 7], [3, 4], name="other")]
    paths = []
    for seed, val in enumerate(vals, start=1):
        folder = tmp_path / f"run{seed}" / "predictions"
        one = val.meta
        made(seed=one.seed, name=one.name, weights_sha256=str(one.weights_sha256)).save(folder / "submit.npz")
        val.save(folder / "val.npz")
        paths.append(str(folder / "submit.npz"))
    assert main(["ensemble", *paths[:2], "--output", str(tmp_path / "a.npz")]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("not compared with its best member on val: ")
    assert "share no image of val" in last
    assert (tmp_path / "a.npz").exists()
    assert main(["ensemble", *paths[::2], "--output", str(tmp_path / "b.npz")]) == 0
    note, verdict = capsys.readouterr().out.splitlines()[-2:]
    told = "the members held out different images, 2 or 3 each; used of val: the 2 images that all of them held out"
    assert note == told
    assert verdict.startswith("on val: no better than its best member: ")
    of_val = [str(tmp_path / f"run{seed}" / "predictions" / "val.npz") for seed in (1, 3)]
    assert main(["ensemble", *of_val, "--output", str(tmp_path / "c.npz")]) == 0
    assert told in capsys.readouterr().out.splitlines()


def test_the_command_holds_the_sum_against_the_budget(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (1, 2):
        made([3, 1, 4], labels=[3, 1, 5], seed=seed, parameters=3_000_000, split="test").save(tmp_path / f"{seed}.npz")
    arguments = ["ensemble", str(tmp_path / "1.npz"), str(tmp_path / "2.npz"), "--output", str(tmp_path / "both.npz")]
    assert main(arguments) == 0
    _, parameters, verdict = capsys.readouterr().out.splitlines()
    assert parameters == (
        "parameters 3,000,000 + 3,000,000 = 6,000,000, 1,000,000 over the budget of 5,000,000, so it cannot be submitted; each "
        "member alone is within it"
    )
    assert verdict.startswith("no better than its best member: 66.67% of 3 images against 66.67% of net (seed 1)")


def test_runs_of_one_name_and_seed_are_told_apart_by_their_folders() -> None:
    members = [right_on(slice(0, 50), 1, name="a", run="x"), right_on(slice(45, 60), 2, name="a", run="y")]
    members = [member.with_meta(seed=0) for member in members]
    joined = combine([*members, VAL[2]])
    assert joined.meta.name == "mean of logits: a (seed 0, x), a (seed 0, y), net (seed 3)"
    assert judge(joined, [*members, VAL[2]]).best == "a (seed 0, x)"


def test_val_of_the_weights_is_not_that_of_their_int8_file(tmp_path: Path) -> None:
    onnx = {"file": "int8.onnx", "sha256": "8", "bytes": 1, "precision": "int8", "onnxruntime": "1", "threads": 1}
    facts = {"weights_sha256": "a", "views": "none"}
    members = [made(split="submit", **facts), made(split="submit", onnx=onnx, **facts)]
    for name, form in (("val.npz", {"onnx": onnx}), ("val_plain.npz", {})):
        made([1, 2, 3], labels=[1, 2, 3], split="val", **facts, **form).save(tmp_path / name)
    np.savez(tmp_path / "val_foreign.npz", images=np.zeros(3))  # nothing to do with predictions
    (tmp_path / "validation.npz").write_bytes(b"no archive")
    found = find_val([tmp_path / "submit.npz"] * 2, members)
    assert [one.meta.file for one in found] == ["val_plain.npz", "val.npz"]
    assert [one.meta.file for one in match_val(members, found)] == ["val_plain.npz", "val.npz"]
