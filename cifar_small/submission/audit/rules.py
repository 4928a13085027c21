"""The links that are rules: what was selected and how, parameters, test images and readings, seed, commit."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from cifar_small.config.schema import OwnModel
from cifar_small.data import load_test
from cifar_small.data.images import Images
from cifar_small.data.sources import has_test_part
from cifar_small.data.test_split import MOST_COPIES, count_copies, is_official, more_copies_than_chance, part_of
from cifar_small.environment import code_sha256
from cifar_small.errors import DataError
from cifar_small.files import sha256_bytes, sha256_file
from cifar_small.models.counting import check_tensors, count_parameters, trainable_parameters
from cifar_small.runs.directory import read_metrics
from cifar_small.runs.predictions import find_predictions
from cifar_small.runs.records import NetFacts, Session, SubmissionRecord, Summary, TestReading, extension_of
from cifar_small.submission.audit.card import CheckResult, Unavailable, link
from cifar_small.submission.audit.evidence import Member, Submission
from cifar_small.submission.audit.repeat import compare_again
from cifar_small.wording import plural


@link("summary", "the run's summary is what its files give")
def summary(member: Member, result: CheckResult) -> str:
    """Its numbers again: from the weights, the config, and the predictions of val."""
    said, state, config, val = member.summary, member.best, member.run.config(), member.val
    again: dict[str, object] = {
        "name": config.name,
        "seed": config.seed,
        "parameters": state["parameters"],
        "max_params": config.rules.max_params,
        "epochs_planned": config.epochs,
        "last_epoch": config.last_epoch if config.last_epoch < 1 and said.epochs == config.epochs else None,
        "selection": config.selection,
        "selected_epoch": state["epoch"],
        "val_images": len(val.ids),
        "views": val.meta.views,
        "val_accuracy_plain": state["val_accuracy"],
        "data": state["data"],
    }
    again["lineage"] = state.get("lineage", [])
    if said.ancestors:  # of summaries from before they were kept, nothing is known
        again["ancestors"] = state.get("ancestors", [])
    if "soup" in state:  # its epochs are those of all the runs it was made of
        del again["epochs_planned"], again["last_epoch"]
        again["soup"] = state["soup"]
    if val.labels is not None:
        again |= {"val_accuracy": val.accuracy, "val_interval": list(val.interval)}
    plain = said.plain()
    result.same("summary.json", again, {key: plain.get(key) for key in again})
    result.same("the weights of val.npz:", said.weights_sha256, val.meta.weights_sha256)
    if said.val_predictions_sha256 not in (None, val.meta.sha256):  # made again since: by these weights?
        compare_again(val, member.net("best"), member.splits[1], result)
    return f"{said.val_accuracy:.2%} of {len(val.ids):,} validation images, views {said.views}"


@link("selection", "the weights are those of the epoch that the rule selects on val")
def selection(member: Member, result: CheckResult) -> str:
    """The selected epoch again from metrics.csv, the run's and the record's copy."""
    said, config = member.summary, member.config
    own = None if member.given_run is None else member.given_run.metrics_file
    paths = [path for path in (own, member.copied("metrics.csv")) if path is not None and path.exists()]
    if member.given_run is not None and "soup" in member.checkpoint:
        taken = [net for net in said.soup if net.taken]
        result.same("epoch of the last member", max(net.epoch for net in taken), said.selected_epoch)
        how = "all of them" if len(taken) == len(said.soup) else "chosen on val"
        return f"an average of {len(taken)} of {len(said.soup)} nets, {how}"
    if not paths:
        raise Unavailable("no metrics.csv, in a run directory or beside the CSV")
    for path in paths:
        if said.metrics_sha256 is not None:
            result.same(f"SHA-256 of {path.name}", said.metrics_sha256, sha256_file(path))
        rows = read_metrics(path)
        accuracies = [row["val_accuracy"] for row in rows]
        place = len(rows) - 1 if config.selection == "last" else accuracies.index(max(accuracies))  # the first of equals
        result.same("epochs", said.epochs, len(rows))
        result.same("selected epoch", place + 1, said.selected_epoch)
        if not member.selected:
            place = kept_epoch(member) - 1
        result.same("its accuracy on val", accuracies[place], member.recorded_meta.val_accuracy)
        if member.given_run is not None:
            result.same("epoch of the checkpoint", place + 1, member.checkpoint["epoch"])
            result.same("accuracy of the checkpoint on val", accuracies[place], member.checkpoint["val_accuracy"])
    if not member.selected:
        return f"{member.recorded_meta.checkpoint} of {said.epochs} epochs, kept and named, not selected by the rule"
    rule = "best on val" if config.selection == "best" else "last"
    sessions = (
        member.given_run.sessions() if member.given_run is not None else member.recorded.sessions if member.recorded else []
    )
    odd = "".join(f", {fact}" for fact in (said.ended_early, extension_of(sessions)) if fact)
    return f"epoch {said.selected_epoch} of {said.epochs}{odd}, the rule being: {rule}"


def kept_epoch(member: Member) -> int:
    """The epoch of a checkpoint that is not the selected one: by its name, or the last. Raises Unavailable."""
    name = member.recorded_meta.checkpoint
    return int(name.removeprefix("epoch-")) if name.startswith("epoch-") else member.summary.epochs


@link("parameters", "trainable parameters, counted by building the net again")
def parameters(member: Member, result: CheckResult) -> str:
    """The count of the config's net, of the weights themselves, and what the records say."""
    counted = counted_parameters(member)
    result.same("in the record of the predictions:", counted, member.recorded_meta.parameters)
    if member.recorded is not None:
        result.same("in the recorded summary:", counted, member.recorded.summary.parameters)
    if member.given_run is not None:
        result.same("in the checkpoint:", counted, member.checkpoint["parameters"])
        net = member.net()  # refuses weights that do not fit the net
        check_tensors(net.model)
        result.same("in the net that the checkpoint fills:", counted, count_parameters(net.model))
    where = (
        "by its config and in the checkpoint"
        if member.given_run is not None
        else "by its config alone: no checkpoint is at hand"
    )
    model = member.config.model
    version = f" (SHA-256 {str(model.sha256)[:12]})" if isinstance(model, OwnModel) else ""
    return f"{counted:,} in {model.family}{version}, {where}"


