"""The order of an audit: the chain from the CSV back, then the rules, net by net."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from cifar_small.submission.audit import chain, origin, rules, soup
from cifar_small.submission.audit.card import Card, Finding
from cifar_small.submission.audit.evidence import Member, Submission
from cifar_small.submission.audit.repeat import repeated

OF_A_NET: tuple[Callable[[Member], Finding], ...] = (
    chain.weights,
    chain.config,
    chain.data,
    chain.split,
    rules.summary,
    rules.selection,
    rules.parameters,
    origin.from_scratch,
    rules.test_images,
    rules.test_readings,
    rules.seed,
    rules.commit,
)


def audit(submission: Submission, *, repredict: bool = False) -> Card:
    """Follow every link of a submission; see `gather` for what it needs.

    repredict: also predict the unlabelled file again with each net's weights. What cannot be checked is said to be so; only
    evidence that `gather` refuses raises.
    """
    findings = [
        chain.csv_bytes(submission),
        chain.rows(submission),
        chain.labels(submission),
        chain.predictions(submission.made),
        chain.record(submission),
    ]
    joined = bool(submission.recorded_meta.members)
    if joined:
        findings.append(chain.ensemble(submission))
    for member in submission.members:
        own = [chain.predictions(member.made)] if joined else []
        own += [chain.onnx_file(member)] if member.recorded_meta.onnx else []
        own += [check(member) for check in OF_A_NET]
        own += [soup.soup(member)] if member.recorded_meta.soup else []
        own += [repeated(member)] if repredict else []
        findings += [replace(finding, member=member.label) for finding in own]
    findings += [rules.budget(submission), rules.unlabelled_file(submission), rules.csv_commit(submission)]
    return Card(f"{submission.csv}: {submission.recorded_meta.name}", tuple(findings))
