"""The links from the CSV back to the data: each file is the one that the next names, and says the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from cifar_small.config.hashing import config_hash, recipe_hash
from cifar_small.config.loading import load_config, parse_config
from cifar_small.config.schema import Config
from cifar_small.data import index_hash
from cifar_small.data.datamodule import channel_statistics
from cifar_small.files import sha256_bytes, sha256_file
from cifar_small.inference.blend import Method, blend, fit_weights, select_greedily
from cifar_small.inference.ensemble import TITLES, on_shared_images
from cifar_small.inference.onnx_session import OVERFLOW, may_overflow
from cifar_small.inference.predict import predict_images
from cifar_small.runs.checkpoints import load_checkpoint
from cifar_small.runs.directory import config_differences
from cifar_small.runs.predictions import Predictions, load_predictions
from cifar_small.runs.records import DataFacts, NetFacts, parse
from cifar_small.submission.audit.card import CheckResult, Unavailable, link
from cifar_small.submission.audit.evidence import Member, PredictionsFile, Submission
from cifar_small.submission.csv_form import label_texts
from cifar_small.submission.submission_file import read_csv, render_csv

CLOSE = 1e-5  # of the largest logit: another version of numpy may add in another order
ONNX_IMAGES = 200
# How far the logits of an ONNX file may lie from those of the weights, as a share of their size, both without their mean.
# Measured on digits: int8 0.015 to 0.035, other seeds of the same net 0.39 and more; fp32 below 1e-5.
ONNX_APART = {"fp32": 0.01, "int8": 0.15}


@link("csv", "the CSV is the one its record was written for")
def csv_bytes(submission: Submission, result: CheckResult) -> str:
    """The CSV's hash against the record beside it."""
    found = sha256_bytes(submission.content)
    result.same("SHA-256", submission.record.sha256, found)
    return f"SHA-256 {found}"


@link("rows", "header, ids, order, classes and number of rows")
def rows(submission: Submission, result: CheckResult) -> str:
    """The CSV's form against the rules and the ids it answers, its counts against the record."""
    rules, classes = submission.rules, submission.classes
    ids, source = submission.ids()
    ids = submission.ordered(ids, result)
    answers, faults = read_csv(submission.content, ids, classes, rules)
    for fault in faults:
        result.require(False, f"a valid {rules.submission} for the ids of {source}", f"a CSV that {fault}")
    allowed = submission.recorded_meta.allowed_rows
    result.same("images by the rules" if allowed is None else "images as allowed", allowed or rules.rows or len(ids), len(ids))
    result.same("rows in the record", submission.record.rows, len(answers))
    counts = np.bincount(np.array(list(answers.values()), np.int64), minlength=len(classes)).tolist()
    result.same("rows of each class in the record", submission.record.class_counts, dict(zip(classes, counts, strict=True)))
    return f"{len(answers):,} rows of {rules.submission} in {len(classes)} classes, ids and order of {source}"


@link("predictions", "the predictions file is the one that was recorded")
def predictions(made: PredictionsFile, result: CheckResult) -> str:
    """The file's hash against the record, and whether it can be read."""
    found = sha256_file(made.file)
    result.same(f"SHA-256 of {made.file.name}", made.recorded_meta.sha256, found)
    return f"{len(load_predictions(made.file).ids):,} images in {made.file.name}, SHA-256 {found}"


@link("labels", "the CSV says what the predictions say")
def labels(submission: Submission, result: CheckResult) -> str:
    """The CSV written again from the predictions, byte by byte."""
    result.same("classes", list(submission.classes), list(submission.made.predictions.classes))
    made = submission.made.predictions
    ids = submission.ordered(made.ids, CheckResult())  # the link `rows` speaks of the order
    ordered = made.reordered(ids)
    assert ordered is not None, "these are its own ids"
    again = render_csv(ordered, submission.csv_rules)
    if again != submission.content:
        ours, theirs = again.splitlines(), submission.content.splitlines()
        places = [place for place, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]]
        place = places[0] if places else min(len(ours), len(theirs))
        first, second = (repr(b"".join(side[place : place + 1]).decode("utf-8", "replace")[:60]) for side in (ours, theirs))
        number = len(places) + abs(len(ours) - len(theirs))
        result.require(False, f"line {place + 1} to be {first}", f"{second}, and {number:,} lines that differ in all")
    return f"all {len(submission.made.predictions.ids):,} labels, by writing the CSV again"


