"""Tagging: what each character of Python source belongs to, say to the name of a function that is being called.

The network reads a logical line of source character by character, in both directions, and says for each character what
its token is. That takes context: `name` may be a parameter, an attribute, something called or assigned, or a word in a
comment, and what decides may stand before it or behind it. Labels are by `tokenize` and `ast`, the source is that of
modules which every CPython has. Modules held out were not trained on; lines of theirs that occur there are left out.

N lines are one batch, whatever their lengths: characters (T, N), tags (T, N), `lengths` (N,). Nothing is computed
behind a line's end, so that lines need no sorting by length.

    python examples/tagging.py
"""

import argparse
import ast
import importlib.util
import io
import keyword
import tokenize
from collections import Counter, defaultdict
from itertools import accumulate

import numpy as np
from tqdm import tqdm

import rnncore as rc
from rnncore.train import Adam, Embedding, Linear, clip_grad_norm, softmax_cross_entropy

LEARNED = """argparse bdb calendar cmd configparser contextlib copy csv dataclasses difflib doctest enum fileinput
fractions functools gettext imaplib inspect ipaddress mailbox optparse pickle plistlib pprint smtplib socket tarfile
threading traceback typing weakref webbrowser""".split()
HELD_OUT = "ftplib selectors shlex shutil statistics subprocess tempfile textwrap uuid".split()
LONGEST, BATCH = 120, 64  # characters, beyond which are docstrings, most of them; lines in a batch
KINDS = {
    "k": "keyword", "d": "name defined", "c": "name called", "a": "attribute", "p": "parameter", "=": "name assigned",
    "i": "name imported", "n": "other name", "0": "number", '"': "string", "#": "comment", ".": "operator",
}  # fmt: skip
TAGS = "".join(KINDS)
MARKS = {"NUMBER": "0", "STRING": '"', "FSTRING_START": '"', "TSTRING_START": '"', "COMMENT": "#", "OP": "."}


def roles(source):
    """Return the tags of names by their place (line, column), as far as `ast` knows them."""
    found = {}
    for node in ast.walk(ast.parse(source)):
        name = node.func if isinstance(node, ast.Call) else node
        if isinstance(name, ast.Attribute | ast.Name):
            text, tag = (name.attr, "a") if isinstance(name, ast.Attribute) else (name.id, "n")
            at = name.end_lineno, name.end_col_offset - len(text)  # behind the last dot
            tag = "c" if name is not node else "=" if tag == "n" and isinstance(name.ctx, ast.Store) else tag
            found[at] = "c" if found.get(at) == "c" else tag  # a name is seen again without its call
        elif isinstance(node, ast.arg | ast.keyword):
            found[node.lineno, node.col_offset] = "p"
    return found


def lines(source):
    """Yield the logical lines of a module, and lines of comment, each with its tokens as (begin, end, tag)."""
    known, starts = roles(source), [0, *accumulate(len(line) + 1 for line in source.split("\n"))]
    tokens, depth, nested, before, opening = [], 0, 0, "", ""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        kind, text = tokenize.tok_name[token.type], token.string
        begin, end = (starts[row - 1] + column for row, column in (token.start, token.end))
        opening = opening if tokens else text
        if kind in ("NEWLINE", "NL"):
            if tokens and not depth:
                first = tokens[0][0]
                yield source[first : tokens[-1][1]], [(a - first, b - first, tag) for a, b, tag in tokens]
                tokens = []
        elif nested:  # in an f-string, which is one token before Python 3.12, and here
            tokens[-1] = (tokens[-1][0], end, '"')
        elif kind == "NAME":
            tag = "=" if before == "as" else known.get(token.start, "n")
            tag = "i" if opening in ("import", "from") else "d" if before in ("def", "class") else tag
            tokens.append((begin, end, "k" if keyword.iskeyword(text) else tag))
        elif kind in MARKS:
            tokens.append((begin, end, MARKS[kind]))
        depth += (kind == "OP") * ((text in "([{") - (text in ")]}"))
        nested += kind.endswith("STRING_START") - kind.endswith("STRING_END")
        before = text


def load(modules, but=()):
    """Return the lines of modules, each once and none of those in `but`, as a list of (text, tokens)."""
    found = {}
    for name in modules:
        source = importlib.util.find_spec(name).loader.get_source(name)
        source = source.encode("ascii", "replace").decode()  # in which ast's columns, of bytes, are tokenize's
        found |= {text: tokens for text, tokens in lines(source) if len(text) <= LONGEST}
    known = {text for text, _ in but}
    return [(text, tokens) for text, tokens in found.items() if text not in known]