def counted_parameters(member: Member) -> int:
    """Trainable parameters of the net that a member's config describes. Raises Unavailable without a config."""
    return trainable_parameters(member.config.model, len(member.classes))


@link("budget", "trainable parameters of all nets together against the rules")
def budget(submission: Submission, result: CheckResult) -> str:
    """The sum of what is counted, where a config is at hand, and of what is recorded."""
    most = submission.rules.max_params
    counts = [counted_parameters(member) for member in submission.members]
    result.same("the record's sum:", sum(counts), submission.recorded_meta.parameters)
    result.require(sum(counts) <= most, f"at most {most:,}", f"{sum(counts):,}, {sum(counts) - most:,} over")
    each = " + ".join(f"{count:,}" for count in counts) + (" = " if len(counts) > 1 else "")
    return f"{each}{sum(counts):,} of at most {most:,}" if len(counts) > 1 else f"{sum(counts):,} of at most {most:,}"


@link("test images", "no image of the test split or of the unlabelled file was trained on or selected with")
def test_images(member: Member, result: CheckResult) -> str:
    """Pixels compared exactly; of the test split nothing else is read. Copies that data sets have of old are allowed."""
    train, val, facts = member.splits
    others: dict[str, Images] = {}
    recorded = [] if member.recorded is None else member.recorded.test_readings
    readings = recorded if member.given_run is None else member.given_run.test_readings()
    data, said = member.sources.located(member.config.data), []
    try:
        if readings or has_test_part(data):
            others["the test split"] = load_test(data)
        else:
            said.append("its data has no labelled test part")
    except DataError as error:
        result.gap(f"the test split cannot be read: {error}")
    if "the test split" in others:
        official = is_official(facts.sha256, others["the test split"].sha256)
        result.require(official is not False, "the official test split of its training part", "others")
        for reading in readings:
            if reading.images_sha256 is not None:  # readings of older versions have none
                read = part_of(others["the test split"], reading.images).sha256
                result.same(f"SHA-256 of the images of the reading of {reading.time}", read, reading.images_sha256)
    if member.sources.file is not None:
        others["the unlabelled file"] = member.sources.unlabelled(member.classes)
    if said and not others:
        result.gap("there is no labelled test part and no unlabelled file at hand, so nothing was compared: give the file")
    for where, images in others.items():
        copies = count_copies(images, train, val)
        expected = f"at most {MOST_COPIES:.1%} of the images of {where} among those trained on"
        result.require(copies <= MOST_COPIES * len(images), expected, f"{copies:,} of {len(images):,}")
        said.append(
            f"{copies:,} of {len(images):,} images of {where} are, pixel by pixel, among the {len(train) + len(val):,} used"
        )
    return "; ".join(said)


