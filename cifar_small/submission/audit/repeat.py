"""The link that costs minutes: the weights predict the unlabelled file once more."""

from __future__ import annotations

import numpy as np

from cifar_small.config.schema import split_views
from cifar_small.data import Images
from cifar_small.inference.onnx_session import OVERFLOW, may_overflow
from cifar_small.inference.predict import Net, predict_images
from cifar_small.runs.predictions import Predictions
from cifar_small.submission.audit.card import CheckResult, Unavailable, link
from cifar_small.submission.audit.evidence import Member

# How far a logit may lie from what it was, as a share of the largest logit, before rounding does not explain it. Measured on a
# CPU with two trained nets and 200 images: bf16 against fp32 0.016 at most; batch size and threads 3e-8 in fp32. The room above
# that is for other machines; in fp32 for TF32 of GPUs, whose rounding is a quarter of that of bf16.
TOLERANCE = {"fp32": 0.005, "fp16": 0.01, "bf16": 0.05, "int8": 0.1}  # fp16 rounds an eighth as coarsely as bf16


@link("repeated", "the weights predict the unlabelled file as they did")
def repeated(member: Member, result: CheckResult) -> str:
    """Logits again, in the recorded precision and views, within TOLERANCE; labels may differ only as far as that explains."""
    before = member.made.predictions
    net = member.onnx_net() if before.meta.onnx else member.net()
    images = member.sources.unlabelled(net.classes, net.stored)
    return compare_again(before, net, images, result)


def compare_again(before: Predictions, net: Net, images: Images, result: CheckResult) -> str:
    """Predict images as they were before, and require the same logits as far as rounding on another machine explains."""
    precision, views = str(before.meta.precision), str(before.meta.views)
    tolerance = TOLERANCE[precision]
    if before.meta.onnx is not None and net.onnx is None:
        raise Unavailable(f"{before.meta.file} was predicted by {before.meta.onnx.file} and not by the weights")
    again = predict_images(net, images, views, precision=precision, progress=True)
    if not np.array_equal(again.ids, before.ids) or again.logits.shape != before.logits.shape:
        raise Unavailable("the images at hand have other ids or classes than the predictions")
    largest = float(np.abs(before.logits).max())
    differences = np.abs(again.logits - before.logits).max(axis=1)
    name, share = split_views(views)
    if share < 1 and differences.max() > tolerance * largest:
        # By rounding, another image may have been the last that was given all views: each is as it was with or without them.
        for other in ("none", name):
            logits = predict_images(net, images, other, precision=precision, progress=True).logits
            differences = np.minimum(differences, np.abs(logits - before.logits).max(axis=1))
    difference = float(differences.max())
    most = tolerance * largest
    changed = int((again.predicted != before.predicted).sum())
    labels = f"{changed:,} of {len(again.ids):,} labels differ"
    what = f"{labels}; logits, which reach {largest:.2f}, by at most {difference:.2g} ({precision})"
    if net.onnx is not None and may_overflow(net.onnx.quantization):
        what += f"; {net.onnx.file} {OVERFLOW}"
    result.require(difference <= most, f"logits to within {most:.2g} ({tolerance:g} of the largest)", what)
    return what
