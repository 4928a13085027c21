"""The ablation of views: numbers of the one inference path, each view forwarded once, learned weights scored honestly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_raw
from hypothesis import given, settings
from hypothesis import strategies as st

from cifar_small.config.loading import parse_config
from cifar_small.config.schema import split_views
from cifar_small.data import Images
from cifar_small.data.splits import halves
from cifar_small.errors import DataError
from cifar_small.evaluation.tta_ablation import Ablation, ablate, fit_view_weights, view_logits
from cifar_small.inference.predict import Net, load_net, load_own_splits, predict_images
from cifar_small.metrics.classification import cross_entropy, log_softmax, wilson_interval
from cifar_small.metrics.significance import mcnemar
from cifar_small.reporting.evaluation_files import describe_ablation
from cifar_small.runs.directory import Run
from cifar_small.training.train import train
from cifar_small.transforms.views import VIEWS, View

CHOICES = [
    "none", "flip", "flip@0.1", "flip@0.25", "shift", "shift@0.1", "shift@0.25", "flip_shift", "flip_shift@0.1",
    "flip_shift@0.25", "flips_shift_blur", "flips_shift_blur@0.1", "flips_shift_blur@0.25", "random_crops", "random_crops@0.1",
    "random_crops@0.25", "learned",
]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(tmp_path_factory.mktemp("tta") / "trained")
    train(parse_config(tiny_raw(phases=[{"epochs": 2}])), run.folder, quiet=True)
    return run


@pytest.fixture(scope="module")
def net(trained: Run) -> Net:
    return load_net(trained)


@pytest.fixture(scope="module")
def val(net: Net) -> Images:
    return load_own_splits(net)[1]


@pytest.fixture(scope="module")
def ablation(net: Net, val: Images) -> Ablation:
    return ablate(net, val)


def test_choices_are_those_of_the_inference_path(ablation: Ablation, net: Net, val: Images) -> None:
    assert [one.views for one in ablation.choices] == CHOICES
    assert val.labels is not None
    plain = predict_images(net, val, "none").correct
    for one in ablation.choices[:-1]:
        predictions = predict_images(net, val, one.views)
        assert one.accuracy == predictions.accuracy
        assert one.interval == wilson_interval(int(predictions.correct.sum()), 200)
        assert one.nll == pytest.approx(cross_entropy(predictions.logits, val.labels), abs=1e-5)
        name, share = split_views(one.views)
        against = plain if share == 1 else predict_images(net, val, name).correct
        assert one.against == ("none" if share == 1 else name)
        assert (one.gained, one.lost, one.p) == mcnemar(predictions.correct, against)
        others = len([view for view, _ in VIEWS[name] if view != View()])
        assert one.passes == pytest.approx(len(VIEWS[name]) if share == 1 else 1 + share * others)
    assert (ablation.choices[0].gained, ablation.choices[0].lost, ablation.choices[0].p) == (0, 0, 1.0)
    assert len({one.accuracy for one in ablation.choices}) > 2  # the choices do differ


def test_each_distinct_view_is_forwarded_once(net: Net, val: Images) -> None:
    seen: list[int] = []
    hook = net.model.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    with hook:
        found = ablate(net, val)
    assert found.views_forwarded == 23
    assert sum(seen) == (23 + 1) * 200  # and one more for the start


def test_seconds_are_the_sum_of_a_choices_views(net: Net, val: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(1000))
    monkeypatch.setattr(
        "cifar_small.evaluation.tta_ablation.time.perf_counter", lambda: float(next(ticks))
    )  # every view takes one second
    found = ablate(net, val)
    assert [one.seconds for one in found.choices[:-1] if "@" not in one.views] == [1, 2, 5, 6, 5, 10]
    by_name = {one.views: one.seconds for one in found.choices}
    assert (by_name["flip_shift@0.1"], by_name["flip_shift@0.25"], by_name["random_crops@0.1"]) == (1.5, 2.25, 2.0)
    assert found.choices[-1].seconds == found.choices[-1].passes == len(found.weights)


def test_learned_weights_are_scored_on_images_they_were_not_fitted_to(
    net: Net, val: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert val.labels is not None
    rng = np.random.default_rng(0)
    shared = 2 * rng.normal(0, 1, (200, 10)) + 3 * np.eye(10)[val.labels]
    logits = shared + rng.normal(0, 1, (23, 200, 10)) * np.linspace(0.3, 1.5, 23)[:, None, None]
    meta = {"device": "cpu", "precision": "fp32", "threads": 1}
    monkeypatch.setattr("cifar_small.evaluation.tta_ablation.view_logits", lambda *given, **options: (logits, [1.0] * 23, meta))
    found = ablate(net, val)
    first, second = halves(val.labels)
    answers = np.empty((200, 10))
    answers[second] = np.tensordot(fit_view_weights(logits[:, first], val.labels[first]), logits[:, second], 1)
    answers[first] = np.tensordot(fit_view_weights(logits[:, second], val.labels[second]), logits[:, first], 1)
    learned = found.choices[-1]
    assert learned.nll == pytest.approx(cross_entropy(answers, val.labels), rel=1e-6)
    assert learned.accuracy == (answers.argmax(axis=1) == val.labels).mean()
    assert found.on_own_fit[1] < learned.nll - 0.01  # fitted and scored on the same images it looks better than it is
    assert found.on_own_fit[1] <= min(one.nll for one in found.choices) + 1e-6  # the best weights for these images
    assert sum(weight for _, weight in found.weights) == pytest.approx(1)
    assert [weight for _, weight in found.weights] == sorted((weight for _, weight in found.weights), reverse=True)
    assert f"NLL {found.on_own_fit[1]:.4f}, which says nothing of other images" in describe_ablation(found)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.sampled_from([1.0, 3.0, 10.0]))
def test_no_view_could_take_weight_from_another_and_gain(seed: int, views: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, 120)
    shared = rng.normal(0, 1, (120, 5)) + 1.5 * np.eye(5)[labels]
    logits = scale * (shared + rng.normal(0, 0.5, (views, 120, 5)))
    weights = fit_view_weights(logits, labels)
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    # The gap of Frank & Wolfe bounds how far a convex loss on the simplex is above its least value.
    mixed = np.tensordot(weights, logits, 1)
    rest = (np.exp(log_softmax(mixed)) - np.eye(5)[labels]) / len(labels)
    gradient = np.einsum("nk,vnk->v", rest, logits)
    assert weights @ gradient - gradient.min() < 0.02 * scale  # weights below a thousandth were set to 0


def test_two_views_against_a_grid() -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 4, 300)
    logits = 2 * rng.normal(0, 1, (2, 300, 4))
    logits[0] += 1.2 * np.eye(4)[labels]
    logits[1] += 2.0 * np.eye(4)[labels]
    grid = np.linspace(0, 1, 2001)
    losses = [cross_entropy(share * logits[0] + (1 - share) * logits[1], labels) for share in grid]
    assert fit_view_weights(logits, labels)[0] == pytest.approx(grid[int(np.argmin(losses))], abs=2e-3)


def test_a_useless_view_gets_no_weight() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 200)
    good = 2 * np.eye(4)[labels] + rng.normal(0, 1, (200, 4))
    assert fit_view_weights(np.stack([good, -good]), labels).tolist() == [1.0, 0.0]


def test_one_image_is_refused(net: Net, val: Images) -> None:
    with pytest.raises(DataError, match="1 image; expected two or more"):
        ablate(net, val.take(np.array([0])))


def test_a_single_view_is_the_net_on_what_it_shows(net: Net, val: Images) -> None:
    views = [View(), View(2, -3, mirrored=True)]
    logits, seconds, meta = view_logits(net, val, views)
    moved = np.asarray(views[1](torch.from_numpy(val.images).permute(0, 3, 1, 2).float())).transpose(0, 2, 3, 1)
    shown = Images(moved.astype(np.uint8), val.labels, val.ids, val.classes, val.source)
    assert np.allclose(logits[1], predict_images(net, shown, "none").logits, atol=1e-5)
    assert len(seconds) == 2
    assert (meta["precision"], meta["device"], meta["threads"]) == ("fp32", "cpu", 1)


def test_command(trained: Run, tmp_path: Path, said: Callable[..., tuple[int, str, str]]) -> None:
    run = Run(shutil.copytree(trained.folder, tmp_path / "run"))
    code, out, err = said("tta", run.folder)
    assert (code, err) == (0, "")
    rows = [line.split()[0] for line in out.splitlines()[1 : len(CHOICES) + 1]]
    assert rows == CHOICES
    assert "none" in out
    plain = json.loads((run.folder / "tta.json").read_text())
    assert (plain["run"], plain["images"], plain["views_forwarded"]) == ("run", 200, 23)
    assert [one["views"] for one in plain["choices"]] == CHOICES
    assert plain["meta"]["weights_sha256"] == load_net(run).facts.weights_sha256
    assert not run.test_readings_file.exists()
    assert said("tta", run.folder)[0] == 2
    assert "exists already" in said("tta", run.folder)[2]
    assert said("tta", tmp_path / "none")[0] == 4
    assert not (tmp_path / "none").exists()