@link("test readings", "every reading of the test split is on record, and none came before training ended")
def test_readings(member: Member, result: CheckResult) -> str:
    """The run's readings against the record's, their chain of hashes, the predictions files of test, and the sessions."""
    recorded = None if member.recorded is None else member.recorded.test_readings
    if member.given_run is None and recorded is not None:
        raise Unavailable(f"recorded: {_told(recorded)}; whether that is all only the run directory tells: give it")
    own = member.run.test_readings()
    if recorded is not None:
        result.require(own[: len(recorded)] == recorded, f"the record's: {_told(recorded)}", _told(own))
        hidden = [reading for reading in own[len(recorded) :] if _time(reading.time) < _time(member.written)]
        result.require(
            not hidden, "the record to hold all readings before it was written", f"{len(hidden)} more: {_told(hidden)}"
        )
    _compare_chain(member, result)
    known = {reading.predictions_sha256 for reading in own}
    for path, predictions in find_predictions(member.run.predictions):
        of_test = predictions.meta.split == "test"
        result.require(not of_test or predictions.meta.sha256 in known, f"a reading that made {path.name}", "none")
    ended = _end_of_training(member, result) if own else None
    early = [reading for reading in own if ended is not None and _time(reading.time) < ended]
    result.require(not early, f"no reading before the end of training, {ended}", _told(early))
    _judge_labels_at_hand(member, result)
    return _told(own) + _told_of_members(member.summary, result)


def _end_of_training(member: Member, result: CheckResult) -> datetime | None:
    """When training ended, or for runs of older versions a time that is not after it; a gap where that says little."""
    said = member.summary
    if said.finished is not None:
        return _time(said.finished)
    began = sorted(_time(session.started) for session in member.run.sessions())
    if len(began) == 1:
        return began[0] + timedelta(seconds=int(said.seconds))
    result.gap("a run of an older version, which does not say when training ended, only when its last session began")
    return began[-1] if began else None


def _told_of_members(said: Summary, result: CheckResult) -> str:
    """How often test was read in the runs that a soup was made of; empty for other runs."""
    if not said.soup:
        return ""
    if said.readings_before is None:
        result.gap("a soup of an older version, which does not say how often test was read in the runs it was made of")
        return ""
    return f"; in the runs that the soup was made of {plural(said.readings_before, 'reading')} before"


