"""Files of safetensors: a tensor that stands at several places of a net is held once and comes back at all of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from cifar_small.models.safetensors_file import read_safetensors, to_safetensors

safetensors = pytest.importorskip("safetensors.torch")


class Shared(nn.Module):
    """A convolution at three places, a weight at two, a BatchNorm at two, and a buffer that is a part of a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 1)
        self.again = nn.Sequential(self.first, nn.BatchNorm2d(3), self.first)
        self.norm = self.again[1]
        self.one, self.other = nn.Linear(3, 3), nn.Linear(3, 3)
        self.other.weight = self.one.weight
        self.register_buffer("part", self.one.weight.detach()[1:])
        for tensor in self.state_dict().values():
            if tensor.is_floating_point():
                nn.init.normal_(tensor)


def test_what_is_shared_is_held_once_and_comes_back_everywhere(tmp_path: Path) -> None:
    net, path = Shared().to(memory_format=torch.channels_last), tmp_path / "net.safetensors"
    path.write_bytes(to_safetensors(net))
    state, found = net.state_dict(), read_safetensors(path)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())
    with safetensors.safe_open(path, "pt") as file:
        held, metadata = set(file.keys()), file.metadata()
    assert metadata == {
        "format": "pt",
        **{f"again.{place}.{kind}": f"first.{kind}" for place in (0, 2) for kind in ("weight", "bias")},
        **{f"norm.{name}": f"again.1.{name}" for name in net.norm.state_dict()},
        "other.weight": "one.weight",
    }
    assert held == state.keys() - metadata.keys()


def test_the_librarys_own_functions_read_and_write_such_files(tmp_path: Path) -> None:
    (first, second), path = (nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)), tmp_path / "net.safetensors"
    net, other = nn.Sequential(first, nn.ReLU(), first), nn.Sequential(second, nn.ReLU(), second)
    path.write_bytes(to_safetensors(net))
    assert safetensors.load_model(other, path) == (set(), [])
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in net.state_dict().items())
    safetensors.save_model(net, str(path))
    found = read_safetensors(path)
    assert found.keys() == net.state_dict().keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in net.state_dict().items())
