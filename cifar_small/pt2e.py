"""Torch's own static int8: PT2E quantization by torchao, compiled by inductor. An extra, to stand beside ONNX Runtime's.

It lives in the process that made it: its file would hold more than the weights, and needs the same torch to be read. What is
handed in is the ONNX file of quantize.py.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from cifar_small.data import Images
from cifar_small.errors import UserError
from cifar_small.models.whitened import merge_pooled_norms
from cifar_small.predict import Net, to_tensor

CALIBRATION_BATCH = 50
LARGEST_BATCH = 65_536


def require_torchao() -> None:
    """Raise UserError naming the extra unless torchao is installed."""
    if find_spec("torchao") is None:
        raise UserError(
            "torch's PT2E quantization needs torchao, which this environment does not have: pip install -e '.[quant]' in this "
            "project's folder; quantize without --engine uses ONNX Runtime"
        )


class Pt2e(nn.Module):
    """A net whose convolutions and linear layers inductor computes in int8; compiled at the first batch, in seconds."""

    def __init__(self, converted: nn.Module) -> None:
        super().__init__()
        # Not a submodule: an exported graph refuses train() and eval().
        self.compiled = [torch.compile(converted)]

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (N, 3, H, W) to logits (N, K)."""
        import torch._inductor.config as inductor

        with inductor.patch(freezing=True), quiet(), torch.no_grad():  # freezing: int8 weights become constants of the code
            logits: Tensor = self.compiled[0](images)
        return logits


def pt2e_int8(net: Net, images: Images) -> Pt2e:
    """The net in int8 on the CPU, its ranges taken from calibration images.

    Weights have a scale for each output channel, activations one range each. BatchNorm is merged into the convolutions; a
    whitening stem stays in fp32.
    """
    require_torchao()
    with quiet():
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
        from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
            X86InductorQuantizer,
            get_default_x86_inductor_quantization_config,
        )

        model = copy.deepcopy(net.model).cpu().eval()
        merge_pooled_norms(model)
        batches = [net.preprocess(part) for part in torch.split(to_tensor(images, torch.device("cpu")), CALIBRATION_BATCH)]
        sizes = ({0: torch.export.Dim("batch", min=1, max=LARGEST_BATCH)},)
        with torch.no_grad():
            exported = torch.export.export(model, (batches[0],), dynamic_shapes=sizes).module()
            quantizer = X86InductorQuantizer()
            quantizer.set_global(get_default_x86_inductor_quantization_config())
            prepared = prepare_pt2e(exported, quantizer)
            for batch in batches:
                prepared(batch)
            return Pt2e(convert_pt2e(prepared))


@contextmanager
def quiet() -> Iterator[None]:
    """Without what torchao and inductor say of their own work: of kernels for GPUs, of calls that are to change."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
