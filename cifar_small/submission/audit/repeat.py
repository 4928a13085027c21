"""The link that costs minutes: the weights predict the unlabelled file once more."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cifar_small.inference.predict import load_net, predict_images
from cifar_small.submission.audit.card import CheckResult, Unavailable, link
from cifar_small.submission.audit.evidence import Member

# How far a logit may lie from what it was, as a share of the largest logit, before rounding does not explain it. Measured on a
# CPU with two trained nets and 200 images: bf16 against fp32 0.016 at most; batch size and threads 3e-8 in fp32. The room above
# that is for other machines; in fp32 for TF32 of GPUs, whose rounding is a quarter of that of bf16.
TOLERANCE = {"fp32": 0.005, "fp16": 0.01, "bf16": 0.05}  # fp16 rounds an eighth as coarsely as bf16


@link("repeated", "the weights predict the unlabelled file as they did")
def repeated(member: Member, result: CheckResult) -> str:
    """Logits again, in the recorded precision and views, within TOLERANCE; labels may differ only as far as that explains."""
    before = member.made.predictions
    precision, views = str(before.meta.precision), str(before.meta.views)
    net = load_net(member.run)
    images = member.sources.unlabelled(net.classes)
    engine = net.config.engine.model_copy(update={"precision": precision, "device": "auto"})
    net = replace(net, config=net.config.model_copy(update={"engine": engine}))
    again = predict_images(net, images, views, progress=True)
    if not np.array_equal(again.ids, before.ids) or again.logits.shape != before.logits.shape:
        raise Unavailable("the file at hand has other ids or classes than the predictions: see the link unlabelled file")
    largest = float(np.abs(before.logits).max())
    difference = float(np.abs(again.logits - before.logits).max())
    most = TOLERANCE[precision] * largest
    changed = int((again.predicted != before.predicted).sum())
    labels = f"{changed:,} of {len(again.ids):,} labels differ"
    what = f"{labels}; logits, which reach {largest:.2f}, by at most {difference:.2g} ({precision})"
    result.require(difference <= most, f"logits to within {most:.2g} ({TOLERANCE[precision]:g} of the largest)", what)
    return what
