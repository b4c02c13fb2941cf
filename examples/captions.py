"""One to many: a caption for a picture, word by word ("a thin seven leaning right").

The 64 pixels of a handwritten digit, mapped linearly, are the initial state of a GRU; all that it reads after that is
the caption so far. Captions say which digit it is and, where that stands out, how thick and how slanted it is. Pictures
are (N, 64), the initial state (1, N, H), words (T, N). scikit-learn brings the pictures.

    python examples/captions.py --plot captions.png
"""

import argparse
from statistics import mode

import numpy as np
from sklearn.datasets import load_digits
from tqdm import tqdm

import rnncore as rc
from rnncore.train import AdamW, Embedded, Embedding, Linear, clip_grad_norm, softmax_cross_entropy

NAMES = "zero one two three four five six seven eight nine".split()
WORDS = ["<end>", "a", "an", "thin", "thick", *NAMES, "leaning", "left", "right"]  # the end also starts a caption
END, LONGEST, HELD_OUT = 0, 6, 400


def measure(pixels):
    """Return each picture's ink and its slant, how far the upper half lies to the right: the slope of its axis."""
    ink = pixels.sum(axis=1)
    mass = pixels.reshape(-1, 8, 8) / ink[:, None, None]
    up, right = np.mgrid[3.5:-4.5:-1, -3.5:4.5]
    dy, dx = (axis - np.sum(mass * axis, axis=(1, 2))[:, None, None] for axis in (up, right))
    return ink, np.sum(mass * dx * dy, axis=(1, 2)) / np.sum(mass * dy**2, axis=(1, 2))


def captions(pixels, digits):
    """Return a caption for each picture; what is like the middle half of those to learn from is not worth a word."""
    inks, slants = measure(pixels)
    (thin, thick), (left, right) = (np.quantile(values[HELD_OUT:], (0.25, 0.75)).tolist() for values in (inks, slants))
    found = []
    for digit, ink, slant in zip(digits, inks.tolist(), slants.tolist(), strict=True):
        words = ["thin"] * (ink < thin) + ["thick"] * (ink > thick) + [NAMES[digit]]
        words += ["leaning", "left"] * (slant < left) + ["leaning", "right"] * (slant > right)
        found.append(" ".join(["an" if words[0] == "eight" else "a", *words]))
    return found


def train(model, pixels, captions, epochs, rng):
    look, gru, head = model
    words = np.full((LONGEST, len(captions)), END)  # behind a caption nothing but the end
    for n, caption in enumerate(map(str.split, captions)):
        words[: len(caption), n] = [WORDS.index(word) for word in caption]
    inputs = np.concatenate([np.full_like(words[:1], END), words[:-1]])  # teacher forcing
    adam, lr = AdamW([look, gru.embedding, gru.layer, head], weight_decay=0.1), 0.01
    for epoch in tqdm(range(epochs), disable=None):
        adam.lr = lr * (1 - epoch / epochs)
        for batch in np.array_split(rng.permutation(len(pixels)), len(pixels) // 32):
            h_0, look_tape = look.forward(pixels[batch])
            y, _, y_tape = gru.forward(inputs[:, batch], h_0[None])
            z, z_tape = head.forward(y)
            _, dz = softmax_cross_entropy(z, words[:, batch], reduction="mean")
            dy, head_grads = head.backward(z_tape, dz)
            dh_0, *gru_grads = gru.backward(y_tape, dy)
            grads = [look.backward(look_tape, dh_0[0])[1], *gru_grads, head_grads]
            clip_grad_norm(grads, 1.0)
            adam.step(grads)


def describe(model, pixels):
    """Return what the model says of each picture: the likeliest word at every step."""
    look, gru, head = model

    def step(tokens, state):
        y, state = gru(tokens[None], state)  # (1, N), one step of time
        return head(y[0]), state

    tokens, lengths = rc.decode.generate(step, np.full(len(pixels), END), LONGEST, look(pixels)[None], stop=END)
    return [" ".join(WORDS[k] for k in row[:length]) for row, length in zip(tokens, lengths, strict=True)]


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
    pixels, digits = load_digits(return_X_y=True)
    order = rng.permutation(len(digits))
    pixels, digits = (pixels[order] / 16).astype(np.float32), digits[order]
    texts = captions(pixels, digits)
    look, embedding = Linear(64, H, rng=rng), Embedding(len(WORDS), 16, rng=rng)
    model = look, Embedded(embedding, rc.GRU(16, H, rng=rng)), Linear(H, len(WORDS), rng=rng)
    train(model, pixels[HELD_OUT:], texts[HELD_OUT:], args.epochs, rng)

    said, true, same = describe(model, pixels[:HELD_OUT]), texts[:HELD_OUT], mode(texts[HELD_OUT:])
    shown = np.unique(digits[:HELD_OUT], return_index=True)[1]  # one of each digit
    for k in shown[[0, 4, 8]]:
        print("\n".join("".join(" .:-=+*#@"[int(8 * value)] * 2 for value in row) for row in pixels[k].reshape(8, 8)))
        print(f"said: {said[k]}\ntrue: {true[k]}\n")
    accuracy = float(np.mean([a == b for a, b in zip(said, true, strict=True)]))
    baseline = true.count(same) / HELD_OUT
    print(f"{HELD_OUT} pictures held out: {accuracy:.1%} of captions right in every word ({same!r}: {baseline:.1%})")
    if args.plot:
        draw(shown, pixels, said, true, args.plot)
    return {"accuracy": accuracy, "baseline": baseline, "said": said, "true": true}


if __name__ == "__main__":
    main()
