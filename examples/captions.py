"""One to many: a caption for a picture, word by word ("a thin seven leaning right").

The 64 pixels of a handwritten digit, mapped linearly, are the initial state of a GRU; all that it reads after that is
the caption so far. Captions say which digit it is and, where that stands out, how thick and how slanted it is. Pictures
are (N, 64), the initial state (1, N, H), words (T, N). scikit-learn brings the pictures.

    python examples/captions.py --plot captions.png
"""

import argparse

import numpy as np
from sklearn.datasets import load_digits
from tqdm import tqdm

import rnncore as rc
from rnncore.train import AdamW, Embedding, Linear, clip_grad_norm, softmax_cross_entropy

NAMES = "zero one two three four five six seven eight nine".split()
WORDS = ["<end>", "a", "an", "thin", "thick", *NAMES, "leaning", "left", "right"]  # the end also starts a caption
CODES = {word: code for code, word in enumerate(WORDS)}
END, LONGEST, WIDTH, HELD_OUT = 0, 6, 4, 400
SHADES = " .:-=+*#@"  # of a pixel from 0 to 1


def ink(pixels):
    return pixels.sum(axis=1)


def slant(pixels):
    """Return how far the upper half of each picture lies to the right of the lower one: the slope of its axis."""
    mass = pixels.reshape(-1, 8, 8) / ink(pixels)[:, None, None]
    up, right = np.mgrid[3.5:-4.5:-1, -3.5:4.5]
    dy, dx = (axis - np.sum(mass * axis, axis=(1, 2))[:, None, None] for axis in (up, right))
    return np.sum(mass * dx * dy, axis=(1, 2)) / np.sum(mass * dy**2, axis=(1, 2))


def captions(pixels, digits, bounds):
    """Return a caption for each picture; what lies within the bounds of ink and of slant is not worth a word."""
    found, ((thin, thick), (left, right)) = [], bounds
    for digit, x, s in zip(digits, ink(pixels).tolist(), slant(pixels).tolist(), strict=True):
        words = ["thin"] * (x < thin) + ["thick"] * (x > thick) + [NAMES[digit]]
        words += ["leaning", "left"] * (s < left) + ["leaning", "right"] * (s > right)
        found.append(["an" if words[0][0] == "e" else "a", *words])
    return found


def encode(captions):
    """Return words (LONGEST, N), with the end behind them, and where there is something to say (LONGEST, N)."""
    codes = np.full((LONGEST, len(captions)), END)
    for n, words in enumerate(captions):
        codes[: len(words), n] = [CODES[word] for word in words]
    return codes, np.arange(LONGEST)[:, None] <= [len(words) for words in captions]


def gradients(model, pixels, words, counts):
    """Return the mean loss per word, and the gradients of each module."""
    look, embedding, gru, head = model
    h_0, look_tape = look.forward(pixels)
    x, x_tape = embedding.forward(np.concatenate([np.full_like(words[:1], END), words[:-1]]))  # teacher forcing
    y, _, y_tape = gru.forward(x, h_0[None])
    z, z_tape = head.forward(y)
    loss, dz = softmax_cross_entropy(z, words, mask=counts, reduction="mean")
    dy, head_grads = head.backward(z_tape, dz)
    dx, dh_0, gru_grads = gru.backward(y_tape, dy)
    return loss, [look.backward(look_tape, dh_0[0])[1], embedding.backward(x_tape, dx)[1], gru_grads, head_grads]


def train(model, pixels, words, counts, epochs, rng):
    adam, batch, lr = AdamW(model, weight_decay=0.1), 32, 0.01
    for epoch in tqdm(range(epochs), disable=None):
        adam.lr = lr * (1 - epoch / epochs)
        order = rng.permutation(len(pixels))
        for chosen in np.split(order, range(batch, len(order), batch)):
            grads = gradients(model, pixels[chosen], words[:, chosen], counts[:, chosen])[1]
            clip_grad_norm(grads, 1.0)
            adam.step(grads)


