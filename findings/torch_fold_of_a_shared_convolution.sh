#!/usr/bin/env bash
# torch 2.13.0, torchao 0.18.0: where a convolution is used twice, fuse, fuse_fx and prepare_pt2e fold BatchNorm into it wrongly, without a word; export/quantize.py folds in the ONNX graph
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 torchao==0.18.0 numpy==2.4.6 || exit 77
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import copy
import logging

logging.disable(logging.WARNING)  # torchao names kernels of other devices that it did not load
import torch
import torchao
from torch import nn
from torch.ao.quantization.quantize_fx import fuse_fx
from torch.fx.experimental.optimization import fuse
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86


class Net(nn.Module):
    """Two layers of convolution and BatchNorm. form: what of the second is the first's very module, else a copy of it."""

    def __init__(self, form):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)
        self.conv2 = copy.deepcopy(self.conv1) if form == "nothing shared" else self.conv1
        self.norm2 = self.norm1 if form == "block shared" else nn.BatchNorm2d(3)
        self.head = nn.Linear(3 * 16 * 16, 10)

    def forward(self, x):
        x = torch.relu(self.norm1(self.conv1(x)))
        return self.head(torch.relu(self.norm2(self.conv2(x))).flatten(1))


def int8(net):
    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(torch.export.export(net, (images,)).module(), quantizer)
    prepared(images)
    return convert_pt2e(prepared)


torch.set_num_threads(1)
torch.manual_seed(0)
images = torch.randn(500, 3, 16, 16)
seen = {}
with torch.no_grad():
    for form in ("nothing shared", "convolution shared", "block shared"):
        torch.manual_seed(1)
        net = Net(form).eval()
        for norm in dict.fromkeys((net.norm1, net.norm2)):  # as after training
            norm.running_mean.normal_(std=0.3)
            norm.running_var.uniform_(0.5, 2)
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.normal_(norm.bias, std=0.3)
        exact = net(images)
        for name, way in {"fuse": fuse, "fuse_fx": fuse_fx, "int8 of torchao": int8}.items():
            logits = way(net)(images)
            error = (logits - exact).abs().max().item() / exact.std().item()
            seen[name, form] = (error, (logits.argmax(1) == exact.argmax(1)).float().mean().item())
        assert torch.equal(net(images), exact)
print("version: torch", torch.__version__, "torchao", torchao.__version__)
print("expected: folding changes logits by rounding alone (int8: by its steps), whatever two layers share")
for (name, form), (error, same) in seen.items():
    print(f"seen: {name:15} {form:18} off by up to {error:.1e} standard deviations of the logits, {same:.1%} of classes the same")
wrong = {key for key, (error, _) in seen.items() if error > 0.5}
described = {("fuse_fx", "convolution shared")} | {
    (name, form) for name in ("fuse", "int8 of torchao") for form in ("convolution shared", "block shared")
}
raise SystemExit(0 if wrong == described else 1)
PYTHON
