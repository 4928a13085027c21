#!/usr/bin/env bash
# torch 2.13.0: of three gloo ranks that compute the same gradients again and again, DistributedDataParallel's first average differs
# from all later ones in its last bits, so that a run of three processes cannot be resumed exactly; docs/cluster.md says so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 || exit 77
cat > "$folder/ranks.py" <<'PYTHON'
"""The averaged gradients of one batch, four times over: are they the same bits?"""
import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, size = dist.get_rank(), dist.get_world_size()
torch.manual_seed(0)
layers = [layer for width in (64, 96, 128, 160) for layer in (torch.nn.LazyLinear(width), torch.nn.ReLU())]
net = torch.nn.Sequential(*layers, torch.nn.LazyLinear(10))
images = torch.randn(size, 16, 200)[rank]
net(images)
ranks = torch.nn.parallel.DistributedDataParallel(net)
found = []
for _ in range(4):
    net.zero_grad()
    ranks(images).square().sum().backward()
    found.append(torch.cat([parameter.grad.flatten() for parameter in net.parameters()]))
differing = [int((one != found[-1]).sum()) for one in found[:-1]]
if rank == 0:
    print(f"seen, {size} ranks: entries of the averages 1 to 3 that differ from the 4th, of {len(found[0]):,}: {differing}")
dist.barrier()
dist.destroy_process_group()
described = differing[0] > 0 and differing[1:] == [0, 0] if size == 3 else differing == [0, 0, 0]
raise SystemExit(not described)
PYTHON
python="$folder/venv/bin/python"
"$python" -c "import torch; print('version: torch', torch.__version__)"
echo "expected: the same weights and images give the same averaged gradients in every step"
for size in 2 3; do
  OMP_NUM_THREADS=1 "$python" -m torch.distributed.run --standalone --nproc-per-node "$size" "$folder/ranks.py"
done
