"""Long lags: why a tanh network cannot learn from what lies far back, and two remedies that can.

A network hears T random numbers, two of them marked, one in each half, and at the end has to say the sum of those two
(the adding problem, Hochreiter & Schmidhuber 1997). Whoever always says 1 has a loss of 1/6.

    python examples/long_lag.py --plot long_lag.png
"""

import argparse
import copy

import numpy as np
from tqdm import tqdm

import rnncore as rc
from rnncore.plot import gradient_flow
from rnncore.train import Adam, Linear, clip_grad_norm, init, mean_squared_error

GUESS, SOLVED, WINDOW = 1 / 6, 1 / 60, 50  # solved: a mean loss over the last WINDOW steps below a tenth of the guess


def adding(rng, T, N):
    """Return N sequences (T, N, 2) of numbers and marks, and the sums (N, 1) of the numbers marked."""
    x = np.zeros((T, N, 2), np.float32)
    x[:, :, 0] = rng.uniform(size=(T, N))
    for times in (rng.integers(0, T // 2, N), rng.integers(T // 2, T, N)):
        x[times, np.arange(N), 1] = 1
    return x, np.sum(x[:, :, 0] * x[:, :, 1], axis=0)[:, None]


def contenders(H, seed):
    """Return each network with its learning rate and the norm that its gradient is clipped to."""
    rng = np.random.default_rng(seed)
    tanh, lstm = rc.RNN(2, H, rng=rng), rc.LSTM(2, H, rng=rng)
    relu, identity = (rc.RNN(2, H, nonlinearity="relu", rng=rng) for _ in range(2))
    init.identity_relu(identity)  # h stays what it is until an input adds to it
    with identity.editing() as params:
        params["weight_ih_l0"] = rng.normal(0, 0.1, (H, 2))
    init.forget_bias(lstm)  # gates that let c pass
    return {
        "tanh": (tanh, 0.002, 1.0), "ReLU": (relu, 0.002, 10.0), "LSTM": (lstm, 0.02, 1.0),
        "ReLU from I": (identity, 0.002, 10.0), "ReLU from I, unclipped": (copy.deepcopy(identity), 0.002, np.inf),
    }  # fmt: skip


def gradients(layer, head, x, target, **options):
    """Return the loss, which the last output alone decides, the head's gradients, and what `layer.backward` returns."""
    y, _, tape = layer.forward(x)
    z, head_tape = head.forward(y[-1])
    loss, dz = mean_squared_error(z, target, reduction="mean")
    dy = np.zeros_like(y)
    dy[-1], head_grads = head.backward(head_tape, dz)
    return loss, head_grads, layer.backward(tape, dy, **options)


def flow(layer, head, x, target):
    """Return the norm of the gradient of the state at each time (T,): of h, or of c, with which an LSTM remembers."""
    *_, norms = gradients(layer, head, x, target, flow=True)[2]
    return (norms[1] if isinstance(norms, tuple) else norms)[0]


def train(name, layer, lr, max_norm, args):
    """Train one network; return its loss, a running mean, and its gradient flow before and after."""
    rng = np.random.default_rng(args.seed + 1)
    head = Linear(layer.hidden_size, 1, rng=rng)
    adam, losses, probe = Adam([layer, head], lr), [], adding(rng, args.T, args.batch)
    before = flow(layer, head, *probe)
    for _ in (bar := tqdm(range(args.steps), desc=name, disable=None)):
        loss, head_grads, (_, _, grads) = gradients(layer, head, *adding(rng, args.T, args.batch))
        clip_grad_norm([grads, head_grads], max_norm)
        adam.step([grads, head_grads])
        losses.append(loss)
        bar.set_postfix(loss=f"{np.mean(losses[-WINDOW:]):.4f}", refresh=False)
    means = np.convolve(losses, np.full(WINDOW, 1 / WINDOW), "valid")
    return {"loss": means, "before": before, "after": flow(layer, head, *probe)}


def draw(results, path):
    """Save two panels: loss while training, gradient flow before (dotted) and after."""
    from matplotlib.figure import Figure

    left, right = (figure := Figure(figsize=(10, 4), layout="constrained")).subplots(1, 2)
    for name, result in results.items():
        left.semilogy(WINDOW + np.arange(len(result["loss"])), result["loss"], label=name)
    left.axhline(GUESS, color="grey", linestyle=":", label="always saying 1")
    left.set(xlabel="step of training", ylabel=f"loss, mean over {WINDOW} steps", ylim=(None, 10))
    left.legend(fontsize="small")
    for moment in ("before", "after"):
        gradient_flow({name: result[moment][None] for name, result in results.items()}, ax=right)
    for k, line in enumerate(right.lines):
        line.set(color=f"C{k % len(results)}", linestyle=":" if k < len(results) else "-")
    right.legend([right.lines[0], right.lines[-1]], ["before training", "after"])
    figure.savefig(path, dpi=80)


@np.errstate(all="ignore")  # the unclipped one explodes
def main(argv=None):
    parser = argparse.ArgumentParser(description="Who learns from what lies far back?")
    for option, value in (("steps", 2000), ("T", 100), ("hidden", 32), ("batch", 32), ("seed", 0)):
        parser.add_argument(f"--{option}", type=int, default=value, help=f"{value} by default")
    parser.add_argument("--plot", metavar="FILE", help="save a figure")
    args = parser.parse_args(argv)
    if args.steps < WINDOW or args.T < 2:
        parser.error(f"expected at least {WINDOW} steps, and T of at least 2")
    results = {name: train(name, *network, args) for name, network in contenders(args.hidden, args.seed).items()}
    print(f"{'':22} {'loss':>7} {'solved after':>12} {'gradient, first / last step: before':>36} {'after':>7}")
    for name, result in results.items():
        solved = np.flatnonzero(result["loss"] < SOLVED)
        steps = f"{solved[0] + WINDOW} steps" if len(solved) else "never"
        before, after = (result[moment][0] / result[moment][-1] for moment in ("before", "after"))
        print(f"{name:22} {result['loss'][-1]:7.4f} {steps:>12} {before:36.0e} {after:7.0e}")
    if args.plot:
        draw(results, args.plot)
    return results


if __name__ == "__main__":
    main()
