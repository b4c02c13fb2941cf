"""One to many: from one letter to a whole name, four ways to decode the same model.

An LSTM learns to say the next letter of first names; a "." begins and ends each. Asked for a name from one letter on, it
is read out greedily, at random (at two temperatures, and among the three likeliest letters), and by a beam search for
the likeliest whole name: whichever way, each letter is the next step's input. Letters are (T, N), logits (T, N, 27).

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
LONGEST, WIDTH = 14, 5


def encode(names):
    """Return the letters of names as codes (T, N), with a "." before, and "." after up to T, and their lengths (N,)."""
    codes = np.zeros((2 + max(map(len, names)), len(names)), np.int64)
    for n, name in enumerate(names):
        codes[1 : 1 + len(name), n] = [LETTERS.index(letter) for letter in name]
    return codes, np.array([1 + len(name) for name in names])


def decode(tokens, lengths):
    return ["".join(LETTERS[k] for k in row[:length]) for row, length in zip(tokens, lengths, strict=True)]


def gradients(model, names):
    """Return the mean loss per letter, the ends included, and the gradients of each module."""
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
    adam, batch, lr = AdamW(model, weight_decay=0.1), 32, 0.01
    for epoch in tqdm(range(epochs), disable=None):
        adam.lr = lr * (1 - epoch / epochs)
        order = rng.permutation(len(names))
        for start in range(0, len(names), batch):
            grads = gradients(model, [names[k] for k in order[start : start + batch]])[1]
            clip_grad_norm(grads, 1.0)
            adam.step(grads)


def bigrams(names, held_out):
    """Return the bits per letter of a table of pairs of letters, each counted once more than it was seen."""
    counts = np.ones((len(LETTERS), len(LETTERS)))
    pairs = [(LETTERS.index(a), LETTERS.index(b)) for name in names for a, b in zip("." + name, name + ".", strict=True)]
    np.add.at(counts, tuple(np.transpose(pairs)), 1)
    bits = -np.log2(counts / counts.sum(axis=1, keepdims=True))
    found = [bits[LETTERS.index(a), LETTERS.index(b)] for name in held_out for a, b in zip("." + name, name + ".", strict=True)]
    return float(np.mean(found))


def main(argv=None):
    parser = argparse.ArgumentParser(description="Four ways to read names out of one model.")
    for option, value in (("epochs", 20), ("hidden", 64), ("seed", 0)):
        parser.add_argument(f"--{option}", type=int, default=value, help=f"{value} by default")
    args = parser.parse_args(argv)
    rng = np.random.default_rng(args.seed)
    names = list(rng.permutation(NAMES))
    held_out, names = names[:100], names[100:]
    embedding = Embedding(len(LETTERS), 16, rng=rng)
    lstm = rc.LSTM(16, args.hidden, rng=rng)
    model = embedding, lstm, head = embedding, lstm, Linear(args.hidden, len(LETTERS), rng=rng)
    train(model, names, args.epochs, rng)
    bits = {"LSTM": gradients(model, held_out)[0] / np.log(2), "pairs of letters": bigrams(names, held_out)}
    bits["every letter as likely"] = np.log2(len(LETTERS))
    print("bits per letter of 100 names held out: " + ", ".join(f"{name} {value:.2f}" for name, value in bits.items()))

    def step(tokens, state):
        y, state = lstm(embedding(tokens[None]), state)  # (1, N, E), one step of time
        return head(y[0]), state

    initials = np.array([LETTERS.index(letter) for letter in "abcdefghijklmnoprst"])
    _, state = step(np.zeros_like(initials), None)  # after the ".", all rows know as much
    ways = {"greedy": {}, "temperature 0.5": {"temperature": 0.5}, "temperature 1": {"temperature": 1.0}}
    ways["top 3"] = {"temperature": 1.0, "top_k": 3}
    columns = {
        way: decode(*rc.decode.generate(step, initials, LONGEST, state, stop=0, rng=args.seed, **options))
        for way, options in ways.items()
    }
    tokens, lengths, log_probs = rc.decode.beam_search(step, initials, LONGEST, WIDTH, state, stop=0)
    columns[f"beam of {WIDTH}"] = decode(tokens[:, 0], lengths[:, 0])
    columns = {way: [LETTERS[k] + rest for k, rest in zip(initials, found, strict=True)] for way, found in columns.items()}
    print("".join(f"{way:16}" for way in columns))
    for row in zip(*columns.values(), strict=True):
        print("".join(f"{name.title():16}" for name in row))

    many = rc.decode.generate(step, np.zeros(500, int), LONGEST, temperature=1.0, stop=0, rng=args.seed)
    drawn = decode(*many)
    new = sorted({name for name in drawn if name not in names})
    print(f"of 500 names drawn from the \".\" alone, {len(new)} are new and different, {len({*new} & {*held_out})} of them held out")
    return {"bits": bits, "columns": columns, "log_probs": log_probs, "new": new}


if __name__ == "__main__":
    main()
