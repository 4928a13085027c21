#!/usr/bin/env bash
# onnxruntime 1.31.1: static quantization with CalibrationMethod.Entropy writes, bit for bit, the file of MinMax, however far an outlier lies; merged batch by batch (CalibStridedMinMax), the order of batches decides whether it is cut off; export/quantize.py takes a percentile
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnxruntime==1.31.1 onnx==1.23.2 numpy==2.4.6 sympy==1.14.0 || exit 77
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import io
import logging
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, quantize_static

logging.disable()
folder = Path(sys.argv[1])
generator = np.random.default_rng(0)
images = generator.normal(size=(256, 3, 8, 8)).astype(np.float32)
images[0, 0, 0, 0] = 40  # one pixel of 49,152 lies ten times farther out than all others
weights = generator.normal(size=(8, 3, 3, 3)).astype(np.float32)
graph = helper.make_graph(
    [helper.make_node("Conv", ["images", "weights"], ["convolved"], pads=[1] * 4), helper.make_node("Relu", ["convolved"], ["output"])],
    "net",
    [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, 8, 8])],
    [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", 8, 8, 8])],
    [numpy_helper.from_array(weights, "weights")],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
onnx.checker.check_model(model)
onnx.save(model, folder / "fp32.onnx")


class Reader(CalibrationDataReader):
    """Eight batches, forwards or backwards."""

    def __init__(self, backwards):
        self.batches = np.split(images, 8)[:: -1 if backwards else 1]
        self.set_range(0, 8)

    def __len__(self):
        return len(self.batches)

    def set_range(self, start_index, end_index):
        self.rest = iter(self.batches[start_index:end_index])

    def get_next(self):
        batch = next(self.rest, None)
        return None if batch is None else {"images": batch}


def quantized(method, backwards=False, **options):
    """The file, and the range that its 256 steps for the images span."""
    with redirect_stdout(io.StringIO()):
        quantize_static(
            folder / "fp32.onnx",
            folder / "int8.onnx",
            Reader(backwards),
            quant_format=QuantFormat.QDQ,
            calibrate_method=method,
            extra_options=options,
        )
    constants = {one.name: numpy_helper.to_array(one) for one in onnx.load(folder / "int8.onnx").graph.initializer}
    return (folder / "int8.onnx").read_bytes(), round(255 * float(constants["images_scale"]), 1)


print("version: onnxruntime", onnxruntime.__version__, "onnx", onnx.__version__)
print("expected: Entropy looks for the best bound, which cuts off what next to nothing reaches, in whatever order batches come")
methods = {name: getattr(CalibrationMethod, name) for name in ("MinMax", "Entropy")}
whole = {name: quantized(method) for name, method in methods.items()}
strided = {
    name: [quantized(method, backwards, CalibStridedMinMax=1)[1] for backwards in (False, True)] for name, method in methods.items()
}
print("seen: width of the range of the images:", {name: width for name, (_, width) in whole.items()})
print("seen: the two files are equal:", whole["MinMax"][0] == whole["Entropy"][0])
print("seen: with CalibStridedMinMax=1, the outlier in the first batch and in the last:", strided)
same = whole["MinMax"][0] == whole["Entropy"][0] and strided["MinMax"][0] == strided["MinMax"][1] == strided["Entropy"][0]
raise SystemExit(0 if same and strided["Entropy"][1] < 0.5 * strided["Entropy"][0] else 1)
PYTHON
