"""What test_distributed.py runs under torchrun on three ranks: python three_ranks.py FILE; writes gradients of one batch."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cifar_small.config.loading import parse_config
from cifar_small.models import build_model
from cifar_small.training.distributed import average_gradients

MODEL = {"family": "resnet", "widths": [16, 32, 64], "blocks": [1, 1, 1]}


def gradient(ranks: nn.Module, images: Tensor) -> Tensor:
    ranks.zero_grad()
    ranks(images).square().sum().backward()
    return torch.cat([parameter.grad.flatten() for parameter in ranks.parameters() if parameter.grad is not None])


def main(file: Path) -> None:
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    net = build_model(parse_config({"name": "three", "model": MODEL, "phases": [{"epochs": 1}]}).model, 10)
    images = torch.randn(dist.get_world_size(), 4, 3, 8, 8)[dist.get_rank()]
    going_on = average_gradients(net, torch.device("cpu"))
    found = [gradient(going_on, images) for _ in range(3)]
    found.append(gradient(average_gradients(net, torch.device("cpu")), images))  # as a run has it that is resumed here
    if dist.get_rank() == 0:
        torch.save(found, file)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
