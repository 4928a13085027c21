"""Nets in 8-bit integers: static quantization by ONNX Runtime, and torch's dynamic quantization of linear layers beside it.

Static: weights are int8, with a scale for each output channel; activations are uint8, their ranges taken from training images
without augmentation. BatchNorm is merged into the convolutions before that. The normalization in front, the logits, and what
no integer kernel exists for (BatchNorm that follows no convolution, GELU, pooling by the mean) stay in fp32.
"""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from cifar_small.data import Images, index_hash, stratified_subset
from cifar_small.data.datamodule import to_tensor
from cifar_small.environment import integer_sums_saturate
from cifar_small.errors import UserError
from cifar_small.export.onnx_export import checked_onnx, properties_of
from cifar_small.files import probe_writable, refuse_existing, write_atomic
from cifar_small.inference.forward import compute_logits
from cifar_small.inference.onnx_session import INPUT, as_onnx_net, require_extra, seal_model
from cifar_small.inference.predict import Net, load_net, load_own_splits, relocate_net
from cifar_small.metrics.significance import paired_difference
from cifar_small.runs.directory import Run

CALIBRATION_IMAGES = 1000
CALIBRATION_BATCH = 25  # every activation of a batch is held in memory at once
PERCENTILE = 99.99  # share of an activation's values within its range; beyond, half at either end, it saturates
# What ONNX Runtime computes in integers. Its own default would also round BatchNorm's constants, for no kernel to use.
INTEGER_OPS = (
    *("Conv", "Gemm", "MatMul", "Add", "Mul", "Relu", "Clip", "LeakyRelu", "Sigmoid", "MaxPool"),
    *("Pad", "Slice", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"),
)
CLASSIFIERS = ("Gemm", "MatMul")


@dataclass(frozen=True)
class Int8Accuracy:
    """A net in integers beside the same net in fp32, on the same val images without views."""

    images: int
    fp32: float  # shares of right predictions
    int8: float
    difference: tuple[float, float, float]  # int8 - fp32, and its 95 % interval
    agreement: float  # share of images that both put into one class


@dataclass(frozen=True)
class Quantized:
    """What came of a quantization. `facts` stand in the file; sizes are in bytes."""

    accuracy: Int8Accuracy
    facts: dict[str, Any]
    size: int
    fp32_size: int


class _Batches:
    """Calibration images as ONNX Runtime's quantizer asks for them: a range of batches, then one after the other."""

    def __init__(self, pixels: npt.NDArray[np.uint8]) -> None:
        self.batches = np.split(pixels, range(CALIBRATION_BATCH, len(pixels), CALIBRATION_BATCH))
        self.rest: Iterator[npt.NDArray[np.uint8]] = iter(())

    def __len__(self) -> int:
        return len(self.batches)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Start over, with these batches alone."""
        self.rest = iter(self.batches[start_index:end_index])

    def get_next(self) -> dict[str, npt.NDArray[np.uint8]] | None:
        """The next batch by the name of the input, None after the last."""
        batch = next(self.rest, None)
        return None if batch is None else {INPUT: batch}


def calibration_images(net: Net, train: Images, count: int | None = None) -> Images:
    """So many of a net's training images, with the class shares of all, the same at every call. Raises UserError.

    count: None: CALIBRATION_IMAGES, or all where there are fewer.
    """
    count = min(CALIBRATION_IMAGES, len(train)) if count is None else count
    assert train.labels is not None
    if not 1 <= count <= len(train):
        raise UserError(f"{count:,} images for calibration; expected 1 to {len(train):,}, the training images", remedy="images")
    return train.take(stratified_subset(train.labels, count, net.config.data.split_seed))


def static_int8(net: Net, fp32: bytes, images: Images, *, reduce_range: bool | None = None) -> tuple[bytes, dict[str, Any]]:
    """The int8 file of a net from its fp32 one, and the facts of its making, which stand in it.

    images: `calibration_images`. reduce_range: weights of 7 bits, for processors whose sums of 8-bit products overflow (x86
    without VNNI). None: on such a processor.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    reduce_range = integer_sums_saturate() if reduce_range is None else reduce_range
    with TemporaryDirectory(prefix="cifar_small_quantize_") as temporary:
        given, merged, quantized = (Path(temporary) / f"{name}.onnx" for name in ("fp32", "merged", "int8"))
        given.write_bytes(fp32)
        quant_pre_process(given, merged, skip_symbolic_shape=True)
        graph = onnx.load(merged).graph
        nodes = list(graph.node)
        with redirect_stdout(io.StringIO()):  # it prints a line for each batch
            quantize_static(
                merged,
                quantized,
                _Batches(images.images),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(INTEGER_OPS),
                per_channel=True,
                reduce_range=reduce_range,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=[*_ends(nodes), *_off_zero(graph)],
                calibrate_method=CalibrationMethod.Percentile,
                extra_options={
                    "CalibPercentile": PERCENTILE,
                    "CalibStridedMinMax": 1,  # in spite of its name: batches that are looked at together, by any method
                    "OpTypesToExcludeOutputQuantization": list(CLASSIFIERS),  # 256 different logits would make ties
                },
            )
        model = onnx.load(quantized)
    norms = sum(isinstance(module, _BatchNorm) for module in net.model.modules())
    facts: dict[str, Any] = {
        "method": f"static, QDQ, int8 weights per channel, uint8 activations, ranges that hold {PERCENTILE} % of the values",
        "calibration_images": len(images),
        "calibration_split": "train",
        "calibration_ids_sha256": index_hash(images.ids),
        "reduce_range": reduce_range,
        "norms": norms,
        "norms_merged": norms - sum(node.op_type == "BatchNormalization" for node in nodes),
    }
    return seal_model(model, {**properties_of(net, "int8"), "quantization": facts}), facts


def _ends(nodes: list[Any]) -> list[str]:
    """Names of the nodes before the first convolution, which normalize, and after the classifier, which scale the logits.

    A user's net may have no convolution, or none but convolutions.
    """
    first = next((place for place, node in enumerate(nodes) if node.op_type == "Conv"), 0)
    last = max((place for place, node in enumerate(nodes) if node.op_type in CLASSIFIERS), default=len(nodes) - 1)
    return [node.name for node in (*nodes[:first], *nodes[last + 1 :])]


def _off_zero(graph: Any) -> list[str]:
    """Names of the nodes that clip to a range without 0, or to one that is no constant.

    ONNX Runtime leaves a Clip to the range of the integers behind it, which always holds 0.
    """
    from onnx import numpy_helper

    # Preprocessing has made every constant an initializer.
    constants = {tensor.name: float(numpy_helper.to_array(tensor)) for tensor in graph.initializer if not tensor.dims}

    def holds_zero(bounds: Sequence[str]) -> bool:
        given = zip((*bounds, "", "")[:2], (-inf, inf), strict=True)
        low, high = (constants.get(name) if name else unbounded for name, unbounded in given)
        return low is not None and high is not None and low <= 0 <= high

    return [node.name for node in graph.node if node.op_type == "Clip" and not holds_zero(node.input[1:])]


def quantize(
    run: Run,
    output: Path,
    *,
    count: int | None = None,
    reduce_range: bool | None = None,
    data_root: str | None = None,
    overwrite: bool = False,
) -> Quantized:
    """Write the int8 ONNX file of a run's net, and say what it costs on the run's val images.

    count: of calibration images. reduce_range: as `static_int8` takes it.
    """
    require_extra()
    refuse_existing(output, overwrite)
    net = relocate_net(load_net(run), None, data_root)
    train, val = load_own_splits(net)
    images = calibration_images(net, train, count)
    probe_writable(output)
    fp32 = checked_onnx(net, "the fp32 file behind it")[0]
    int8, facts = static_int8(net, fp32, images, reduce_range=reduce_range)
    accuracy = compare_on(net, as_onnx_net(net, int8, output.name), val)
    write_atomic(output, int8)
    return Quantized(accuracy, facts, len(int8), len(fp32))


def try_dynamic(run: Run, *, data_root: str | None = None) -> Quantized:
    """What torch's dynamic quantization makes of a run's net: nothing is written, since it leaves convolutions as they are.

    `facts` say how much of the net it touches; sizes are those of the weights.
    """
    net = relocate_net(load_net(run), None, data_root)
    _, val = load_own_splits(net)
    integer = dynamic_int8(net.model)
    linear = [module for module in net.model.modules() if isinstance(module, nn.Linear)]
    facts = {
        "method": "dynamic int8 of linear layers (torch.ao.quantization.quantize_dynamic)",
        "layers": len(linear),
        "weights_share": sum(weight.numel() for weight in {module.weight for module in linear}) / net.parameters,
    }
    return Quantized(compare_on(net, replace(net, model=integer), val), facts, bytes_of(integer), bytes_of(net.model))


def dynamic_int8(model: nn.Module) -> nn.Module:
    """A copy whose linear layers hold int8 weights and round their input anew for each batch; torch's, on the CPU."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.ao.quantization is deprecated", DeprecationWarning)
        warnings.filterwarnings("ignore", "torch.quantize_per_tensor, .* are deprecated", UserWarning)
        plain = copy.deepcopy(model).cpu().eval()
        integer: nn.Module = torch.ao.quantization.quantize_dynamic(plain, {nn.Linear}, torch.qint8)  # type: ignore[no-untyped-call]
    return integer


def compare_on(fp32: Net, int8: Net, val: Images) -> Int8Accuracy:
    """Both nets on the same labelled images, one view, on the CPU."""
    assert val.labels is not None
    pixels, size = to_tensor(val, torch.device("cpu")), fp32.config.engine.eval_batch_size
    first, second = (
        compute_logits(net.model, pixels, net.preprocess, "none", "fp32", size).argmax(1).numpy() for net in (fp32, int8)
    )
    right = [first == val.labels, second == val.labels]
    difference = paired_difference(*right)
    shares = [float(one.mean()) for one in (*right, first == second)]
    return Int8Accuracy(len(val), shares[0], shares[1], difference, agreement=shares[2])


def bytes_of(model: nn.Module) -> int:
    """The size of a file of its weights."""
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    return buffer.tell()
