"""The audit of a submission: the chain from the CSV back to the data, and the rules, derived again from what is at hand.

CSV <- predictions <- weights <- config <- data: each link is one function (`chain`, `rules`, `repeat`) that compares what
files contain with what others say of them, and returns a `Finding`; `audit` puts them on a `Card`. Three verdicts: pass, fail,
and not checked, with the reason, where a file is missing or an old record does not say.

What this finds: mistakes and careless tampering, that is, a file or a value that was edited, exchanged, deleted or made by
something other than its record says. What it cannot find: somebody who invents a record, or changes a file and then rewrites
every hash and number that depends on it so that all agree again. Repeating the prediction (`repredict`) narrows that to weights
which really give these labels; that they come from this config and these data only training again can tell.
"""

from cifar_small.submission.audit.card import Card, Finding, Verdict
from cifar_small.submission.audit.evidence import Submission, gather
from cifar_small.submission.audit.run import audit

__all__ = ["Card", "Finding", "Submission", "Verdict", "audit", "gather"]
