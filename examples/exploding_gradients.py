"""Exploding gradients: a training that blows up, and the same one with its gradients clipped, which learns.

A ReLU network has to add up T random numbers. At first W_hh is 0.9 times the identity and its state fades; training
teaches it to keep what it heard. But each step back multiplies the gradient by W_hh: once that has grown a little above
the identity, 150 steps make it a lot. A gradient is then thousands of times as large as those before, and one step
along it, by plain gradient descent, throws the network to where it cannot learn any more, or to infinity.
`clip_grad_norm` keeps such a gradient's direction and cuts its length (Pascanu, Mikolov, Bengio 2013).

Both runs have one seed, and so the same network and the same data: x (T, N, 1), target (N, 1).

    python examples/exploding_gradients.py --plot exploding_gradients.png
"""

import argparse

import numpy as np
from tqdm import tqdm

import rnncore as rc
from rnncore.train import SGD, Linear, clip_grad_norm, init, mean_squared_error

N, GUESS, WINDOW = 32, 1.0, 50  # sequences a step; loss of one who always says 0; steps that the last loss is a mean of


def train(name, max_norm, args):
    """Train to the end, or until a gradient is not finite; return losses, norms, norms over time, and what failed."""
    rng = np.random.default_rng(args.seed)
    rnn, head = rc.RNN(1, args.hidden, nonlinearity="relu", rng=rng), Linear(args.hidden, 1, rng=rng)
    init.identity_relu(rnn)
    with rnn.editing() as params:
        params["weight_hh_l0"] *= 0.9
        params["weight_ih_l0"] = rng.normal(0, 0.1, (args.hidden, 1))
    sgd, losses, norms, flows, failed = SGD([rnn, head], args.rate), [], [], [], ""
    for step in (bar := tqdm(range(args.steps), desc=name, disable=None)):
        x = rng.uniform(-1, 1, (args.T, N, 1))
        target = x.sum(axis=0) / np.sqrt(args.T / 3)  # of variance 1
        y, _, tape = rnn.forward(x)
        z, head_tape = head.forward(y[-1])
        loss, dz = mean_squared_error(z, target, reduction="mean")
        dy = np.zeros_like(y)
        dy[-1], head_grads = head.backward(head_tape, dz)
        try:
            _, _, grads, flow = rnn.backward(tape, dy, flow=True, check_finite=True)
        except ValueError as error:
            finite = np.isfinite(y).all(axis=(1, 2))
            failed = f"step {step}, loss {loss:.1e}, h_t finite up to t = {np.sum(finite) - 1}: {error}"
            break
        losses.append(loss)
        norms.append(clip_grad_norm([grads, head_grads], max_norm))
        flows.append(flow[0])
        sgd.step([grads, head_grads])
        bar.set_postfix(loss=f"{loss:.3g}", refresh=False)
    return {"losses": np.array(losses), "norms": np.array(norms), "flows": np.array(flows), "failed": failed}


def draw(results, path):
    """Save three panels: loss, norm of the gradient, and, of the unclipped one, the gradient over time."""
    from matplotlib.figure import Figure

    left, middle, right = (figure := Figure(figsize=(12, 4), layout="constrained")).subplots(1, 3)
    for name, result in results.items():
        left.semilogy(result["losses"], label=name, linewidth=0.7)
        middle.semilogy(result["norms"], linewidth=0.7)
        for ax, what in ((left, "losses"), (middle, "norms")) if result["failed"] else ():
            ax.plot(len(result[what]) - 1, result[what][-1], "C0x")
    left.axhline(GUESS, color="grey", linestyle=":", label="always saying 0")
    left.set(xlabel="step of training", ylabel="loss")
    left.legend()
    middle.set(xlabel="step of training", ylabel="norm of the gradient, before clipping")
    flows = results["unclipped"]["flows"]
    for step in (0, len(flows) // 2, int(results["unclipped"]["norms"].argmax())):
        right.semilogy(flows[step], label=f"step {step}")
    right.set(xlabel="time t", ylabel="norm of dL/dh_t, unclipped")
    right.legend()
    figure.savefig(path, dpi=80)


@np.errstate(all="ignore")  # overflow is what this is about
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for option, value in (("steps", 1000), ("T", 150), ("hidden", 32), ("seed", 0), ("rate", 0.004), ("clip", 1.0)):
        parser.add_argument(f"--{option}", type=type(value), default=value, help=f"{value} by default")
    parser.add_argument("--plot", metavar="FILE", help="save a figure")
    args = parser.parse_args(argv)
    norms = {"unclipped": np.inf, "clipped": args.clip}
    results = {name: train(name, norm, args) for name, norm in norms.items()}
    print(f"{'step':>6}" + "".join(f"{f'loss, {name}':>18}{'norm':>10}" for name in results))
    worst = int(results["unclipped"]["norms"].argmax())  # and some steps before and after
    chosen = {0, 10, 20, 100, 200, 500, args.steps - 1, *range(max(worst - 4, 0), worst + 3)}
    for step in sorted(step for step in chosen if step < args.steps):
        row = f"{step:6}"
        for result in results.values():
            there = step < len(result["losses"])
            row += f"{result['losses'][step]:18.3g}{result['norms'][step]:10.2g}" if there else f"{'-':>18}{'-':>10}"
        print(row)
    for name, result in results.items():
        end = f"loss {np.mean(result['losses'][-WINDOW:]):.3g} in the last {WINDOW} steps"
        print(f"{name}: {result['failed'] or end} (always saying 0: {GUESS:.3f})")
    if args.plot:
        draw(results, args.plot)
    return results


if __name__ == "__main__":
    main()
