"""What test_distributed.py runs, alone and under torchrun: python two_ranks.py FOLDER TEACHER; writes FOLDER/rank<r>.pt."""

from __future__ import annotations

import gc
import sys
import weakref
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import cifar_small.training.trainer as train_module
from cifar_small.config.loading import parse_config
from cifar_small.training import batches
from cifar_small.training.distributed import World, average_gradients, synchronize_batchnorm
from cifar_small.training.train import train

CONFIG: dict[str, Any] = {
    "name": "ranks",
    "data": {"source": "digits", "val_size": 203, "train_limit": 180},  # 203: the ranks' shares differ by one image
    "model": {"family": "resnet", "widths": [8, 16, 16], "blocks": [1, 1, 1], "strides": [2, 2, 2]},
    "batch_size": 60,
    "optim": {"lr": 0.01},
    "augment": {"crop": 2, "flip": "alternating", "cutout": 6},
    "cutmix_alpha": 1.0,
    "mix_prob": 0.5,
    "ema_decay": 0.9,
    "phases": [{"epochs": 1}, {"epochs": 2, "freeze": ["conv1"], "resolution": 24}],
    # torch's channels-last BatchNorm rounds a hundred times more coarsely in fp32, so the exact comparison is made without it
    "engine": {"precision": "fp32", "device": "cpu", "layout": "contiguous", "sync_batchnorm": True, "checkpoint_steps": 2},
}


def taught(teacher: Path) -> dict[str, Any]:
    """The same run with another epoch, in which it learns from a teacher."""
    lesson = {"epochs": 1, "schedule": {"name": "constant"}, "distill": {"teachers": [str(teacher)]}}
    return {**CONFIG, "phases": [*CONFIG["phases"], lesson]}


def norms(world: World) -> dict[str, Tensor]:
    """Output, gradients and statistics of a convolution and BatchNorm on our share of a batch of 7 images."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    images = torch.randn(7, 2, 4, 4) * 5 + 20
    weights = torch.randn(7, 3, 4, 4)
    ours = world.share(7)
    wrapped: nn.Module = net
    if world.size > 1:
        synchronize_batchnorm(net)
        wrapped = average_gradients(net, torch.device("cpu"))
    output = wrapped(images[ours])
    (output * weights[ours]).sum().backward()
    gradients = [parameter.grad * world.size for parameter in net.parameters() if parameter.grad is not None]
    return {
        "output": world.gather(output.detach(), 7),
        "gradients": torch.cat([gradient.flatten() for gradient in gradients]),
        "buffers": torch.cat([buffer.flatten().float() for buffer in net.buffers()]),
    }


def main(folder: Path, teacher: Path) -> None:
    pixels: list[Tensor] = []
    seen: dict[str, Any] = {"pixels": pixels}
    groups: list[weakref.ref[Any]] = []
    resize = batches.resize

    def recorded(images: Tensor, side: int, interpolation: str) -> Tensor:
        pixels.append(images.clone())
        return resize(images, side, interpolation)

    fit = train_module.Trainer.fit

    def observed(self: train_module.Trainer, *arguments: Any) -> None:
        # inside the run, since the processes of torchrun cannot reliably join twice
        world = self.world
        answers = [world.any(world.rank == 1, torch.device("cpu")), world.any(False, torch.device("cpu"))]
        seen.update(norms=norms(world), answers=answers, size=world.size, rank=world.rank)
        if world.size > 1:
            groups.append(weakref.ref(torch.distributed.group.WORLD))
        fit(self, *arguments)

    batches.resize = recorded
    train_module.Trainer.fit = observed  # type: ignore[method-assign]
    train(parse_config(taught(teacher)), folder / "run", quiet=True)
    gc.collect()
    seen["groups_left"] = sum(group() is not None for group in groups)
    torch.save(seen, folder / f"rank{seen['rank']}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.setswitchinterval(1000)  # a thread that needs the interpreter gets it only where this one waits: what may hang, hangs
    main(Path(sys.argv[1]), Path(sys.argv[2]))