@link("record", "the record repeats what the files themselves say")
def record(submission: Submission, result: CheckResult) -> str:
    """The record's copies of the predictions' meta, of the run's summary and sessions, and what it says of each class."""
    known, written = [], label_texts(submission.classes, submission.csv_rules)
    if submission.record.labels:  # older ones have none
        labels_of = dict(zip(submission.classes, written, strict=True))
        result.same("what the CSV says for each class:", labels_of, submission.record.labels)
    for read in (_compare_meta, _compare_run):
        try:
            known.append(read(submission, result))
        except Unavailable as reason:
            result.gap(str(reason))
    chosen = submission.record.estimate
    by = "" if chosen is None else f"; it was chosen by an estimate, of {chosen.get('file')}, which is not compared"
    return f"equal: {', '.join(known)}{by}"


def _compare_meta(submission: Submission, result: CheckResult) -> str:
    where = {"file", "sha256"}  # of the file, not in it; `predictions` compares them
    both = (submission.made.predictions.meta, submission.recorded_meta)
    own, recorded = ({key: value for key, value in meta.plain().items() if key not in where} for meta in both)
    result.same("predictions", own, recorded)
    return "the predictions' meta"


def _compare_run(submission: Submission, result: CheckResult) -> str:
    if submission.recorded_meta.members:
        return "the members' hashes (it holds no copies of their summaries and sessions)"
    member = submission.members[0]
    if member.recorded is None:
        raise Unavailable("the record holds no result of the run: its predictions lay outside the run directory")
    own, sessions = member.run.sessions(), member.recorded.sessions
    result.same("summary.json", member.summary.plain(), member.recorded.summary.plain())
    for number, (session, recorded) in enumerate(zip(own, sessions, strict=False), start=1):
        result.same(f"session {number} of env.json", session.plain(), recorded.plain())
    result.require(len(own) >= len(sessions), f"{len(sessions)} sessions or more", f"{len(own)}")
    return "summary, sessions"


@link("ensemble", "the ensemble is what its members give")
def ensemble(submission: Submission, result: CheckResult) -> str:
    """The ensemble made again from the nets' predictions files, by its method and weights; and weights fitted again."""
    joined, meta = submission.made.predictions, submission.recorded_meta
    nets = iter([member.made.predictions for member in submission.members])
    again = _made_again(meta, nets, joined.ids)
    result.require(again is not None, "members of the same ids", "other ids")
    if again is not None:
        result.same("shape of the ensemble's logits", again.shape, joined.logits.shape)
    if again is not None and again.shape == joined.logits.shape:
        difference = np.abs(again - joined.logits).max()
        most = CLOSE * max(1.0, float(np.abs(again).max()))
        result.require(difference <= most, f"the mean's logits to within {most:.1g}", f"a difference of {difference:.3g}")
    fitted = _compare_fit(submission, result)
    return f"{TITLES[meta.method or 'logits']} of {len(meta.members)} members, {len(joined.ids):,} images{fitted}"


def _made_again(meta: NetFacts, nets: Iterator[Predictions], ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32] | None:
    """The logits (N, K) that the next of these nets give in the way recorded, through ensembles of ensembles."""
    if not meta.members:
        made = next(nets).reordered(ids)
        return None if made is None else made.logits
    logits = [_made_again(member, nets, ids) for member in meta.members]
    weights = np.array([1 / len(logits) if member.weight is None else member.weight for member in meta.members])
    if meta.method not in TITLES:
        raise Unavailable(f"it was made as {meta.name}, which this audit does not make again")
    known = [part for part in logits if part is not None]
    return blend(cast(Method, meta.method), np.stack(known), weights) if len(known) == len(logits) else None


