"""Exploding gradients: one training that blows up, and the same one with its gradients clipped, which learns.

A ReLU network that begins as the identity hears T random numbers, two of them marked, and at the end has to say the sum
of those two (the adding problem). Its gradient is multiplied by W_hh at each step back. Where W_hh has grown a little
above the identity, 100 steps make that a lot: one gradient is some thousand times as large as those before, and one step
along it, by plain gradient descent, throws the network to where nothing can be learned any more. `clip_grad_norm` keeps
such a gradient's direction and cuts its length (Pascanu, Mikolov, Bengio 2013).

Both runs have the same seed, and so the same network and the same data: x (T, N, 2), target (N, 1).

    python examples/exploding_gradients.py --plot exploding_gradients.png
"""

import argparse

import numpy as np
from tqdm import tqdm

import rnncore as rc
from rnncore.train import SGD, Linear, clip_grad_norm, init, mean_squared_error

GUESS, WINDOW, N = 1 / 6, 50, 32  # loss of one who always says 1; steps that a loss shown is the mean of


def adding(rng, T):
    """Return N sequences (T, N, 2) of numbers and marks, and the sums (N, 1) of the numbers marked."""
    x = np.zeros((T, N, 2), np.float32)
    x[:, :, 0] = rng.uniform(size=(T, N))
    for times in (rng.integers(0, T // 2, N), rng.integers(T // 2, T, N)):
        x[times, np.arange(N), 1] = 1
    return x, np.sum(x[:, :, 0] * x[:, :, 1], axis=0)[:, None]


def train(name, max_norm, args):
    """Train until the end, or until a gradient is not finite; return losses, norms, and what was said then."""
    rng = np.random.default_rng(args.seed)
    rnn, head = rc.RNN(2, args.hidden, nonlinearity="relu", rng=rng), Linear(args.hidden, 1, rng=rng)
    init.identity_relu(rnn)
    with rnn.editing() as params:
        params["weight_ih_l0"] = rng.normal(0, 0.1, (args.hidden, 2))
    sgd, losses, norms, flows, said = SGD([rnn, head], args.rate, momentum=0.9), [], [], [], ""
    for step in tqdm(range(args.steps), desc=name, disable=None):
        x, target = adding(rng, args.T)
        y, _, tape = rnn.forward(x)
        z, head_tape = head.forward(y[-1])
        loss, dz = mean_squared_error(z, target, reduction="mean")
        dy = np.zeros_like(y)
        dy[-1], head_grads = head.backward(head_tape, dz)
        try:
            _, _, grads, flow = rnn.backward(tape, dy, flow=True, check_finite=True)
        except ValueError as error:
            said = f"step {step}, loss {loss:.1e}: {error}"
            break
        norms.append(clip_grad_norm([grads, head_grads], max_norm))
        losses.append(loss)
        flows.append(flow[0])
        sgd.step([grads, head_grads])
    return {"losses": np.array(losses), "norms": np.array(norms), "flows": np.array(flows), "said": said}


def draw(results, path):
    """Save three panels: loss, norm of the gradient, and, where the unclipped one blew up, the gradient over time."""
    from matplotlib.figure import Figure

    panels = (figure := Figure(figsize=(12, 4), layout="constrained")).subplots(1, 3)
    for name, result in results.items():
        for ax, what in zip(panels, ("losses", "norms"), strict=False):
            ax.semilogy(result[what], label=name, linewidth=0.7)
    panels[0].axhline(GUESS, color="grey", linestyle=":")
    panels[0].set(xlabel="step of training", ylabel="loss")
    panels[1].set(xlabel="step of training", ylabel="norm of the gradient, before clipping")
    panels[1].legend()
    free = results["unclipped"]
    for step, label in ((0, "first step"), (int(free["norms"].argmax()), "step of the largest")):
        panels[2].semilogy(free["flows"][step], label=label)
    panels[2].set(xlabel="time t", ylabel="norm of dL/dh_t, unclipped")
    panels[2].legend()
    figure.savefig(path, dpi=80)


@np.errstate(all="ignore")  # that is what this is about
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for option, value in (("steps", 2000), ("T", 100), ("hidden", 32), ("seed", 0)):
        parser.add_argument(f"--{option}", type=int, default=value, help=f"{value} by default")
    for option, value in (("rate", 0.01), ("clip", 1.0)):
        parser.add_argument(f"--{option}", type=float, default=value, help=f"{value} by default")
    parser.add_argument("--plot", metavar="FILE", help="save a figure")
    args = parser.parse_args(argv)
    norms = {"unclipped": np.inf, f"clipped to {args.clip:g}": args.clip}
    results = {name: train(name, norm, args) for name, norm in norms.items()}
    print(f"{'':10}" + "".join(f"{name:^28}" for name in results))
    print(f"{'step':>10}" + f"{'loss':>14}{'largest norm':>14}" * 2)
    for first in range(0, args.steps, args.steps // 10):
        row = [(r["losses"][first : first + WINDOW], r["norms"][first : first + WINDOW]) for r in results.values()]
        words = [f"{np.mean(a):14.4g}{np.max(b):14.4g}" if len(a) else f"{'-':>14}{'-':>14}" for a, b in row]
        print(f"{first:10}" + "".join(words))
    for name, result in results.items():
        print(f"{name}: " + (result["said"] or f"loss {np.mean(result['losses'][-WINDOW:]):.4f} in the end"))
    print(f"who always says 1: {GUESS:.4f}")
    if args.plot:
        draw(results, args.plot)
    return results


if __name__ == "__main__":
    main()