def decode(model, pixels):
    """Return the words said of each picture, (LONGEST, N), greedily and by beam search."""
    look, embedding, gru, head = model

    def step(tokens, state):
        y, state = gru(embedding(tokens[None]), state)  # (1, N, E), one step of time
        return head(y[0]), state

    first, state = np.full(len(pixels), END), look(pixels)[None]
    greedy, _ = rc.decode.generate(step, first, LONGEST, state, stop=END)
    beams, _, _ = rc.decode.beam_search(step, first, LONGEST, WIDTH, state, stop=END)
    found = {"greedy": greedy, f"beam of {WIDTH}": beams[:, 0]}
    return {way: np.pad(codes, ((0, 0), (0, LONGEST - codes.shape[1]))).T for way, codes in found.items()}


def say(codes):
    return [" ".join(WORDS[k] for k in column if k != END) for column in codes.T]


def draw(shown, pixels, said, true, path):
    """Save ten pictures, with what was said of each and, where that differs, what is true."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.4), layout="constrained")
    for axes, k in zip(figure.subplots(2, 5).flat, shown, strict=True):
        axes.imshow(pixels[k].reshape(8, 8), cmap="gray_r")
        axes.set_title(said[k] if said[k] == true[k] else f"{said[k]}\n({true[k]})", fontsize="small")
        axes.axis("off")
    figure.savefig(path, dpi=80)


def main(argv=None):
    parser = argparse.ArgumentParser(description="Captions for handwritten digits.")
    for option, value in (("epochs", 40), ("hidden", 128), ("seed", 0)):
        parser.add_argument(f"--{option}", type=int, default=value, help=f"{value} by default")
    parser.add_argument("--plot", metavar="FILE", help="save a figure")
    args = parser.parse_args(argv)
    rng, H = np.random.default_rng(args.seed), args.hidden
    data = load_digits()
    order = rng.permutation(len(data.target))
    pixels, digits = (data.data[order] / 16).astype(np.float32), data.target[order]
    bounds = [np.quantile(measure(pixels[HELD_OUT:]), (0.25, 0.75)).tolist() for measure in (ink, slant)]
    words, counts = encode(captions(pixels, digits, bounds))
    look, embedding = Linear(64, H, rng=rng), Embedding(len(WORDS), 16, rng=rng)
    model = look, embedding, rc.GRU(16, H, rng=rng), Linear(H, len(WORDS), rng=rng)
    train(model, pixels[HELD_OUT:], words[:, HELD_OUT:], counts[:, HELD_OUT:], args.epochs, rng)

    pixels, words, counts, known = pixels[:HELD_OUT], words[:, :HELD_OUT], counts[:, :HELD_OUT], words[:, HELD_OUT:]
    found = decode(model, pixels)
    kinds, frequency = np.unique(known, axis=1, return_counts=True)
    found["always the same"] = np.repeat(kinds[:, [frequency.argmax()]], HELD_OUT, axis=1)
    said, results = {"true": say(words)} | {way: say(codes) for way, codes in found.items()}, {}
    shown = np.unique(digits[:HELD_OUT], return_index=True)[1]  # one of each digit
    for k in shown[[0, 4, 8]]:
        print("\n".join("".join(SHADES[int(8 * value)] * 2 for value in row) for row in pixels[k].reshape(8, 8)))
        print("\n".join(f"{way}: {texts[k]}" for way, texts in said.items()), end="\n\n")
    print(f"{HELD_OUT} pictures held out: words right, whole captions right")
    for way, codes in found.items():
        hits, asked = codes == words, counts | (codes != END)
        results[way] = float(hits[asked].mean()), float(hits.all(axis=0).mean())
        print(f"{way:16} {results[way][0]:7.1%} {results[way][1]:7.1%}")
    if args.plot:
        draw(shown, pixels, said["greedy"], said["true"], args.plot)
    return results | {"said": said}


if __name__ == "__main__":
    main()