def _compare_fit(submission: Submission, result: CheckResult) -> str:
    """Fit the members' weights again on the predictions of val that the record names."""
    meta, fitted = submission.recorded_meta, submission.recorded_meta.fitted_on
    if fitted is None:
        return ""
    runs = [*(member.given_run for member in submission.members), *submission.left_out]
    files = [path for run in runs if run is not None for path in sorted(run.predictions.glob("*.npz"))]
    by_hash = {sha256_file(path): path for path in files}
    val = [load_predictions(by_hash[digest]) for digest in fitted.predictions if digest in by_hash]
    if len(val) < len(fitted.predictions):
        result.gap("not all predictions of val that its weights were fitted on are at hand: give the runs it left out, too")
        return ""
    val = on_shared_images(val)
    ordered = [each for one in val if (each := one.reordered(val[0].ids)) is not None]
    alike = len(ordered) == len(val)
    result.require(alike, "val predictions of the same images", "other images in one of those its weights were fitted on")
    if not alike:
        return ""
    logits = np.stack([each.logits for each in ordered])
    labels = val[0].labels
    assert labels is not None
    found = fit_weights(logits, labels) if meta.method == "weighted" else select_greedily(logits, labels)
    recorded = [member.weight or 0.0 for member in meta.members]
    again = found[found > 0].tolist()
    close = len(again) == len(recorded) and np.allclose(again, recorded, atol=1e-4)
    result.require(close, f"the weights {_rounded(again)}, fitted again", str(_rounded(recorded)))
    return f", weights fitted again on {len(val[0].ids):,} images of val"


def _rounded(weights: Sequence[float]) -> list[float]:
    return [round(weight, 4) for weight in weights]


@link("weights", "the checkpoint holds the weights that made the predictions")
def weights(member: Member, result: CheckResult) -> str:
    """The checkpoint's hash against the predictions' meta and both summaries, and its own checksum."""
    recorded = member.recorded_meta.weights_sha256
    if recorded is None:
        raise Unavailable("the record names no weights of it")
    if member.recorded is not None and member.selected:
        result.same("the weights of the recorded summary:", recorded, member.recorded.summary.weights_sha256)
    file = member.weights_file
    result.same(f"SHA-256 of {file.name}", recorded, sha256_file(file) if file.exists() else "no such file")
    if (summary := member.run.summary()) is not None and member.selected:
        result.same("the weights of summary.json:", recorded, summary.weights_sha256)
    load_checkpoint(file)  # a damaged one says so
    return f"SHA-256 {recorded} of {file.name}"


@link("onnx file", "the ONNX file that predicted is the recorded one, and computes what the weights do")
def onnx_file(member: Member, result: CheckResult) -> str:
    """Its hash, the hash of the weights in it, and its logits of images of val beside those of the weights."""
    recorded, file = member.recorded_meta.onnx, member.onnx_file
    assert recorded is not None
    result.same(f"SHA-256 of {file.name}", recorded.sha256, sha256_file(file))
    nets = (member.net(), member.onnx_net())
    val = member.splits[1]
    images = val.take(np.arange(min(ONNX_IMAGES, len(val))))
    logits = [predict_images(net, images, "none", precision="fp32").logits for net in nets]
    own, other = (values - values.mean(axis=1, keepdims=True) for values in logits)
    apart, most = float(np.linalg.norm(own - other) / np.linalg.norm(own)), ONNX_APART[recorded.precision]
    said = f"logits of {len(images):,} images of val apart by {apart:.1%} of their size"
    said += f"; {file.name} {OVERFLOW}" * may_overflow(recorded.quantization)
    result.require(apart <= most, f"logits apart by at most {most:.0%}, as rounding to {recorded.precision} explains", said)
    return f"{file.name}, {said}, SHA-256 {recorded.sha256}"


