"""Trained nets as ONNX files (`export` writes them), and such a file back as the net of its run.

A file takes images as a data set holds them, uint8 (N, S, S, 3), RGB, of the S pixels a side that its net reads, any N, and
gives logits (N, K). Normalization is a part of its graph, so pixels of another scale are an error. Its metadata name classes,
parameters and the hashes of config and weights. It ends with the SHA-256 of all that stands before, as checkpoints do: ONNX
itself would not notice a flipped bit in a weight.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from cifar_small.environment import integer_sums_saturate
from cifar_small.errors import CheckpointError, UserError
from cifar_small.files import sha256_bytes
from cifar_small.inference.predict import Net, load_net
from cifar_small.runs.directory import Run
from cifar_small.runs.records import OnnxFacts
from cifar_small.transforms.preprocess import scale_and_offset

INPUT, OUTPUT = "images", "logits"
# The start of one more entry of a ModelProto's metadata_props, `sha256` with 64 characters; the value follows.
SEAL = b"\x72\x4a\x0a\x06sha256\x12\x40"
DIGEST = 64
OVERFLOW = "has weights of 8 bits, whose sums can overflow on this processor (x86 without VNNI)"  # after the name of a file


def require_extra() -> None:
    """Raise UserError naming the extra unless everything that ONNX files need is installed."""
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if find_spec(name) is None]
    if missing:
        raise UserError(
            f"ONNX files need {', '.join(missing)}, which this environment does not have: pip install 'cifar_small[export]'"
        )


def seal_model(model: Any, properties: Mapping[str, Any]) -> bytes:
    """The file of an `onnx.ModelProto` with these metadata (values that are not text become JSON), ending with its checksum.

    Notes of the exporter are left out: they name source files of the machine, and nothing reads them.
    """
    side = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    model.doc_string = f"{INPUT}: uint8 (N, {side}, {side}, 3), RGB, not normalized; {OUTPUT}: float32 (N, classes)"
    graph = model.graph
    for part in (graph, *graph.node, *graph.value_info, *graph.initializer, *graph.input, *graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    model.ClearField("metadata_props")
    for key, value in properties.items():
        model.metadata_props.add(key=key, value=value if isinstance(value, str) else json.dumps(value, allow_nan=False))
    payload: bytes = model.SerializeToString(deterministic=True)
    return payload + SEAL + sha256_bytes(payload).encode()


def read_onnx(path: Path) -> bytes:
    """The content of a file that `seal_model` made. Raises CheckpointError for a missing, damaged or foreign one."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"cannot read {path}: {error.strerror}; expected a file written by cifar-small onnx or quantize"
        ) from None
    end = len(content) - DIGEST
    payload, seal, digest = content[: max(0, end - len(SEAL))], content[max(0, end - len(SEAL)) : end], content[end:]
    if seal != SEAL:
        raise CheckpointError(
            f"{path} ({len(content):,} bytes) is truncated, or was not written by cifar-small (no checksum); expected a file "
            "written by cifar-small onnx or quantize"
        )
    if sha256_bytes(payload).encode() != digest:
        raise CheckpointError(f"{path} is damaged: its content does not match its SHA-256; write it again")
    return content


def open_session(content: bytes, threads: int) -> Any:
    """An `onnxruntime.InferenceSession` of a file's content on the CPU, with so many threads in all."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # errors; its warnings are of its own graph optimizers
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def may_overflow(quantization: Mapping[str, Any]) -> bool:
    """Whether this processor may compute an int8 file wrongly; quantization: the facts that stand in it, empty for fp32."""
    return quantization.get("reduce_range") is False and integer_sums_saturate()


class OnnxModel(nn.Module):
    """An ONNX file called as the net it was made from: normalized images (N, 3, S, S) -> logits (N, K).

    The file takes whole pixel values. So views that move pixels reach it exactly; those that compute new ones (a blur, a border
    in the mean color) are rounded to the nearest of 0..255.
    """

    def __init__(self, session: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.session = session
        self.scale, self.offset = scale_and_offset(mean, std, torch.device("cpu"))

    def forward(self, images: Tensor) -> Tensor:
        """Undo the normalization, and run the file."""
        pixels = ((images.float() + self.offset) / self.scale).round_().clamp_(0, 255).byte()
        return torch.from_numpy(run_session(self.session, pixels.permute(0, 2, 3, 1).contiguous().numpy()))


def run_session(session: Any, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Logits (N, K) of uint8 images (N, S, S, 3)."""
    (logits,) = session.run([OUTPUT], {INPUT: pixels})
    return np.asarray(logits, np.float32)


def as_onnx_net(net: Net, content: bytes, file: str, threads: int | None = None) -> Net:
    """The net as the content of an ONNX file computes it, on so many threads (default: its config's, or torch's).

    Raises CheckpointError if the file was made from other weights.
    """
    import onnxruntime

    session = open_session(content, threads or net.config.engine.threads or torch.get_num_threads())
    properties = session.get_modelmeta().custom_metadata_map
    if properties["weights_sha256"] != net.facts.weights_sha256:
        made_from, held = properties["weights_sha256"][:12], net.facts.weights_sha256[:12]
        raise CheckpointError(
            f"{file} was made from the weights {made_from} of {properties['name']}, seed {properties['seed']}; "
            f"{net.facts.checkpoint}.pt of the run is {held}; write it again from this run with cifar-small onnx or quantize"
        )
    facts = OnnxFacts(
        file=file,
        sha256=sha256_bytes(content),
        bytes=len(content),
        precision=properties["precision"],
        onnxruntime=onnxruntime.__version__,
        threads=session.get_session_options().intra_op_num_threads,
    )
    if "quantization" in properties:
        facts = facts.updated(quantization=json.loads(properties["quantization"]))
    return replace(net, model=OnnxModel(session, net.mean, net.std), onnx=facts)


def load_onnx(run: Run, path: Path, checkpoint: str = "best", threads: int | None = None) -> Net:
    """A checkpoint of the run as an ONNX file computes it. Raises CheckpointError for a file that is damaged or of others."""
    require_extra()
    content = read_onnx(path)
    return as_onnx_net(load_net(run, checkpoint), content, path.name, threads)
