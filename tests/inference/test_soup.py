"""Soups: the mean of weights with statistics taken anew, in a directory that is used like any run's."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_raw
from torch import nn
from torch.optim.swa_utils import update_bn

import cifar_small.inference.soup as soup_module
from cifar_small.cli.main import main
from cifar_small.config.hashing import config_dict
from cifar_small.config.loading import parse_config
from cifar_small.data.datamodule import load_splits, to_tensor
from cifar_small.errors import CheckpointError, UserError
from cifar_small.evaluation.entries import collect_rows, load_entries
from cifar_small.export.model_card import model_card
from cifar_small.inference.predict import Net, load_net
from cifar_small.inference.soup import WeightAverager, average_weights, make_soup, share_start
from cifar_small.models import build_model, refresh_statistics
from cifar_small.models.counting import count_parameters
from cifar_small.reporting import origins, results
from cifar_small.reporting.run_list import status_of
from cifar_small.runs.checkpoints import load_checkpoint, save_checkpoint
from cifar_small.runs.directory import Run
from cifar_small.runs.predictions import load_predictions
from cifar_small.runs.records import Ancestor
from cifar_small.training.train import train
from cifar_small.transforms.preprocess import normalize


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run, Run]:
    """Two checkpoints of one run, two epochs apart, and a net of the same shape from another start, which knows little."""
    folder = tmp_path_factory.mktemp("members")
    raw = tiny_raw(
        data={"source": "digits", "val_size": 200, "train_limit": 800},
        optim={"lr": 0.03},
        schedule={"name": "constant"},
        selection="last",
        phases=[{"epochs": 3}],
        views="shift",
        engine={**tiny_raw()["engine"], "eval_batch_size": 800},
    )
    train(parse_config(raw), folder / "early", quiet=True)
    shutil.copytree(folder / "early", folder / "late")
    train(parse_config({**raw, "phases": [{"epochs": 5}]}), folder / "late", resume=True, quiet=True)
    torch.manual_seed(1)
    fresh = build_model(parse_config(raw).model, 10).state_dict()
    other = changed(Run(folder / "early"), folder / "other", weights=fresh, val_accuracy=0.1)
    return Run(folder / "early"), Run(folder / "late"), other


def changed(run: Run, folder: Path, **changes: Any) -> Run:
    """A copy of a run whose checkpoint says something else."""
    shutil.copytree(run.folder, folder)
    if changes:
        save_checkpoint(folder / "best.pt", {**load_checkpoint(run.best), **changes})
    return Run(folder)


def test_weights_are_averaged_and_counters_are_not() -> None:
    states = [{"w": torch.tensor([1.0, value]), "n": torch.tensor(count)} for value, count in ((2.0, 7), (3.0, 9), (10.0, 9))]
    mean = average_weights(states)
    assert mean["w"].tolist() == [1.0, 5.0]
    assert mean["w"].dtype == torch.float32
    assert int(mean["n"]) == 7
    mean["n"] += 1
    assert int(states[0]["n"]) == 7  # a copy


def net_with_dropout(p: float = 0.5) -> nn.Module:
    torch.manual_seed(0)
    config = parse_config(tiny_raw())
    net = build_model(config.model.model_copy(update={"dropout": p, "stochastic_depth": p}), 10)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.fill_(9.0)
            module.momentum = 0.3
    return net


def statistics(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: buffer.clone() for name, buffer in net.named_buffers()}


BATCHES = [torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]


def test_statistics_are_those_of_torchs_own_update() -> None:
    net = net_with_dropout(0.0)
    reference = deepcopy(net)
    update_bn(BATCHES, reference)
    refresh_statistics(net, BATCHES)
    for name, buffer in statistics(reference).items():
        torch.testing.assert_close(statistics(net)[name], buffer, msg=name)


def test_statistics_do_not_depend_on_chance_and_nothing_else_changes() -> None:
    net = net_with_dropout()
    before = {name: parameter.clone() for name, parameter in net.named_parameters()}
    refresh_statistics(net.train(), BATCHES)
    assert net.training
    assert {module.momentum for module in net.modules() if isinstance(module, nn.BatchNorm2d)} == {0.3}
    assert all(torch.equal(parameter, before[name]) for name, parameter in net.named_parameters())
    first = statistics(net)
    torch.manual_seed(99)
    refresh_statistics(net.eval(), iter(BATCHES))
    assert not net.training
    assert all(torch.equal(buffer, first[name]) for name, buffer in statistics(net).items())
    assert not any((buffer == 9).any() for name, buffer in first.items() if name.endswith("running_mean"))


def test_a_soup_is_the_mean_and_is_used_like_a_run(runs: tuple[Run, Run, Run], tmp_path: Path) -> None:
    early, late, _ = runs
    soup = Run(tmp_path / "soup")
    summary, verdict = make_soup([early, late], soup, command="the command")
    states = [load_checkpoint(run.best)["weights"] for run in (early, late)]
    content = load_checkpoint(soup.best)
    for name, value in content["weights"].items():
        if "running" in name:
            assert not torch.equal(value, average_weights(states)[name]), name  # taken anew
        elif "num_batches" not in name:
            assert torch.allclose(value.double(), (states[0][name].double() + states[1][name].double()) / 2, atol=1e-6), name
    assert summary == soup.summary()
    assert summary.val_accuracy > 0.5
    assert summary.parameters == count_parameters(load_net(soup).model) == load_net(early).parameters
    assert (summary.name, summary.epochs) == ("tiny_soup", 3 + 5)
    assert [(one.run, one.taken) for one in summary.soup] == [("early", True), ("late", True)]
    hashes = [load_net(run).facts.weights_sha256 for run in (early, late)]
    assert [one.weights_sha256 for one in summary.soup] == hashes
    assert content["lineage"] == []  # trained from scratch, all of them
    assert soup.sessions()[0].command == "the command"
    val = load_predictions(soup.predictions / "val.npz")
    assert val.accuracy == summary.val_accuracy == verdict.accuracy
    assert verdict.best_accuracy == max(load_predictions(run.predictions / "val.npz").accuracy for run in (early, late))
    assert [one.weights_sha256 for one in val.meta.soup] == hashes
    # The other commands take it: predict, submit, record.
    for arguments in (
        ["unlabelled", "--config", soup.config_file, "--output", tmp_path / "file.pkl"],
        ["predict", soup.folder, "--split", "submit", "--file", tmp_path / "file.pkl"],
        ["submit", soup.predictions / "submit.npz", "--output", tmp_path / "out" / "mine.csv"],
        ["record", soup.folder, "--output", tmp_path / "record"],
    ):
        assert main([str(argument) for argument in arguments]) == 0, arguments


def test_statistics_of_a_soup_are_of_unaugmented_training_images(
    runs: tuple[Run, Run, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mean of the first BatchNorm is that of the first convolution over the images as they are."""
    monkeypatch.setattr(soup_module, "REFRESH_BATCH", 800)  # so that all are in one
    soup = Run(tmp_path / "soup")
    make_soup(list(runs[:2]), soup)
    net = load_net(soup)
    images = load_splits(net.config.data)[0].images
    pixels = normalize(torch.from_numpy(images).permute(0, 3, 1, 2), net.mean, net.std)
    with torch.no_grad():
        mean = net.model.conv1(pixels).mean((0, 2, 3))
    torch.testing.assert_close(net.model.bn1.running_mean, mean, atol=1e-4, rtol=1e-3)


