#!/usr/bin/env bash
# onnxruntime 1.31.1: static quantization takes out a Clip whose range lacks 0, and with it the bound nearer to 0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnxruntime==1.31.1 onnx==1.23.2 numpy==2.4.6 sympy==1.14.0 || exit 77
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import logging
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

logging.disable()
folder = Path(sys.argv[1])
generator = np.random.default_rng(0)
images = generator.normal(size=(64, 3, 8, 8)).astype(np.float32)
weights = generator.normal(size=(8, 3, 3, 3)).astype(np.float32)


class Reader(CalibrationDataReader):
    def __init__(self):
        self.batches = iter([{"images": images}])

    def get_next(self):
        return next(self.batches, None)


def net(low, high):
    """A convolution, a clip, and a 1x1 convolution that passes on what it gets."""
    one = np.eye(8, dtype=np.float32)[:, :, None, None]
    constants = {"weights": weights, "low": np.float32(low), "high": np.float32(high), "one": one}
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["images", "weights"], ["convolved"], pads=[1] * 4),
            helper.make_node("Clip", ["convolved", "low", "high"], ["clipped"]),
            helper.make_node("Conv", ["clipped", "one"], ["output"]),
        ],
        "net",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", 8, 8, 8])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def extremes(path):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"images": images})
    return round(float(output.min()), 2), round(float(output.max()), 2)


print("version: onnxruntime", onnxruntime.__version__, "onnx", onnx.__version__)
seen = {}
for low, high in ((0, 6), (1, 6), (-6, -1)):
    onnx.save(net(low, high), folder / "fp32.onnx")
    quantize_static(folder / "fp32.onnx", folder / "int8.onnx", Reader(), quant_format=QuantFormat.QDQ)
    seen[low, high] = extremes(folder / "fp32.onnx"), extremes(folder / "int8.onnx")
print("expected: outputs between the bounds in int8 as in fp32")
print("seen, fp32 and int8:", seen)
raise SystemExit(0 if [int8 for _, int8 in seen.values()] == [(0, 6), (0, 6), (-6, 0)] else 1)
PYTHON
