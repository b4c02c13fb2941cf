"""The next word, when it hangs on one far back: "i was born in china ... i speak" goes on with "chinese".

A tanh network and an LSTM learn a language of our own, word by word, from sentences in which more or less is told
between the country and the language. They are then asked for the last word of sentences that they have not seen:
how often are they right, by the number of words in between? Words are (T, N) with lengths, logits (T, N, V).

    python examples/next_word.py --plot next_word.png
"""

import argparse

import numpy as np
from tqdm import tqdm

import rnncore as rc
from rnncore.train import Adam, Embedded, Embedding, Linear, clip_grad_norm, init, softmax_cross_entropy

LANGUAGES = {
    "china": "chinese", "france": "french", "germany": "german", "greece": "greek", "hungary": "hungarian",
    "italy": "italian", "japan": "japanese", "korea": "korean", "poland": "polish", "russia": "russian",
    "spain": "spanish", "turkey": "turkish",
}  # fmt: skip
NEAR = "near behind beside below above opposite".split()
PLACE = [NEAR, ["the"], "river church mill market school station harbour forest".split()]  # one word of each
START, ASK = "i was born in".split(), "and i speak".split()
WORDS = sorted({*START, *ASK, *LANGUAGES, *LANGUAGES.values(), *(word for words in PLACE for word in words)})
CODES = {word: code for code, word in enumerate(WORDS)}
PLACES = (1, 2, 4, 8, 12, 18, 25, 32)  # told in the sentences asked about
GAPS = [places * len(PLACE) + len(ASK) for places in PLACES]  # words between the country and its language
CHANCE = 1 / len(LANGUAGES)


def sentence(rng, places):
    """Return the words of a sentence in which so many places are told, as a tuple."""
    country = [*LANGUAGES][rng.integers(len(LANGUAGES))]
    picks = rng.integers([len(words) for words in PLACE], size=(places, len(PLACE)))
    told = [words[k] for place in picks for words, k in zip(PLACE, place, strict=True)]
    return (*START, country, *told, *ASK, LANGUAGES[country])


def encode(sentences):
    """Return the codes of sentences (T, N), filled up with zeros, and their lengths (N,)."""
    lengths = np.array([len(words) for words in sentences])
    codes = np.zeros((lengths.max(), len(sentences)), np.int64)
    for n, words in enumerate(sentences):
        codes[: len(words), n] = [CODES[word] for word in words]
    return codes, lengths


def accuracy(model, sentences):
    """Return how many of the last words are the model's likeliest."""
    (reader, head), (codes, _) = model, encode(sentences)  # of one length
    y, _ = reader(codes[:-1])
    return float(np.mean(head(y[-1]).argmax(axis=1) == codes[-1]))


def train(name, layer, lr, known, args):
    """Train one network on sentences that are not in `known`; return it, with an embedding, and its head."""
    rng = np.random.default_rng(args.seed + 1)
    embedding, head = Embedding(len(WORDS), 32, rng=rng), Linear(args.hidden, len(WORDS), rng=rng)
    reader, adam = Embedded(embedding, layer), Adam([embedding, layer, head])
    for k in tqdm(range(args.steps), desc=name, disable=None):
        counts = ((PLACES[-1] + 2) ** rng.random(args.batch) ** 2).astype(int) - 1  # from 0 on, small ones most often
        told = [sentence(rng, places) for places in counts]
        codes, lengths = encode([words for words in told if words not in known])
        y, _, y_tape = reader.forward(codes[:-1], lengths=lengths - 1)
        z, z_tape = head.forward(y)
        # The mean loss of all words, and that of the last ones: few among all, whose many parts are noise to them.
        t, last = np.arange(len(z))[:, None], lengths - 2
        dz = sum(softmax_cross_entropy(z, codes[1:], mask=mask, reduction="mean")[1] for mask in (t <= last, t == last))
        dy, head_grads = head.backward(z_tape, dz)
        _, *reader_grads = reader.backward(y_tape, dy)
        grads = [*reader_grads, head_grads]
        clip_grad_norm(grads, 1.0)
        adam.lr = lr * (1 - k / args.steps)
        adam.step(grads)
    return reader, head


def draw(results, path):
    """Save accuracy over the gap."""
    from matplotlib.figure import Figure

    axes = (figure := Figure(figsize=(6, 4), layout="constrained")).subplots()
    for name, shares in results.items():
        axes.plot(GAPS, shares, "o-", label=name)
    axes.axhline(CHANCE, color="grey", linestyle=":", label="chance")
    axes.set(xlabel="words between the country and its language", ylabel="right answers", ylim=(0, 1.03))
    axes.legend()
    figure.savefig(path, dpi=80)


def main(argv=None):
    parser = argparse.ArgumentParser(description="Which network knows the next word when the hint lies far back?")
    for option, value in (("steps", 400), ("hidden", 64), ("batch", 32), ("seed", 0)):
        parser.add_argument(f"--{option}", type=int, default=value, help=f"{value} by default")
    parser.add_argument("--plot", metavar="FILE", help="save a figure")
    args = parser.parse_args(argv)
    rng = np.random.default_rng(args.seed)
    held_out = {places: [sentence(rng, places) for _ in range(200)] for places in PLACES}
    known = {words for sentences in held_out.values() for words in sentences}
    tanh, lstm = rc.RNN(32, args.hidden, rng=rng), rc.LSTM(32, args.hidden, rng=rng)
    init.forget_bias(lstm)
    results = {}
    for name, layer, lr in (("tanh RNN", tanh, 0.003), ("LSTM", lstm, 0.01)):
        model = train(name, layer, lr, known, args)
        results[name] = [accuracy(model, held_out[places]) for places in PLACES]
    print(" ".join(held_out[4][0][:-1]), "...", held_out[4][0][-1])
    print(f"{'words in between':16}" + "".join(f"{gap:5}" for gap in GAPS))
    for name, shares in [*results.items(), ("chance", [CHANCE] * len(PLACES))]:
        print(f"{name:16}" + "".join(f"{share:5.0%}" for share in shares))
    if args.plot:
        draw(results, args.plot)
    return results


if __name__ == "__main__":
    main()
