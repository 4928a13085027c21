#!/usr/bin/env bash
# torch 2.13.0: a net's DistributedDataParallel keeps the default process group alive for good, after destroy_process_group too;
# training/distributed.py imports torch.distributed.nn.functional before there is a group.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 || exit 77
cat > "$folder/group.py" <<'PYTHON'
"""Does the default group outlive the net it was used for and destroy_process_group? Says who holds it."""
import gc
import sys
import weakref

import torch
import torch.distributed as dist

if sys.argv[1] == "imported before":
    import torch.distributed.nn.functional


def start():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)


start()
net = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))
net(torch.rand(3, 2)).sum().backward()
group = weakref.ref(dist.group.WORLD)
del net
dist.destroy_process_group()
gc.collect()
lives = group() is not None

import torch.distributed.nn.functional

start()
default = dist.nn.functional.all_reduce.__defaults__[-1]
meant = "no group, so the current one" if default is None else f"a group; the current one: {default is dist.group.WORLD}"
print(f"{sys.argv[1]}: the destroyed group {'is kept' if lives else 'was freed'}; default of nn.functional.all_reduce: {meant}")
dist.destroy_process_group()
raise SystemExit(3 if lives else 0)
PYTHON
python="$folder/venv/bin/python"
"$python" -c "import torch; print('version: torch', torch.__version__)"
echo "expected: a group that was destroyed, with the net that used it deleted, is freed, and its threads end"
before=0 after=0
"$python" -W ignore "$folder/group.py" "imported before" || before=$?
"$python" -W ignore "$folder/group.py" "imported by DistributedDataParallel" || after=$?
echo "seen: torch.distributed.nn.functional binds the group of the moment of its import into its default arguments"
test "$before" = 0 && test "$after" = 3
