"""The textbook's three patterns of recurrence on the same bits: what each can learn, and what it cannot.

Goodfellow, Bengio and Courville (Deep Learning, section 10.2) begin with three networks:

1. hidden units feed the next step's, and each step has an output (figure 10.3): `rc.RNN`, a head at each step
2. hidden units feed the next step's, and the last step alone has an output (10.5): the same, a head at the last step
3. the output feeds the next step's hidden units (10.4): `rc.JordanRNN`. In training the right answers can stand in for
   the outputs (teacher forcing), and then no step waits for another; in use it runs free, on what it said itself.

They read bits x (T, N, 1) of -1 and 1, and say -1 or 1: whether an even number of those so far was -1 (parity), or
whether more of them were 1 than -1 (majority). To go on with parity, the last answer is all that one has to know; to go
on with the majority one has to know the count, which the right answers do not show.

    python examples/three_patterns.py --plot three_patterns.png
"""

import argparse

import numpy as np
from tqdm import tqdm

import rnncore as rc
from rnncore.train import Adam, Linear, clip_grad_norm, mean_squared_error

T, LONGER, BATCH, HELD_OUT = 25, 101, 64, 2000
TOLD, SIGNS = "3 taught, told each last answer", "3 free, reading signs alone"
FINDINGS = """
Parity takes no memory but its own answer. Hidden recurrence with an answer at each step: {parity[1 each step]:.3f}; the
same network with one at the end, which is little to find it by: {parity[2 at the end]:.3f}. Output recurrence:
{parity[3 taught]:.3f} if it was taught, {parity[3 free]:.3f} if it ran free from the start.
Majority takes a count, which right answers do not show. Output recurrence that was taught: {majority[3 taught]:.3f} on its own,
{majority[3 taught, told each last answer]:.3f} if told the right answer before. If it ran free from the start: {majority[3 free]:.3f}, as it learns to show
more by outputs between -1 and 1; of their signs alone, {majority[3 free, reading signs alone]:.3f}. Hidden recurrence, which keeps the
count unseen: {majority[1 each step]:.3f}, or {majority[2 at the end]:.3f} by one answer at the end."""  # noqa: E501
QUESTIONS = {
    "parity": lambda x: np.cumprod(x, axis=0),
    "majority": lambda x: np.where(np.cumsum(x, axis=0) > 0, 1, -1),
}


class FromHidden:
    """Patterns 1 and 2: hidden recurrence, judged at each step or at the end alone."""

    def __init__(self, H, rng, at_the_end):
        self.modules = rc.RNN(1, H, rng=rng), Linear(H, 1, rng=rng)
        self.at_the_end = at_the_end

    def gradients(self, x, target):
        rnn, head = self.modules
        y, _, tape = rnn.forward(x)
        o, head_tape = head.forward(y)
        counts = np.arange(len(x))[:, None, None] >= (len(x) - 1 if self.at_the_end else 0)
        loss, do = mean_squared_error(o, target, mask=counts, reduction="mean")
        dy, head_grads = head.backward(head_tape, do)
        return loss, [rnn.backward(tape, dy)[2], head_grads]

    def __call__(self, x):
        rnn, head = self.modules
        return head(rnn(x)[0])


class FromOutput:
    """Pattern 3: output recurrence, trained with the right answers as teacher, or running free."""

    def __init__(self, H, rng, taught):
        self.modules = (rc.JordanRNN(1, H, 1, output_nonlinearity="tanh", rng=rng),)
        self.taught = taught

    def gradients(self, x, target):
        (jordan,) = self.modules
        o, _, tape = jordan.forward(x, targets=target if self.taught else None)
        loss, do = mean_squared_error(o, target, reduction="mean")
        return loss, [jordan.backward(tape, do)[2]]

    def __call__(self, x):
        return self.modules[0](x)[0]

    def by_signs(self, x):
        """Return the outputs where of each nothing but its answer, the sign, is fed to the next step."""
        o, said = np.zeros_like(x[0]), []
        for x_t in x:
            _, o = self.modules[0](x_t[None], np.sign(o))
            said.append(o)
        return np.array(said)


def train(name, network, bits, answer, args):
    """Train on batches of the columns of bits (T, n, 1)."""
    adam, rng = Adam(network.modules), np.random.default_rng(args.seed)
    for step in (bar := tqdm(range(args.steps), desc=name, disable=None)):
        x = bits[:, rng.integers(0, bits.shape[1], BATCH)]
        loss, grads = network.gradients(x, answer(x))
        clip_grad_norm(grads, 1.0)
        adam.lr = 0.01 * (1 - step / args.steps)
        adam.step(grads)
        bar.set_postfix(loss=f"{loss:.3f}", refresh=False)


def right(o, target):
    """Return the share of right answers at each time (T,)."""
    return np.mean((o > 0) == (target > 0), axis=(1, 2))


def draw(results, path):
    """Save a panel for each question: right answers over time."""
    from matplotlib.figure import Figure

    panels = (figure := Figure(figsize=(10, 4), layout="constrained")).subplots(1, 2, sharey=True)
    for ax, (question, result) in zip(panels, results.items(), strict=True):
        for name, share in result.items():
            ax.plot(np.arange(1, LONGER + 1), share, label=name)
        ax.axvline(T, color="grey", linestyle=":")
        ax.set(title=question, xlabel="time")
    panels[0].set_ylabel("right answers")
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
    on = np.concatenate([held_out, rng.choice([-1.0, 1.0], (LONGER - T, HELD_OUT, 1))])  # and longer than learned from
    results = {}
    for question, answer in QUESTIONS.items():
        networks = {
            "1 each step": FromHidden(args.hidden, args.seed, at_the_end=False),
            "2 at the end": FromHidden(args.hidden, args.seed, at_the_end=True),
            "3 taught": FromOutput(args.hidden, args.seed, taught=True),
            "3 free": FromOutput(args.hidden, args.seed, taught=False),
        }
        target = answer(on)
        for name, network in networks.items():
            train(f"{question}, {name}", network, learned, answer, args)
        shares = {name: right(network(on), target) for name, network in networks.items()}
        taught, _, _ = networks["3 taught"].modules[0].forward(on, targets=target)
        signs = right(networks["3 free"].by_signs(on), target)
        results[question] = shares | {TOLD: right(taught, target), SIGNS: signs}
    print(f"Right answers of {HELD_OUT} sequences held out; learned from {T} steps")
    print(f"{'':34}" + "".join(f"{f'{q}, {t} steps':>22}" for q in QUESTIONS for t in (T, LONGER)))
    for name in results["parity"]:
        print(f"{name:34}" + "".join(f"{results[q][name][t - 1]:22.3f}" for q in QUESTIONS for t in (T, LONGER)))
    print(FINDINGS.format(**{q: {name: share[T - 1] for name, share in r.items()} for q, r in results.items()}))
    if args.plot:
        draw(results, args.plot)
    return results


if __name__ == "__main__":
    main()