def lookup(learned):
    """Return the rule that gives a token its most frequent tag, and a new one that of tokens that begin like it."""
    counts = defaultdict(Counter)
    for text, tokens in learned:
        for begin, end, tag in tokens:
            for key in (text[begin:end], (text[begin],)):
                counts[key][tag] += 1
    return lambda token: (counts[token] or counts[token[0],] or Counter("n")).most_common(1)[0][0]


def batch(chosen):
    """Return characters (T, N), tags (T, N), -1 where a character has none, and lengths (N,)."""
    lengths = np.array([len(text) for text, _ in chosen])
    x, target = np.zeros((lengths.max(), len(chosen)), int), np.full((lengths.max(), len(chosen)), -1)
    for n, (text, tokens) in enumerate(chosen):
        x[: len(text), n] = np.frombuffer(text.encode(), np.uint8)
        for begin, end, tag in tokens:
            target[begin:end, n] = TAGS.index(tag)
    return x, target, lengths


def train(embedding, rnn, head, learned, args):
    """Train on lines in random order, at a rate that falls to zero."""
    adam, rng, n = Adam([embedding, rnn, head]), np.random.default_rng(args.seed), len(learned) // BATCH
    parts = [part for _ in range(args.epochs) for part in np.array_split(rng.permutation(len(learned)), n)]
    for step, part in enumerate(bar := tqdm(parts, desc="training", disable=None)):
        tokens, target, lengths = batch([learned[k] for k in part])
        x, x_tape = embedding.forward(tokens)
        y, _, tape = rnn.forward(x, lengths=lengths)
        z, z_tape = head.forward(y)
        loss, dz = softmax_cross_entropy(z, target, ignore_index=-1, reduction="mean")
        dy, head_grads = head.backward(z_tape, dz)
        dx, _, rnn_grads = rnn.backward(tape, dy)
        _, embedding_grads = embedding.backward(x_tape, dx)
        clip_grad_norm(grads := [embedding_grads, rnn_grads, head_grads], 1.0)
        adam.lr = 0.01 * (1 - step / len(parts))
        adam.step(grads)
        bar.set_postfix(loss=f"{loss:.3f}", refresh=False)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for option, value in (("epochs", 3), ("hidden", 64), ("modules", len(LEARNED)), ("seed", 0)):
        parser.add_argument(f"--{option}", type=int, default=value, help=f"{value} by default")
    args = parser.parse_args(argv)
    learned = load(LEARNED[: args.modules])
    held_out = load(HELD_OUT, but=learned)
    embedding = Embedding(128, 32, rng=args.seed)
    rnn = rc.LSTM(32, args.hidden, bidirectional=True, rng=args.seed + 1)
    head = Linear(2 * args.hidden, len(TAGS), rng=args.seed + 2)
    train(embedding, rnn, head, learned, args)

    guess, counts, said = lookup(learned), defaultdict(lambda: np.zeros(3, int)), {}
    for k in range(0, len(held_out), BATCH):
        x, target, lengths = batch(part := held_out[k : k + BATCH])
        best = head(rnn(embedding(x), lengths=lengths)[0]).argmax(axis=2)  # (T, N)
        for n, (text, tokens) in enumerate(part):
            tagged = best[: len(text), n], target[: len(text), n]
            said[text] = "".join(TAGS[tag] if known >= 0 else " " for tag, known in zip(*tagged, strict=True))
            for begin, end, tag in tokens:  # a token is right if all its characters are
                right = said[text][begin:end] == tag * (end - begin)
                counts[tag] += 1, guess(text[begin:end]) == tag, right
    table = {KINDS[tag]: counts[tag] for tag in TAGS} | {"all": sum(counts.values())}
    print(f"{len(learned)} lines of {args.modules} modules to learn from, {len(held_out)} of {len(HELD_OUT)} held out")
    print(f"{'':15} {'tokens':>7} {'right: most frequent tag':>26} {'network':>8}")
    for kind, (n, by_lookup, by_network) in table.items():
        print(f"{kind:15} {n:7} {by_lookup / n:26.1%} {by_network / n:8.1%}")
    print("Tags: " + ", ".join(f"{tag} {kind}" for tag, kind in KINDS.items()))
    colourful = [text for text, tokens in held_out if len({tag for *_, tag in tokens}) > 6 and "\n" not in text]
    for text in colourful[:: -(-len(colourful) // 6)]:
        print(f"\n{text}\n{said[text]}")
    return {"table": table, "said": said, "learned": learned, "held_out": held_out}


if __name__ == "__main__":
    main()