@link("config", "every copy of the config is that of the weights")
def config(member: Member, result: CheckResult) -> str:
    """Every copy of the config against the checkpoint's and against the hash that was recorded of it."""
    meta, reference, compared = member.recorded_meta, member.config, []
    if member.given_run is not None:
        file = member.weights_file.name
        own = parse_config(member.checkpoint["config"], file)
        result.same(f"SHA-256 of the config in {file}", meta.config_sha256, config_hash(own))
        result.same(f"name in {file}", own.name, meta.name)
        _compare_file(result, reference, member, "the run's config.yaml", member.given_run.config_file)
        compared += [file, "the run's config.yaml"]
    if (copy := member.copied("config.yaml")) is not None:
        _compare_file(result, reference, member, "config.yaml beside the CSV", copy)
        compared.append("config.yaml beside the CSV")
    if meta.config is not None:
        predicted_with = parse_config(meta.config, "the record")
        _agree(result, reference, predicted_with, "the config of the predictions")
        if not compared:
            result.same("SHA-256 of the config of the predictions", meta.config_sha256, config_hash(predicted_with))
        compared.append("the predictions")
    if not meta.rules_given:
        result.same("rules", reference.rules.model_dump(), meta.rules)
    return f"{reference.name}, SHA-256 {meta.config_sha256}, in {', '.join(compared)}"


def _compare_file(result: CheckResult, reference: Config, member: Member, where: str, path: Path) -> None:
    found = load_config(path, trusted=False)
    recorded = member.recorded.summary if member.recorded is not None else member.summary
    result.same(f"SHA-256 of {where}", recorded.config_sha256, config_hash(found))
    result.same(f"recipe of {where}", recorded.recipe_sha256, recipe_hash(found))
    _agree(result, reference, found, where)


def _agree(result: CheckResult, reference: Config, found: Config, where: str) -> None:
    """The same recipe; what a resumed run may change (more epochs, device, threads) may differ."""
    differences = config_differences(reference, found)
    result.require(not differences, f"{where} to be that of the weights", "; ".join(differences))


DATA, SPLIT = ("source", "sha256"), ("val_sha256", "train_sha256", "train_limit")


@link("data", "the images and labels are those that were recorded")
def data(member: Member, result: CheckResult) -> str:
    """Source and hash of all training images and labels: in every record, and of the data at hand; their mean and deviation."""
    recorded = _recorded(member, result, DATA)
    train, val, facts = member.splits
    result.same("the data at hand", recorded, facts.picked(*DATA))
    if member.given_run is not None:
        kept = [[round(value, 9) for value in member.checkpoint[key]] for key in ("mean", "std")]
        given = member.config.input  # what the weights it started from want, else of the training images
        expected = (given.mean, given.std) if given.mean and given.std else channel_statistics(train)
        found = [[round(value, 9) for value in values] for values in expected]
        result.same("mean and deviation of the training images in the checkpoint", kept, found)
    return (
        f"{recorded['source']}, {len(train):,} training and {len(val):,} validation images used, SHA-256 {recorded['sha256']}"
    )


@link("split", "the validation images are those that were recorded, and none was trained on")
def split(member: Member, result: CheckResult) -> str:
    """Index hashes of both parts: in every record, of the predictions of val, and of the split made again."""
    recorded = _recorded(member, result, SPLIT)
    val = member.val if member.given_run is not None else None
    if val is not None:
        result.same("indices of val.npz", recorded["val_sha256"], index_hash(val.ids))
    train_images, val_images, facts = member.splits
    result.same("the split made again", recorded, facts.picked(*SPLIT))
    result.same("images in both parts", 0, len(np.intersect1d(train_images.ids, val_images.ids)))
    if val is not None and val.labels is not None and val_images.labels is not None and len(val.labels) == len(val_images):
        result.same("wrong labels in val.npz", 0, int((val.labels != val_images.labels).sum()))
    return f"{len(val_images):,} validation images, SHA-256 of their indices {recorded['val_sha256']}"


def _recorded(member: Member, result: CheckResult, keys: tuple[str, ...]) -> dict[str, object]:
    """What the predictions' record says of the data; a fault where another record differs."""
    recorded = member.data.picked(*keys)
    others = {}
    if member.recorded is not None:
        others["the recorded summary"] = member.recorded.summary.data
    if member.given_run is not None:
        others["the checkpoint"] = parse(DataFacts, member.checkpoint["data"], "the data of the checkpoint")
    for where, facts in others.items():
        result.same(where, recorded, facts.picked(*keys))
    return recorded
