"""Data-parallel training: an accelerated PyTorch model in several processes, by PyTorch's own engine.

Each process trains a copy on its part of every batch, and `DistributedDataParallel` averages the gradients: the model
takes the same way as in one process that sees the whole batches. The task: which of two tones lies in a noisy signal.

    pip install ".[torch,cli]"
    python examples/torch_ddp.py --processes 2
"""

import argparse
import os
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from rnncore.interop.torch import accelerate

T, N, H = 40, 32, 32


class Listener(nn.Module):
    """Hears a signal (N, T, 1) and says which tone was in it."""

    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.LSTM(1, H, batch_first=True), nn.Linear(H, 2)

    def forward(self, x):
        _, (h_n, _) = self.rnn(x)
        return self.head(h_n[-1])


def batch(step):
    """Return N signals and their labels; of one step the same in each process."""
    generator = torch.Generator().manual_seed(step)
    labels = torch.randint(2, (N,), generator=generator)
    phase = torch.rand(N, 1, generator=generator) * 6.28
    tone = torch.sin(phase + torch.arange(T) * (0.4 + 0.6 * labels[:, None]))
    return (tone + 0.3 * torch.randn(N, T, generator=generator)).double()[..., None], labels


def train(rank, processes, steps, path):
    """Train in one of `processes`, and let the first save what came out."""
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes))
    torch.manual_seed(0)
    model = Listener().double()  # so that rounding does not drive the two runs apart
    accelerate(model)
    part = model
    if processes > 1:
        dist.init_process_group("gloo", init_method=f"file://{path}.store", rank=rank, world_size=processes)
        part = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)  # Adam's division blows rounding up
    losses = []
    for step in tqdm(range(steps), disable=rank > 0, unit="step"):
        x, labels = (t.chunk(processes)[rank] for t in batch(step))
        loss = nn.functional.cross_entropy(part(x), labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.detach())
    loss = torch.stack(losses)
    if processes > 1:
        dist.all_reduce(loss)
        dist.destroy_process_group()
    if rank == 0:
        torch.save({"loss": loss / processes, "parameters": model.state_dict()}, path)


def run(processes, steps):
    """Train in so many processes; return the losses and the parameters."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "result.pt")
        mp.spawn(train, (processes, steps, path), nprocs=processes)
        return torch.load(path)


def main(args=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=2, help="that train together (%(default)s)")
    parser.add_argument("--steps", type=int, default=200, help="of training (%(default)s)")
    options = parser.parse_args(args)
    results = {processes: run(processes, options.steps) for processes in (1, options.processes)}
    for processes, result in results.items():
        print(f"{processes} process(es): mean loss {result['loss'][:10].mean():.4f} of the first ten steps, "
              f"{result['loss'][-10:].mean():.4f} of the last")  # fmt: skip
    one, several = (result["parameters"] for result in results.values())
    apart = max(float((one[name] - several[name]).abs().max()) for name in one)
    print(f"their parameters lie {apart:.1e} apart at most")
    return results, apart


if __name__ == "__main__":
    main()
