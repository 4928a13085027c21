"""Uncertainty: entropies against scipy and closed forms, dropout that acts alone, members joined by id, files that agree."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_raw
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import entropy
from synthetic import made

from cifar_small.config.loading import parse_config
from cifar_small.data import Images
from cifar_small.errors import CheckpointError, DataError
from cifar_small.evaluation.uncertainty import (
    Uncertainty,
    ensemble_uncertainty,
    entropies,
    monte_carlo,
    selective,
    trained_dropout,
)
from cifar_small.inference.ensemble import combine
from cifar_small.inference.predict import Net, load_net, load_own_splits, predict_images
from cifar_small.metrics.classification import log_softmax
from cifar_small.metrics.coverage import coverage_curve
from cifar_small.models import set_dropout
from cifar_small.reporting.uncertainty_files import FILES, describe_uncertainty, write_uncertainty
from cifar_small.runs.directory import Run
from cifar_small.runs.predictions import Predictions
from cifar_small.training.train import train

PHASES = [{"epochs": 1, "dropout": 0.3}, {"epochs": 1, "dropout": 0.2}]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(tmp_path_factory.mktemp("uncertainty") / "trained")
    train(parse_config(tiny_raw(phases=PHASES, selection="last")), run.folder, quiet=True)
    return run


@pytest.fixture
def net(trained: Run) -> Net:
    return load_net(trained)


@pytest.fixture(scope="module")
def val(trained: Run) -> Images:
    return load_own_splits(load_net(trained))[1]


# -------------------------------------------------------------------------------------------------------------- entropies


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(2, 9), st.sampled_from([0.1, 3.0, 200.0]), st.integers(0, 2**32 - 1))
def test_entropies_are_scipys(answers: int, count: int, classes: int, scale: float, seed: int) -> None:
    logits = (scale * np.random.default_rng(seed).standard_normal((answers, count, classes))).astype(np.float32)
    probabilities, predictive, expected = entropies(logits)
    own = np.exp(log_softmax(logits))
    assert np.allclose(probabilities, own.mean(axis=0))
    assert np.allclose(predictive, entropy(own.mean(axis=0), axis=1), atol=1e-9)
    assert np.allclose(expected, entropy(own, axis=2).mean(axis=0), atol=1e-9)
    information = predictive - expected  # the mean divergence of the answers from their mean, never below 0
    divergence = entropy(own, np.broadcast_to(own.mean(axis=0), own.shape), axis=2).mean(axis=0)
    assert np.allclose(information, divergence, atol=1e-6)
    assert (information >= -1e-9).all()
    assert (information <= math.log(answers) + 1e-9).all()


def test_entropies_in_closed_form() -> None:
    one, other, even = [50.0, -50.0], [-50.0, 50.0], [0.0, 0.0]
    probabilities, predictive, expected = entropies(np.array([[one, one, even], [other, one, even]]))
    assert probabilities == pytest.approx(np.array([[0.5, 0.5], [1, 0], [0.5, 0.5]]))
    assert predictive == pytest.approx([math.log(2), 0, math.log(2)])
    assert expected == pytest.approx([0, 0, math.log(2)])  # sure but at odds; sure; each unsure


# ---------------------------------------------------------------------------------------------------- Monte-Carlo dropout


def test_only_dropout_is_active_and_the_net_stays_as_it_was(net: Net, val: Images) -> None:
    before = {name: value.clone() for name, value in net.model.state_dict().items()}
    calls: list[set[tuple[str, bool]]] = []

    def note(module: torch.nn.Module, inputs: Any) -> None:
        calls.append({(type(one).__name__, one.training) for one in module.modules()})

    net.model.eval()
    with net.model.register_forward_pre_hook(note):
        monte_carlo(net, val, passes=2)
    batches = len(calls) // 3  # of two passes with dropout and one without
    for states in calls[: 2 * batches]:
        assert {name for name, training in states if training} == {"Dropout"}
        assert ("BatchNorm2d", False) in states
        assert ("Dropout", False) not in states
    assert not any(training for states in calls[2 * batches :] for _, training in states)
    assert all(torch.equal(value, before[name]) for name, value in net.model.state_dict().items())
    assert not any(module.training for module in net.model.modules())


def test_mean_of_the_logits_is_the_plain_answer(net: Net, val: Images) -> None:
    """Dropout stands before the last, linear layer here, so the mean over masks is the answer without any."""
    some = val.take(np.arange(20))
    set_dropout(net.model, 0.2)
    torch.manual_seed(0)
    passes = np.stack([predict_images(net, some, "none", dropout=True).logits for _ in range(100)])
    plain = predict_images(net, some, "none").logits
    errors = passes.std(axis=0, ddof=1) / math.sqrt(100)
    assert errors.min() > 0
    assert (np.abs(passes.mean(axis=0) - plain) < 5 * errors).all()  # 200 means, each within 5 standard errors
    assert not np.allclose(passes[0], plain, atol=1e-2)


def test_passes_depend_on_the_seed_and_nothing_else(net: Net, val: Images) -> None:
    torch.manual_seed(99)
    state = torch.get_rng_state()
    first = monte_carlo(net, val, passes=3, seed=1)
    assert torch.equal(torch.get_rng_state(), state)  # the caller's generator is left alone
    torch.manual_seed(5)
    again, other = monte_carlo(net, val, passes=3, seed=1), monte_carlo(net, val, passes=3, seed=2)
    assert np.array_equal(first.probabilities, again.probabilities)
    assert not np.array_equal(first.probabilities, other.probabilities)
    assert (first.mutual_information > 0).mean() > 0.9


def test_the_net_without_dropout_stands_beside_its_passes(net: Net, val: Images) -> None:
    found = monte_carlo(net, val, passes=3)
    logits = predict_images(net, val, "none").logits
    assert np.allclose(found.plain, np.exp(log_softmax(logits)))
    right = logits.argmax(axis=1) == val.labels
    unsure = 1 - np.exp(log_softmax(logits)).max(axis=1)
    row = selective(found).table["1 - confidence, no dropout"]
    assert row["100%"] == pytest.approx(right.mean())  # its own answers, not the mean of the passes
    assert row["AURC"] == pytest.approx(coverage_curve(unsure, right).aurc)
    assert "1 - confidence, no dropout" in describe_uncertainty(found, selective(found))


def test_dropout_is_that_of_the_phase_whose_weights_were_selected(net: Net, val: Images) -> None:
    assert trained_dropout(net) == 0.2
    assert trained_dropout(replace(net, facts=net.facts.updated(epoch=1))) == 0.3
    assert trained_dropout(replace(net, facts=net.facts.updated(epoch=99))) == 0.2  # of a soup with a longer run
    little, much = monte_carlo(net, val, passes=5), monte_carlo(net, val, passes=5, dropout=0.8)
    assert (little.meta["dropout"], much.meta["dropout"]) == (0.2, 0.8)
    assert much.meta["dropout_trained_with"] == 0.2
    assert much.mutual_information.mean() > 2 * little.mutual_information.mean()


def test_nets_without_dropout_are_refused_with_advice(net: Net, val: Images) -> None:
    raw = tiny_raw(phases=[{"epochs": 1, "dropout": 0.3}, {"epochs": 1, "dropout": 0.0}])
    with pytest.raises(CheckpointError, match=r"trained without dropout at its end.*give the predictions of several runs"):
        monte_carlo(replace(net, config=parse_config(raw)), val)
    net.model.dropout = torch.nn.Identity()
    with pytest.raises(CheckpointError, match=r"has no dropout layer that acts: all passes are equal; train one with dropout"):
        monte_carlo(net, val, passes=2)


# --------------------------------------------------------------------------------------------------------------- ensembles


def member(seed: int, **meta: Any) -> Predictions:
    labels = np.arange(60) % 10
    wrong = np.where(np.arange(60) % 7 == seed, (labels + 1) % 10, labels)
    return made(wrong, labels=labels, seed=seed, **{"split": "val", "file": f"{seed}.npz", **meta})


def test_members_are_joined_by_id() -> None:
    one, two, three = member(1), member(2), member(3)
    rows = np.random.default_rng(0).permutation(60)
    assert two.labels is not None
    turned = replace(two, ids=two.ids[rows], logits=two.logits[rows], labels=two.labels[rows])
    found, expected = ensemble_uncertainty([one, turned, three]), ensemble_uncertainty([one, two, three])
    assert found.ids.tolist() == one.ids.tolist()
    for key in ("probabilities", "predictive_entropy", "expected_entropy", "mutual_information"):
        assert np.array_equal(getattr(found, key), getattr(expected, key))
    own = np.exp(log_softmax(np.stack([one.logits, two.logits, three.logits])))
    assert np.allclose(found.probabilities, own.mean(axis=0))
    assert found.predicted.tolist() == own.mean(axis=0).argmax(axis=1).tolist()
    assert [one["file"] for one in found.meta["members"]] == ["1.npz", "2.npz", "3.npz"]


def test_members_that_do_not_belong_together_are_refused() -> None:
    for members in ([member(1), member(1)], [member(1), member(2, images_sha256="e" * 64)]):
        with pytest.raises(DataError) as refused:
            ensemble_uncertainty(members)
        with pytest.raises(DataError) as same:
            combine(members)
        assert str(refused.value) == str(same.value)
    with pytest.raises(DataError, match="one predictions file holds one answer to each image"):
        ensemble_uncertainty([member(1)])


# -------------------------------------------------------------------------------------------------------- coverage, files


def test_table_of_coverage() -> None:
    uncertainty = ensemble_uncertainty([member(1), member(2), member(3)])
    found = selective(uncertainty)
    accuracy = uncertainty.correct.mean()
    assert list(found.table) == [
        "predictive entropy",
        "expected entropy",
        "mutual information",
        "1 - confidence",
        "best order",
    ]
    for row in found.table.values():
        assert list(row) == ["100%", "95%", "90%", "80%", "70%", "60%", "50%", "AURC"]
        assert row["100%"] == pytest.approx(accuracy)
        assert row["AURC"] >= found.table["best order"]["AURC"] - 1e-12
    by_hand = np.argsort(uncertainty.mutual_information, kind="stable")[:54]
    assert found.table["mutual information"]["90%"] == pytest.approx(uncertainty.correct[by_hand].mean())
    assert f"{100 * accuracy:.2f} %".replace(" %", "%") in describe_uncertainty(uncertainty, found)


def test_files(tmp_path: Path) -> None:
    uncertainty = ensemble_uncertainty([member(1), member(2)])
    written = write_uncertainty(uncertainty, selective(uncertainty), tmp_path)
    assert [path.name for path in written] == list(FILES)
    with np.load(tmp_path / "uncertainty.npz", allow_pickle=False) as file:
        assert np.array_equal(file["mutual_information"], uncertainty.mutual_information)
        assert file["probabilities"].shape == (60, 10)
        assert file["labels"].tolist() == (np.arange(60) % 10).tolist()
        assert json.loads(str(file["meta"]))["answers"] == 2
    rows = list(csv.DictReader((tmp_path / "uncertainty.csv").read_text().splitlines()))
    assert [int(row["id"]) for row in rows] == list(range(60))
    assert rows[1]["true"] == "automobile"
    assert rows[1]["predicted"] == uncertainty.classes[uncertainty.predicted[1]]
    assert float(rows[1]["mutual_information"]) == pytest.approx(uncertainty.mutual_information[1], abs=1e-6)
    curve = list(csv.DictReader((tmp_path / "coverage.csv").read_text().splitlines()))
    assert len(curve) == 100
    assert (float(curve[0]["coverage"]), float(curve[-1]["coverage"])) == (0.01, 1.0)
    assert float(curve[-1]["accuracy by predictive entropy"]) == pytest.approx(uncertainty.correct.mean(), abs=1e-6)
    assert json.loads((tmp_path / "uncertainty.json").read_text())["accuracy"] == uncertainty.correct.mean()
    picture = np.asarray(Image.open(tmp_path / "coverage.png").convert("RGB")).astype(int)
    blue = (np.abs(picture - [0x2A, 0x6F, 0xBB]).sum(2) < 30).any(0)
    assert blue.sum() > 0.15 * picture.shape[1]


def test_without_labels_nothing_is_said_of_accuracy(tmp_path: Path) -> None:
    labelled = ensemble_uncertainty([member(1), member(2)])
    write_uncertainty(labelled, selective(labelled), tmp_path)
    members = [replace(one.with_meta(split="submit"), labels=None) for one in (member(1), member(2))]
    uncertainty = ensemble_uncertainty(members)
    written = write_uncertainty(uncertainty, None, tmp_path)
    assert [path.name for path in written] == ["uncertainty.npz", "uncertainty.csv", "uncertainty.json"]
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in written}  # no curve of the labelled one
    assert "accuracy of the mean" not in describe_uncertainty(uncertainty, None)
    assert (tmp_path / "uncertainty.csv").read_text().splitlines()[0].startswith("id,predicted,confidence,")


def test_a_perfect_and_a_hopeless_ensemble_can_be_drawn(tmp_path: Path) -> None:
    uncertainty = ensemble_uncertainty([member(1), member(2)])
    for labels, name in ((uncertainty.predicted, "perfect"), ((uncertainty.predicted + 1) % 10, "hopeless")):
        one: Uncertainty = replace(uncertainty, labels=labels)
        assert (tmp_path / name / "coverage.png") in write_uncertainty(one, selective(one), tmp_path / name)


# ---------------------------------------------------------------------------------------------------------------- command


def test_command_on_a_run(trained: Run, tmp_path: Path, said: Callable[..., tuple[int, str, str]]) -> None:
    run = Run(shutil.copytree(trained.folder, tmp_path / "run"))
    code, out, err = said("uncertainty", run.folder, "--passes", 3)
    assert (code, err) == (0, "")
    assert out.startswith("Monte-Carlo dropout of tiny: 3 answers, p 0.2; val, 200 images\n")
    assert {path.name for path in (run.folder / "uncertainty").iterdir()} == set(FILES)
    assert not run.test_readings_file.exists()
    assert said("uncertainty", run.folder)[0] == 2
    code, _, err = said("uncertainty", run.folder, "--passes", 2, "--dropout", 0.5, "--overwrite")
    assert (code, err) == (0, "note: the weights were trained with dropout 0.2, not 0.5\n")


def test_command_on_files(tmp_path: Path, said: Callable[..., tuple[int, str, str]]) -> None:
    files = [tmp_path / f"{seed}.npz" for seed in (1, 2)]
    for seed, file in zip((1, 2), files, strict=True):
        member(seed).save(file)
    code, out, _ = said("uncertainty", *files, "--output", tmp_path / "both")
    assert code == 0
    assert "ensemble of net: 2 answers; val, 60 images" in out
    assert {path.name for path in (tmp_path / "both").iterdir()} == set(FILES)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["RUN", "a.npz"], 2, "is a folder; expected one run directory alone, or predictions files such as"),
        (["RUN", "--passes", "1"], 2, "--passes 1: expected 2 or more"),
        (["RUN", "--seed", "-1"], 2, "--seed -1: expected 0 or more"),
        (["RUN", "--dropout", "1"], 2, "--dropout 1: expected a probability between 0 and 1"),
        (
            ["a.npz", "b.npz", "--passes", "3", "--data-root", "x"],
            2,
            "--passes, --data-root has no effect on predictions files",
        ),
        (["a.npz", "b.npz"], 2, "add --output"),
        (["none.npz"], 3, "cannot read none.npz"),
    ],
)
def test_command_refuses(
    arguments: list[str],
    code: int,
    message: str,
    trained: Run,
    said: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    done, _, err = said("uncertainty", *(trained.folder if one == "RUN" else one for one in arguments))
    assert done == code
    assert message in err
    assert not (trained.folder / "uncertainty").exists()
