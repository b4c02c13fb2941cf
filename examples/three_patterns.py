"""The textbook's three patterns of recurrence on the same bits: what each can learn, and what it cannot.

Goodfellow, Bengio and Courville (Deep Learning, section 10.2) begin with three networks:

1. hidden units feed the next step's, and each step has an output (figure 10.3): `rc.RNN`, a head at each step
2. hidden units feed the next step's, and the last step alone has an output (10.5): the same, a head at the last step
3. the output feeds the next step's hidden units (10.4): `rc.JordanRNN`. In training the right answers can stand in for
   the outputs (teacher forcing), and then no step waits for another; in use it runs free, on what it said itself.

They read bits x (T, N, 1) of -1 and 1, and say -1 or 1: whether an even number of those so far was -1 (parity), or
whether more of them were 1 than -1 (majority).

To go on with parity, the last answer is all that one has to know: 1 learns it, and so does 3 if taught; an answer at
the end, or running free from the start, is too little to find it by. To go on with the majority, one has to know the
count. Hidden units keep it unseen; right answers do not show it, but 3 free shows more by outputs between -1 and 1.

    python examples/three_patterns.py --plot three_patterns.png
"""

import argparse
from functools import partial

import numpy as np
from tqdm import tqdm

import rnncore as rc
from rnncore.train import Adam, Linear, clip_grad_norm, mean_squared_error

T, BATCH, HELD_OUT = 25, 64, 2000
QUESTIONS = {
    "parity": lambda x: np.cumprod(x, axis=0),
    "majority": lambda x: np.where(np.cumsum(x, axis=0) > 0, 1, -1),
}


def from_hidden(x, target, rnn, head, at_the_end):
    """Patterns 1 and 2, judged at each step or at the end alone: return the loss and its gradients."""
    y, _, tape = rnn.forward(x)
    o, head_tape = head.forward(y)
    counts = np.arange(T)[:, None, None] >= (T - 1 if at_the_end else 0)
    loss, do = mean_squared_error(o, target, mask=counts, reduction="mean")
    dy, head_grads = head.backward(head_tape, do)
    return loss, [rnn.backward(tape, dy)[2], head_grads]


def from_output(x, target, jordan, taught):
    """Pattern 3, with the right answers as teacher or running free: return the loss and its gradients."""
    o, _, tape = jordan.forward(x, targets=target if taught else None)
    loss, do = mean_squared_error(o, target, reduction="mean")
    return loss, [jordan.backward(tape, do)[2]]


PATTERNS = {
    "1 each step": partial(from_hidden, at_the_end=False),
    "2 at the end": partial(from_hidden, at_the_end=True),
    "3 taught": partial(from_output, taught=True),
    "3 free": partial(from_output, taught=False),
}


def train(pattern, question, bits, args):
    """Return a network (its modules) that learned from batches of the columns of bits (T, n, 1)."""
    if pattern.startswith("3"):
        network = (rc.JordanRNN(1, args.hidden, 1, output_nonlinearity="tanh", rng=args.seed),)
    else:
        network = rc.RNN(1, args.hidden, rng=args.seed), Linear(args.hidden, 1, rng=args.seed)
    adam, rng = Adam(network), np.random.default_rng(args.seed)
    for step in (bar := tqdm(range(args.steps), desc=f"{question}, {pattern}", disable=None)):
        x = bits[:, rng.integers(0, bits.shape[1], BATCH)]
        loss, grads = PATTERNS[pattern](x, QUESTIONS[question](x), *network)
        clip_grad_norm(grads, 1.0)
        adam.lr = 0.01 * (1 - step / args.steps)
        adam.step(grads)
        bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
    return network


def draw(results, path):
    """Save a panel for each question: right answers over time."""
    from matplotlib.figure import Figure

    panels = (figure := Figure(figsize=(10, 4), layout="constrained")).subplots(1, 2, sharey=True)
    for ax, (question, result) in zip(panels, results.items(), strict=True):
        for name, share in result.items():
            ax.plot(np.arange(1, T + 1), share, label=name)
        ax.set(title=question, xlabel="time", ylabel="right answers")
    panels[0].legend(loc="center right")
    figure.savefig(path, dpi=80)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for option, value in (("steps", 3000), ("hidden", 16), ("seed", 0)):
        parser.add_argument(f"--{option}", type=int, default=value, help=f"{value} by default")
    parser.add_argument("--plot", metavar="FILE", help="save a figure")
    args = parser.parse_args(argv)
    rng = np.random.default_rng(args.seed)
    bits = rng.permutation(np.unique(rng.choice([-1.0, 1.0], (20000, T)), axis=0)).T[..., None]  # each sequence once
    learned, held_out = bits[:, HELD_OUT:], bits[:, :HELD_OUT]
    results = {}
    for question, answer in QUESTIONS.items():
        target, said = answer(held_out), {}
        for pattern in PATTERNS:
            layer, *head = train(pattern, question, learned, args)
            y, _ = layer(held_out)
            said[pattern] = head[0](y) if head else y
            if pattern == "3 taught":
                said["3 taught, told each last answer"], *_ = layer.forward(held_out, targets=target)
        results[question] = {name: np.mean((o > 0) == (target > 0), axis=(1, 2)) for name, o in said.items()}
    print(f"Right answers after {T} bits, of {HELD_OUT} sequences held out")
    print(f"{'':34}" + "".join(f"{question:>10}" for question in QUESTIONS))
    for name in results["parity"]:
        print(f"{name:34}" + "".join(f"{result[name][-1]:10.3f}" for result in results.values()))
    if args.plot:
        draw(results, args.plot)
    return results


if __name__ == "__main__":
    main()
