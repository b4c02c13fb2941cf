"""One to many: from one letter to a whole name, and five ways to read it out of the same model.

An LSTM learns which letter comes next in first names; a "." begins and ends each. Asked for a name from one letter on,
each letter that it says is the next that it reads: the likeliest (greedy), one drawn at random (at two temperatures, or
among the three likeliest), or that of the likeliest whole name that a beam search finds. Letters are (T, N), logits
(T, N, 27).

    python examples/generation.py
"""

import argparse
from pathlib import Path

import numpy as np
from tqdm import tqdm

import rnncore as rc
from rnncore.train import AdamW, Embedding, Linear, clip_grad_norm, softmax_cross_entropy

LETTERS = ".abcdefghijklmnopqrstuvwxyz"  # code 0 begins and ends a name
NAMES = (Path(__file__).parent / "data" / "names.txt").read_text(encoding="utf-8").split()
INITIALS, LONGEST, WIDTH, HELD_OUT = "abcdefghijklmrst", 14, 5, 100
WAYS = {
    "greedy": {},
    "temperature 0.5": {"temperature": 0.5},
    "temperature 1": {"temperature": 1.0},
    "top 3": {"temperature": 1.0, "top_k": 3},
}


def encode(names):
    """Return the codes of names (T, N), a "." before and behind them, and how many steps each takes (N,)."""
    codes = np.zeros((2 + max(map(len, names)), len(names)), np.int64)
    for n, name in enumerate(names):
        codes[1 : 1 + len(name), n] = [LETTERS.index(letter) for letter in name]
    return codes, np.array([1 + len(name) for name in names])


def spell(tokens, lengths):
    return ["".join(LETTERS[k] for k in row[:length]) for row, length in zip(tokens, lengths, strict=True)]


def gradients(model, names):
    """Return the mean loss per letter, the end included, and the gradients of each module."""
    (embedding, lstm, head), (codes, lengths) = model, encode(names)
    x, x_tape = embedding.forward(codes[:-1])
    y, _, y_tape = lstm.forward(x, lengths=lengths)
    z, z_tape = head.forward(y)
    counts = np.arange(len(z))[:, None] < lengths
    loss, dz = softmax_cross_entropy(z, codes[1:], mask=counts, reduction="mean")
    dy, head_grads = head.backward(z_tape, dz)
    dx, _, lstm_grads = lstm.backward(y_tape, dy)
    return loss, [embedding.backward(x_tape, dx)[1], lstm_grads, head_grads]


def train(model, names, epochs, rng):
    adam, lr = AdamW(model, weight_decay=0.1), 0.01
    for epoch in tqdm(range(epochs), disable=None):
        adam.lr = lr * (1 - epoch / epochs)
        for batch in np.array_split(rng.permutation(names), len(names) // 32):
            _, grads = gradients(model, batch)
            clip_grad_norm(grads, 1.0)
            adam.step(grads)


def bits_of_pairs(names, held_out):
    """Return the bits per letter of a table of which letter follows which, each pair counted once more than seen."""

    def pairs(names):
        codes, lengths = encode(names)
        counts = np.arange(len(codes) - 1)[:, None] < lengths
        return codes[:-1][counts], codes[1:][counts]

    table = np.ones((len(LETTERS), len(LETTERS)))
    np.add.at(table, pairs(names), 1)
    return float(-np.log2(table / table.sum(axis=1, keepdims=True))[pairs(held_out)].mean())


def main(argv=None):
    parser = argparse.ArgumentParser(description="Five ways to read names out of one model.")
    for option, value in (("epochs", 20), ("hidden", 64), ("seed", 0)):
        parser.add_argument(f"--{option}", type=int, default=value, help=f"{value} by default")
    args = parser.parse_args(argv)
    rng = np.random.default_rng(args.seed)
    shuffled = rng.permutation(NAMES).tolist()
    held_out, names = shuffled[:HELD_OUT], shuffled[HELD_OUT:]
    V, E, H = len(LETTERS), 16, args.hidden
    embedding, lstm, head = model = Embedding(V, E, rng=rng), rc.LSTM(E, H, rng=rng), Linear(H, V, rng=rng)
    train(model, names, args.epochs, rng)
    bits = {"LSTM": gradients(model, held_out)[0] / np.log(2), "pairs of letters": bits_of_pairs(names, held_out)}
    print(f"bits per letter of {HELD_OUT} names held out: {bits['LSTM']:.2f}; by pairs of letters alone:", end=" ")
    print(f"{bits['pairs of letters']:.2f}; if all were as likely: {np.log2(len(LETTERS)):.2f}\n")

    def step(tokens, state):
        y, state = lstm(embedding(tokens[None]), state)  # (1, N, E), one step of time
        return head(y[0]), state

    first = np.array([LETTERS.index(letter) for letter in INITIALS])
    _, state = step(np.zeros_like(first), None)  # what is known after the "."
    found = {
        way: spell(*rc.decode.generate(step, first, LONGEST, state, stop=0, rng=args.seed, **options))
        for way, options in WAYS.items()
    }
    log_probs = {}
    for way, width in (("greedy", 1), (f"beam of {WIDTH}", WIDTH)):
        tokens, lengths, log_p = rc.decode.beam_search(step, first, LONGEST, width, state, stop=0)
        found[way], log_probs[way] = spell(tokens[:, 0], lengths[:, 0]), float(log_p[:, 0].mean())
    print("".join(f"{way:17}" for way in found))
    for initial, *rests in zip(INITIALS, *found.values(), strict=True):
        print("".join(f"{(initial + rest).title():17}" for rest in rests))
    print("\nlog P, in the mean: " + ", ".join(f"{way} {value:.2f}" for way, value in log_probs.items()))

    drawn = rc.decode.generate(step, np.zeros(500, int), LONGEST, temperature=1.0, stop=0, rng=args.seed)
    new = {*spell(*drawn)} - {*names}
    print(f'500 names drawn from the "." on: {len(new)} different new ones, {len(new & {*held_out})} of them held out')
    return {"bits": bits, "names": found, "log_probs": log_probs, "new": new}


if __name__ == "__main__":
    main()
