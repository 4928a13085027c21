"""A run's net written as an ONNX file, and the file checked against the net it was made from."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cifar_small.errors import CheckpointError
from cifar_small.export.tracing import refusals_of_torch
from cifar_small.files import write_atomic
from cifar_small.inference.forward import compute_logits
from cifar_small.inference.onnx_session import INPUT, OUTPUT, as_onnx_net, require_extra, seal_model
from cifar_small.inference.predict import Net
from cifar_small.models import merge_pooled_norms
from cifar_small.transforms.preprocess import FromPixels

CHECKED = 64  # synthetic images
TOLERANCE = 1e-3  # of the largest logit; measured differences are a hundred times smaller
ROUNDING = 4  # times torch's own error in fp32, which the order of its sums decides


class _FromStored(nn.Module):
    """A net with its preprocessing in front: uint8 (N, stored, stored, 3) -> logits (N, K)."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        model = copy.deepcopy(net.model).cpu().eval()
        merge_pooled_norms(model)
        self.net = FromPixels(model, net.preprocess, net.stored)

    def forward(self, images: Tensor) -> Tensor:
        """From the order of axes that images are stored in."""
        # contiguous: from channels-last tensors torch exports the average pool with a gather over its strides.
        return self.net(images.permute(0, 3, 1, 2).contiguous())  # type: ignore[no-any-return]


class _InDouble(nn.Module):
    """A copy of a net that computes in float64."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.net = copy.deepcopy(model).cpu().double()

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits of normalized images."""
        return self.net(pixels.double())  # type: ignore[no-any-return]


def export_onnx(net: Net) -> bytes:
    """The content of the ONNX file of a net, in fp32, with a batch of any size.

    Raises UserError without the extra, or for a net that torch.export cannot trace.
    """
    require_extra()
    model = _FromStored(net).eval()
    with torch.no_grad(), warnings.catch_warnings(), refusals_of_torch(net, "an ONNX file"):
        # torch's own exporter copies a class of its own that it has deprecated.
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
        program = torch.onnx.export(
            model,
            (torch.zeros(2, net.stored, net.stored, 3, dtype=torch.uint8),),
            dynamo=True,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: "N"},),
            verbose=False,
        )
    assert program is not None  # it is None with dynamo=False
    return seal_model(program.model_proto, properties_of(net, "fp32"))


def properties_of(net: Net, precision: str) -> dict[str, object]:
    """The metadata of a net's ONNX file."""
    return {
        "name": net.config.name,
        "seed": net.config.seed,
        "classes": list(net.classes),
        "parameters": net.parameters,
        "precision": precision,
        "config_sha256": net.facts.config_sha256,
        "weights_sha256": net.facts.weights_sha256,
        "lineage": net.facts.lineage,
    }


def largest_difference(net: Net, content: bytes, file: str) -> tuple[float, float]:
    """The largest difference between logits of the net and of its fp32 file on synthetic images, and the largest logit.

    The images are smooth random fields of full contrast, the same at every call: no data is needed to write a file. Raises
    CheckpointError for a difference that rounding does not explain.
    """
    generator = torch.Generator().manual_seed(0)
    fields = torch.rand(CHECKED, 3, 6, 6, generator=generator)
    images = (255 * F.interpolate(fields, size=(net.stored, net.stored), mode="bicubic")).round().clamp(0, 255).byte()
    expected, got = (
        compute_logits(one.model, images, one.preprocess, "none", "fp32", CHECKED)
        for one in (net, as_onnx_net(net, content, file))
    )
    difference, largest = float((got - expected).abs().max()), float(expected.abs().max())
    allowed = TOLERANCE * max(1.0, largest)
    if allowed < difference:
        # On images far from those its norms have seen, a net's own fp32 logits may be as far from the exact ones.
        exact = compute_logits(_InDouble(net.model), images, net.preprocess, "none", "fp32", CHECKED)
        allowed = max(allowed, ROUNDING * float((expected - exact).abs().max()))
        error = float((got - exact).abs().max())
    else:
        error = difference
    if not error <= allowed:
        raise CheckpointError(
            f"{file} would differ from {net.config.name} by {difference:.2g} in logits of up to {largest:.2g}, so nothing was "
            "written: this net cannot be exported with these versions of torch and onnxruntime"
        )
    return difference, largest


def checked_onnx(net: Net, file: str) -> tuple[bytes, float, float]:
    """The content of a net's ONNX file and `largest_difference`. Raises CheckpointError for one that differs from the net."""
    content = export_onnx(net)
    return content, *largest_difference(net, content, file)


def write_onnx(net: Net, output: Path) -> tuple[bytes, float, float]:
    """Write a net's ONNX file after checking it against the net; returns its content and `largest_difference`."""
    content, difference, largest = checked_onnx(net, output.name)
    write_atomic(output, content)
    return content, difference, largest
