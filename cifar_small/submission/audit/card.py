"""What an audit says: a finding for each link, and the card of them all."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import wraps
from typing import Literal, TypeVar

from cifar_small.errors import UserError
from cifar_small.runs.directory import flatten

Verdict = Literal["pass", "fail", "not checked"]
Evidence = TypeVar("Evidence")
SHOWN = 3  # differences written out; the rest is counted


class Unavailable(Exception):  # noqa: N818  (no error: the link is then not checked)
    """A link's file is not at hand, or its record is too old to speak of it. The text says which and what would help."""


@dataclass(frozen=True)
class Finding:
    """One link: what was checked, what was expected, what was found."""

    link: str  # its name, such as weights
    checked: str
    expected: str
    found: str  # for a link that was not checked: why
    verdict: Verdict
    member: str = ""  # of an ensemble, such as `member 2 (net, seed 1)`

    def __str__(self) -> str:
        head = f"{self.verdict if self.verdict != 'fail' else 'FAIL':<12} {self.link:<16} "
        where = f"{self.member}: " if self.member else ""
        if self.verdict == "fail":
            return _short(f"{head}{where}{self.checked}: expected {self.expected}; found {self.found}")
        return _short(f"{head}{where}{self.checked}: {self.found}")


@dataclass(frozen=True)
class Card:
    """All findings of an audit, in the order of the chain."""

    subject: str
    findings: tuple[Finding, ...]

    def of(self, verdict: Verdict) -> tuple[Finding, ...]:
        """The findings with this verdict."""
        return tuple(finding for finding in self.findings if finding.verdict == verdict)

    def __str__(self) -> str:
        counts = ", ".join(f"{len(self.of(verdict))} {verdict}" for verdict in ("pass", "fail", "not checked"))
        missing = ", ".join(dict.fromkeys(finding.link for finding in self.of("not checked")))
        open_links = [f"no full audit: nothing is known of {missing}"] if missing else []
        return "\n".join([f"audit of {self.subject}", *map(str, self.findings), *open_links, counts])

    def to_dict(self) -> dict[str, object]:
        """The card as plain JSON values."""
        counts = {verdict: len(self.of(verdict)) for verdict in ("pass", "fail", "not checked")}
        return {"subject": self.subject, "counts": counts, "findings": [asdict(finding) for finding in self.findings]}


class CheckResult:
    """What one link compares: a fault makes it fail; else a gap leaves it not checked; else it passes."""

    def __init__(self) -> None:
        self.faults: list[tuple[str, str]] = []  # (expected, found)
        self.gaps: list[str] = []

    def require(self, holds: bool, expected: str, found: str) -> None:
        """A fault unless `holds`."""
        if not holds:
            self.faults.append((expected, found))

    def same(self, what: str, expected: object, found: object) -> None:
        """A fault unless both are equal; mappings are compared key by key."""
        if isinstance(expected, Mapping) and isinstance(found, Mapping):
            before, after = flatten(expected), flatten(found)
            keys = [key for key in (before | after) if before.get(key, "nothing") != after.get(key, "nothing")]
            for key in keys[:SHOWN]:
                self.faults.append((f"{what}: {key} {before.get(key, 'nothing')}", f"{after.get(key, 'nothing')}"))
            if len(keys) > SHOWN:
                self.faults.append((f"{what}: {len(keys) - SHOWN} more as recorded", "others"))
        else:
            self.require(expected == found, f"{what} {expected}", f"{found}")

    def gap(self, why: str) -> None:
        """Something this link needs could not be compared."""
        if why not in self.gaps:
            self.gaps.append(why)

    def settle(self, link: str, checked: str, conclusion: str) -> Finding:
        """The finding; `conclusion` is what a link that passes says."""
        if self.faults:
            expected, found = ("; ".join(dict.fromkeys(side)) for side in zip(*self.faults, strict=True))
            return Finding(link, checked, expected, found, "fail")
        if self.gaps:
            return Finding(link, checked, "", "; ".join(self.gaps), "not checked")
        return Finding(link, checked, conclusion, conclusion, "pass")


def link(name: str, checked: str) -> Callable[[Callable[[Evidence, CheckResult], str]], Callable[[Evidence], Finding]]:
    """Make a link of a function that compares evidence and returns what the card says if all agrees.

    Evidence that cannot be read, or is not as this toolkit writes it, is a fault of the link, not the end of the audit.
    """

    def decorate(function: Callable[[Evidence, CheckResult], str]) -> Callable[[Evidence], Finding]:
        @wraps(function)
        def settled(evidence: Evidence) -> Finding:
            result, conclusion = CheckResult(), ""
            try:
                conclusion = function(evidence, result)
            except Unavailable as reason:
                result.gap(str(reason))
            except OSError as error:
                result.gap(f"cannot read {error.filename}: {error.strerror}")
            except UserError as error:
                result.require(False, "evidence that can be read", " ".join(str(error).split()))
            except (LookupError, TypeError, ValueError, AttributeError) as error:
                reason_text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
                result.require(False, "a record as this toolkit writes it", reason_text)
            return result.settle(name, checked, conclusion)

        return settled

    return decorate


def _short(text: str) -> str:
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{28,52}\b", r"\1", text)
