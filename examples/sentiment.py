"""Sentiment: one verdict for a whole sentence, of which the order of words decides.

"It was not bad, it was good" and "it was not good, it was bad" hold the same words. A network that reads them one by
one, each a vector (embedding), can tell them apart by its final state; a linear model of how often each word occurs
(a bag of words) cannot. Sentences (T_i,) of tokens, of several lengths in a batch; one output for each.

examples/data/sentiment.txt has pairs of opposite sentences. Some pairs, both halves of them, are held out.

    python examples/sentiment.py --say "I would not call this a bad idea."
"""

import argparse
import re
from pathlib import Path

import numpy as np

import rnncore as rc
from rnncore.train import AdamW, Linear, softmax_cross_entropy

DATA = Path(__file__).resolve().parent / "data" / "sentiment.txt"
NEGATION = {"not", "no", "never", "nothing", "nobody", "none", "hardly", "anything", "far", "without", "wrong"}


def words(sentence):
    """Return the words of a sentence; "isn't" and "cannot" end in "not"."""
    text = sentence.lower().replace("can't", "cannot").replace("n't", " not").replace("cannot", "can not")
    return re.findall("[a-z]+", text)


def pairs(seed):
    """Return training and held-out sentences, and their labels (1: positive), of pairs in an order of their own."""
    lines = [line.split("\t") for line in DATA.read_text(encoding="utf-8").splitlines()]
    order = np.random.default_rng(seed).permutation(len(lines) // 2)
    for part in (order[len(order) // 4 :], order[: len(order) // 4]):
        chosen = [lines[2 * pair + half] for pair in part for half in (0, 1)]
        yield [text for _, text in chosen], np.array([int(label == "pos") for label, _ in chosen])


class Vocabulary(dict):
    """Tokens of words that occur at least twice; 0 stands for all others."""

    def __init__(self, sentences):
        found, counts = np.unique([word for text in sentences for word in words(text)], return_counts=True)
        super().__init__({str(word): token for token, word in enumerate(found[counts > 1], 1)})

    def tokens(self, sentences):
        return [np.array([self.get(word, 0) for word in words(text)], int) for text in sentences]

    def counts(self, sentences):
        return np.array([np.bincount(t, minlength=len(self) + 1) for t in self.tokens(sentences)], np.float32)


def bag_of_words(x, labels, seed):
    """Return a linear model of the counts of words (N, V)."""
    model = Linear(x.shape[1], 2, rng=seed)
    adam = AdamW(model, lr=0.03, weight_decay=0.1)
    for _ in range(200):
        o, tape = model.forward(x)
        adam.step(model.backward(tape, softmax_cross_entropy(o, labels, reduction="mean")[1])[1])
    return model


def main(argv=None):
    parser = argparse.ArgumentParser(description="Does a sentence praise or complain?")
    for option, value in (("epochs", 40), ("hidden", 32), ("seed", 0)):
        parser.add_argument(f"--{option}", type=int, default=value, help=f"{value} by default")
    parser.add_argument("--say", metavar="SENTENCE", default="It isn't bad, I would even call it good.")
    args = parser.parse_args(argv)
    (train, labels), (held, truth) = pairs(args.seed)
    vocabulary = Vocabulary(train)
    network = rc.SequenceModel(
        "gru", vocabulary=len(vocabulary) + 1, outputs=2, hidden=args.hidden, embedding=16, rng=args.seed
    )
    options = {"batch_size": 16, "lr": 0.01, "weight_decay": 0.1, "progress": True, "rng": args.seed}
    network.fit(vocabulary.tokens(train), labels, epochs=args.epochs, **options)
    bag = bag_of_words(vocabulary.counts(train), labels, args.seed)

    positive = network.predict_proba(vocabulary.tokens(held))[:, 1]
    o = bag(vocabulary.counts(held))
    verdicts = {"network": positive > 0.5, "bag of words": o[:, 1] > o[:, 0]}
    right = {name: (verdict == truth) for name, verdict in verdicts.items()}
    negated = np.array([bool(NEGATION & set(words(text))) for text in held])
    print(f"{len(train)} sentences to learn from, {len(held)} held out, {len(vocabulary)} words")
    print(f"{'right, of those held out:':26}{'all':>6}{'negated':>9}{'plain':>7}")
    for name, found in right.items():
        print(f"  {name:24}{found.mean():6.0%}{found[negated].mean():9.0%}{found[~negated].mean():7.0%}")
    print("\nheld-out sentences, and how sure the network is that they praise:")
    for k in range(12):
        mark = " " if right["network"][k] else "x"
        print(f"{mark} {positive[k]:4.0%}  {held[k]}")
    read = words(args.say)
    so_far = network.predict_proba([vocabulary.tokens([args.say])[0][:t] for t in range(1, len(read) + 1)])[:, 1]
    print("\nword by word:", "  ".join(f"{word} {p:.0%}" for word, p in zip(read, so_far, strict=True)))
    accuracy = {name: float(found.mean()) for name, found in right.items()}
    return {"accuracy": accuracy, "train": train, "held": held, "positive": positive, "so_far": so_far}


if __name__ == "__main__":
    main()