def _judge_labels_at_hand(member: Member, result: CheckResult) -> None:
    """Say that readings cannot be counted where the unlabelled file holds test images, whose labels are at hand."""
    try:
        test = load_test(member.sources.located(member.config.data))
        file = member.sources.unlabelled(member.classes)
    except (Unavailable, DataError):  # the links of test images and of the unlabelled file speak of it
        return
    if known := more_copies_than_chance(file, test):
        result.gap(
            f"{known:,} of {len(file):,} images of the unlabelled file are of the test split, whose labels are at hand: "
            f"predicting and scoring it leaves no reading; on record: {_told(member.run.test_readings())}"
        )


def _compare_chain(member: Member, result: CheckResult) -> None:
    """Each line of test_readings.jsonl names the hash of the line before it, so that none can go from their midst."""
    before: str | None = None
    for number, (line, reading) in enumerate(zip(member.run.test_reading_lines(), member.run.test_readings(), strict=True), 1):
        if "previous_sha256" in reading.model_fields_set:  # readings of older versions have none
            result.same(f"reading {number} to follow", before, reading.previous_sha256)
        before = sha256_bytes(line.encode())


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _told(readings: Sequence[TestReading]) -> str:
    """How often, when and with what result."""
    if not readings:
        return "never read"
    each = [f"{reading.time}, views {reading.views}, {reading.accuracy:.2%} of {reading.images:,}" for reading in readings]
    return f"read {'once' if len(each) == 1 else f'{len(each)} times'}: {'; '.join(each)}"


@link("seed", "one seed in the config, the predictions and the summary")
def seed(member: Member, result: CheckResult) -> str:
    """The config's seed against what the records say."""
    config = member.config
    result.same("in the record of the predictions: seed", config.seed, member.recorded_meta.seed)
    if member.recorded is not None:
        result.same("in the recorded summary: seed", config.seed, member.recorded.summary.seed)
    return f"{config.seed}, of the split {config.data.split_seed}"


@link("commit", "training and prediction ran from committed or installed code")
def commit(member: Member, result: CheckResult) -> str:
    """Commit and dirty flag of every session of training, in the run and in the record, and of the prediction."""
    sessions = [] if member.given_run is None else member.given_run.sessions()
    sessions = [*sessions, *([] if member.recorded is None else member.recorded.sessions)]
    entries: list[tuple[str, Session | NetFacts | SubmissionRecord]] = [("training", session) for session in sessions]
    if not entries:
        raise Unavailable("no sessions of training at hand: give the run directory")
    if "commit" in member.recorded_meta.model_fields_set:  # predictions of older versions have none
        entries.append(("prediction", member.recorded_meta))
    return _committed(result, entries)


@link("commit of CSV", "the CSV was written from committed or installed code")
def csv_commit(submission: Submission, result: CheckResult) -> str:
    """Commit and dirty flag in the record."""
    return _committed(result, [("the CSV", submission.record)])


def _committed(result: CheckResult, entries: Sequence[tuple[str, Session | NetFacts | SubmissionRecord]]) -> str:
    """A fault for changed code, a gap for code that is not known; the text says which was used for what."""
    used: dict[str, None] = {}
    for what, entry in entries:
        if entry.commit is None or entry.dirty is None:
            code = entry.code_sha256
            if code is not None and code == code_sha256():
                used[f"{what} from an installed package, the code of this audit, SHA-256 {code}"] = None
            else:
                installed = f"; its code has the SHA-256 {code}, that of this audit another: audit with the same version"
                result.gap(f"{what} names no commit: it ran outside a git checkout{installed if code else ''}")
            continue
        clean = entry.dirty is False
        result.require(clean, f"{what} from {entry.commit} as committed", "files changed since (dirty)")
        used[f"{what} from {entry.commit}"] = None
    return ", ".join(used)


@link("unlabelled file", "the file at hand is the one that was predicted")
def unlabelled_file(submission: Submission, result: CheckResult) -> str:
    """The hash of its images and ids against the record."""
    images = submission.sources.unlabelled(submission.classes)
    result.same("SHA-256 of its images and ids", submission.recorded_meta.images_sha256, images.sha256)
    return f"{len(images):,} images, SHA-256 {images.sha256}"