def test_statistics_of_a_source_that_is_sorted_by_class_are_of_all_classes(
    runs: tuple[Run, Run, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    net = load_net(runs[0])
    train, val, _ = load_splits(net.config.data)
    train = train.take(np.argsort(train.labels, kind="stable"))
    monkeypatch.setattr(soup_module, "load_own_splits", lambda _: (train, val))
    monkeypatch.setattr(soup_module, "REFRESH_IMAGES", 100)  # of 800
    monkeypatch.setattr(soup_module, "REFRESH_BATCH", 50)
    batches = WeightAverager(net, []).batches
    pixels_of = to_tensor(train, torch.device("cpu"))
    label_of = {pixels.numpy().tobytes(): int(label) for pixels, label in zip(pixels_of, train.labels, strict=True)}
    used = [label_of[pixels.numpy().tobytes()] for batch in batches for pixels in batch]
    assert [len(batch) for batch in batches] == [50, 50]
    assert set(used) == set(range(10))
    assert max(np.bincount(used)) < 30  # of a class in proportion: 10


def test_statistics_are_of_batches_of_one_size(runs: tuple[Run, Run, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    """A last batch of a few images would weigh as much as a full one."""
    monkeypatch.setattr(soup_module, "REFRESH_BATCH", 266)  # of 800 images: three of these, and two left over
    assert [len(batch) for batch in WeightAverager(load_net(runs[0]), []).batches] == [266, 266, 266]


def test_statistics_do_not_depend_on_how_many_images_evaluation_takes_at_once(runs: tuple[Run, Run, Run]) -> None:
    """The variance within small batches lacks what is between them; and how a run is computed must not change its soup."""
    net = load_net(runs[0])
    plain = config_dict(net.config)
    few = replace(net, config=parse_config({**plain, "engine": {**plain["engine"], "eval_batch_size": 20}}))
    assert [len(batch) for batch in WeightAverager(few, []).batches] == [500]


def test_order_of_runs_and_repetition_do_not_matter(runs: tuple[Run, Run, Run], tmp_path: Path) -> None:
    one, _ = make_soup(list(runs[:2]), Run(tmp_path / "one"))
    two, _ = make_soup(list(runs[1::-1]), Run(tmp_path / "two"))
    assert one.val_accuracy == two.val_accuracy
    weights = [load_checkpoint(tmp_path / name / "best.pt")["weights"] for name in ("one", "two")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_greedy_leaves_out_what_does_not_average(runs: tuple[Run, Run, Run], tmp_path: Path) -> None:
    """The uniform soup is poor with the third, and says so; the greedy one of a good net and the third keeps to the one."""
    _, uniform = make_soup(list(runs), Run(tmp_path / "uniform"))
    assert uniform.accuracy < uniform.best_accuracy
    assert str(uniform).startswith("no better than its best member")  # all of one seed: another cause
    assert str(replace(uniform, apart="its members share no start")).startswith(
        "the average is broken, for its members share no"
    )
    with pytest.raises(UserError, match=r"alone is better on val than averaged with any .* nothing was written"):
        make_soup([runs[1], runs[2]], Run(tmp_path / "none"), "greedy")
    assert not (tmp_path / "none").exists()


def test_what_shares_a_start(runs: tuple[Run, Run, Run]) -> None:
    """One seed's draw, or one ancestor, which may be a member itself; not the same architecture alone."""
    net = load_net(runs[0])

    def other(name: str, seed: int, *ancestors: str) -> Net:
        data = net.facts.data
        known = [Ancestor(name=ancestor, data=data, weights_sha256=ancestor) for ancestor in ancestors]
        facts = net.facts.updated(weights_sha256=name, ancestors=known)
        return replace(net, config=net.config.model_copy(update={"seed": seed}), facts=facts)

    assert share_start([other("a", 0), other("b", 0), other("c", 0)])
    assert not share_start([other("a", 0), other("b", 1)])
    assert not share_start([other("a", 0), other("b", 0), other("c", 1)])
    assert share_start([other("a", 0, "root"), other("b", 1, "root")])
    assert share_start([other("a", 0), other("b", 1, "a")])
    assert not share_start([other("a", 0, "root"), other("b", 0, "another")])


def test_epochs_kept_of_one_run_are_averaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = tiny_raw(data={"source": "digits", "val_size": 200, "train_limit": 400}, phases=[{"epochs": 3}])
    train(parse_config({**raw, "engine": {**raw["engine"], "keep_last": 2}}), tmp_path / "run", quiet=True)
    kept = [tmp_path / "run" / f"epoch-000{epoch}.pt" for epoch in (2, 3)]
    soup = Run(tmp_path / "soup")
    assert main(["soup", *map(str, kept), "--output", str(soup.folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(", val ")[0] for line in lines[:2]] == [
        "tiny (seed 0, run), epoch-0002",
        "tiny (seed 0, run), epoch-0003",
    ]
    weights = [load_checkpoint(path)["weights"]["conv1.weight"].double() for path in kept]
    assert torch.allclose(load_checkpoint(soup.best)["weights"]["conv1.weight"].double(), sum(weights) / 2, atol=1e-7)
    summary = soup.summary()
    assert summary is not None
    assert summary.epochs == 3  # of one run
    assert [(one.checkpoint, one.epoch) for one in summary.soup] == [("epoch-0002", 2), ("epoch-0003", 3)]
    assert main(["soup", str(kept[0]), str(kept[0]), "--output", str(tmp_path / "twice")]) == 4
    assert f"{kept[0]} and {kept[0]} hold the same weights" in capsys.readouterr().err


def test_greedy_is_the_literal_procedure(runs: tuple[Run, Run, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    answers = iter([0.05, 1.0, 1.0])
    average = soup_module.WeightAverager.average

    def scripted(self: Any, nets: Any) -> dict[str, Any]:
        tried.append(len(nets))
        return {**average(self, nets), "val_accuracy": next(answers)}

    monkeypatch.setattr(soup_module.WeightAverager, "average", scripted)
    summary, _ = make_soup(list(runs), Run(tmp_path / "soup"), "greedy")
    order = sorted(range(3), key=lambda index: -load_net(runs[index]).facts.val_accuracy)
    assert tried == [2, 2, 2]  # the second lowers accuracy and is left out; the third is tried with the first, and averaged
    assert [one.taken for one in summary.soup] == [index != order[1] for index in range(3)]


def test_what_val_chose_of_a_soup_is_said_wherever_it_is_shown(
    runs: tuple[Run, Run, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = iter([0.05, 1.0, 1.0])
    average = soup_module.WeightAverager.average
    monkeypatch.setattr(
        soup_module.WeightAverager, "average", lambda self, nets: {**average(self, nets), "val_accuracy": next(answers)}
    )
    soup = Run(tmp_path / "soup")
    words = ["soup", *(run.folder for run in runs), "--output", soup.folder, "--method", "greedy"]
    assert main([str(word) for word in words]) == 0
    assert "val, which chose its members, views shift: " in capsys.readouterr().out
    card = model_card(load_net(soup), soup)
    assert "(val chose its members, so optimistic)" in card
    assert "the mean of 2 nets: " in card
    assert "train by it again" not in card
    (entry,) = load_entries([str(soup.folder)])
    (row,) = collect_rows([entry])
    assert origins._selection(entry, row).text == "accuracy on val chose the nets that are averaged"
    made_of = origins._made_of(entry).text
    assert made_of.startswith("mean of the weights of ")
    assert "; left out: " in made_of
    assert status_of(soup).row()[2:4] == ("-", f"{100 * soup.record().summary.val_accuracy_plain:.2f}")
    assert "*members chosen*" in " ".join(results._row([results._Recorded(soup.record(), "a")]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"mean": [0.1, 1 / 3, 0.3]},
            r"differ in normalization: mean \[0\.[0-9, .]+\], std .* and mean \[0.1, 0.3333, 0.3\], std",
        ),
        (
            {"classes": [*"ABCDEFGHIJ"]},
            r"differ in classes: other classes: 0, 1, 2 \.\.\. in the one alone, A, B, C \.\.\. in the",
        ),
        (
            {"data": {"source": "digits", "sha256": "0"}},
            "differ in data: other images or labels, 800 and all of the training im",
        ),
        ({}, "hold the same weights; leave one out"),
    ],
)
def test_runs_that_do_not_belong_together_are_refused(
    runs: tuple[Run, Run, Run], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        make_soup([runs[0], changed(runs[0], tmp_path / "changed", **changes)], Run(tmp_path / "soup"))
    assert not (tmp_path / "soup").exists()


def test_other_architectures_one_run_and_used_folders_are_refused(
    runs: tuple[Run, Run, Run], tmp_path: Path, tiny: Callable[..., Any]
) -> None:
    narrow = tiny(model={"family": "resnet", "widths": [8, 16, 24], "blocks": [1, 1, 1], "strides": [2, 2, 2]})
    net = build_model(narrow.model, 10)
    facts = {"config": config_dict(narrow), "weights": net.state_dict(), "parameters": count_parameters(net)}
    changed(runs[0], tmp_path / "narrow", **facts)
    with pytest.raises(CheckpointError, match=r"of different nets \(model.widths: \(8, 16, 32\) and \(8, 16, 24\)\)"):
        make_soup([runs[0], Run(tmp_path / "narrow")], Run(tmp_path / "soup"))
    with pytest.raises(UserError, match="at least two runs, or two kept checkpoints of one, got 1"):
        make_soup([runs[0]], Run(tmp_path / "soup"))
    with pytest.raises(UserError, match="is not empty; choose a new or an empty folder"):
        make_soup(list(runs[:2]), runs[2])


def test_lineage_of_any_member_is_the_soups(runs: tuple[Run, Run, Run], tmp_path: Path) -> None:
    foreign = changed(runs[1], tmp_path / "foreign", lineage=["imagenet"])
    summary, _ = make_soup([runs[0], foreign], Run(tmp_path / "soup"))
    assert load_checkpoint(tmp_path / "soup" / "best.pt")["lineage"] == ["imagenet"]
    assert [one.lineage for one in summary.soup] == [[], ["imagenet"]]


def test_the_command_says_what_went_in_and_what_came_out(
    runs: tuple[Run, Run, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["soup", *(str(run.folder) for run in runs[:2]), "--output", str(tmp_path / "soup")]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("tiny (seed 0, early), val ")
    assert "than its best member" in lines[2]
    assert lines[-1].endswith(f"parameters -> {tmp_path / 'soup'}")
    assert main(arguments) == 2
    assert np.isfinite(load_predictions(tmp_path / "soup" / "predictions" / "val.npz").logits).all()


def test_nets_of_another_input_size_are_refused(runs: tuple[Run, Run, Run], tmp_path: Path) -> None:
    config = {**load_checkpoint(runs[1].best)["config"], "input": {"size": 40}}
    larger = changed(runs[1], tmp_path / "larger", config=config)
    with pytest.raises(CheckpointError, match=r"differ in input size: 32x32 bilinear and 40x40 bilinear;"):
        make_soup([runs[0], larger], Run(tmp_path / "soup"))
