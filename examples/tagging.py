"""Tagging: what each character of Python source belongs to, say to the name of a function that is being called.

The network reads a line of source character by character, in both directions, and says for each character what its
token is. That takes context: `name` may be a parameter, an attribute, something called or assigned, or a word in a
comment, and what decides may stand before it or behind it. Labels are by `tokenize` and `ast`, the source is that of
modules which every CPython has. Modules held out were not trained on; lines of theirs that occur there are left out.

A line is an array (T,) of characters and a list of T tags, whatever T is: batches of `SequenceModel` are ragged.

    python examples/tagging.py
"""

import argparse
import ast
import importlib.util
import io
import keyword
import re
import tokenize
from collections import Counter, defaultdict

import numpy as np

import rnncore as rc

LEARNED = """argparse bdb calendar cmd configparser contextlib copy csv dataclasses difflib doctest enum fileinput
fractions functools gettext inspect ipaddress optparse pickle pprint socket tarfile threading typing""".split()
HELD_OUT = "ftplib selectors shlex shutil statistics subprocess tempfile textwrap uuid".split()
KINDS = {
    "k": "keyword", "d": "name defined", "c": "name called", "a": "attribute", "p": "parameter", "=": "name assigned",
    "n": "other name", "0": "number", '"': "string", "#": "comment", ".": "operator",
}  # fmt: skip
TAGS = "".join(KINDS) + " "  # a blank between tokens
MARKS = {"NAME": "n", "NUMBER": "0", "STRING": '"', "COMMENT": "#", "OP": "."}
RUN = re.compile(r"(\S)\1*")  # a tag as often as it repeats: a token, or some operators


def roles(source):
    """Return the tags of names by their place (row, column), as far as `ast` knows them."""
    found = {}
    for node in ast.walk(ast.parse(source)):  # a call before what it calls
        name = node.func if isinstance(node, ast.Call) else node
        if isinstance(name, ast.Attribute):
            place = name.end_lineno, name.end_col_offset - len(name.attr)  # behind the last dot
            found.setdefault(place, "a" if name is node else "c")
        elif isinstance(name, ast.Name):
            tag = "=" if isinstance(name.ctx, ast.Store) else "n"
            found.setdefault((name.lineno, name.col_offset), tag if name is node else "c")
        elif isinstance(name, ast.arg | ast.keyword) and name.arg:  # not **
            found[name.lineno, name.col_offset] = "p"
    return found


def lines(source):
    """Yield each line of a module, without indentation, and its tags, a string of the same length."""
    rows, known, left_out, before = source.split("\n"), roles(source), set(), ""
    tags = [[" "] * len(row) for row in rows]
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        kind, (row, begin), (last, end) = tokenize.tok_name[token.type], token.start, token.end
        tag = "d" if before in ("def", "class") else known.get(token.start, MARKS.get(kind))
        tag = "k" if keyword.iskeyword(token.string) else tag
        if last > row or kind.startswith(("FSTRING", "TSTRING")):  # strings of several lines, or with code in them
            left_out.update(range(row, last + 1))
        elif tag:
            tags[row - 1][begin:end] = tag * (end - begin)
        before = token.string
    for k, text in enumerate(row.lstrip() for row in rows):
        if text and k + 1 not in left_out:
            yield text, "".join(tags[k][-len(text) :])


def load(modules):
    """Return the lines of modules, each once, as a dict of text to tags: in ASCII, where a column is a byte."""
    sources = (importlib.util.find_spec(name).loader.get_source(name) for name in modules)
    return dict(line for source in sources for line in lines(source.encode("ascii", "replace").decode()))


def lookup(learned):
    """Return the rule that gives a token its most frequent tag, and a new one that of tokens that begin like it."""
    counts = defaultdict(Counter)
    for text, tags in learned.items():
        for run in RUN.finditer(tags):
            for key in (text[slice(*run.span())], (text[run.start()],)):
                counts[key][run[1]] += 1
    return lambda token: (counts[token] or counts[token[0],] or Counter("n")).most_common(1)[0][0]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for option, value in (("epochs", 2), ("modules", len(LEARNED)), ("seed", 0)):
        parser.add_argument(f"--{option}", type=int, default=value, help=f"{value} by default")
    args = parser.parse_args(argv)
    learned = load(LEARNED[: args.modules])
    held_out = {text: tags for text, tags in load(HELD_OUT).items() if text not in learned}
    X, X_held_out = ([np.frombuffer(text.encode(), np.uint8) for text in part] for part in (learned, held_out))
    y = [[TAGS.index(tag) for tag in tags] for tags in learned.values()]
    model = rc.SequenceModel(vocabulary=128, outputs=len(TAGS), per_step=True, bidirectional=True, rng=args.seed)
    for lr in (0.005, 0.001):  # so many epochs at each
        model.fit(X, y, epochs=args.epochs, lr=lr, progress=True, rng=args.seed)
    said = ["".join(TAGS[k] for k in best) for best in model.predict(X_held_out)]
    said = dict(zip(held_out, said, strict=True))

    guess, counts = lookup(learned), {tag: np.zeros(3, int) for tag in KINDS}
    for text, tags in held_out.items():
        for run in RUN.finditer(tags):  # which is right if all its characters are
            at, tag = slice(*run.span()), run[1]
            counts[tag] += 1, guess(text[at]) == tag, said[text][at] == run[0]
    table = {kind: counts[tag] for tag, kind in KINDS.items()} | {"all": sum(counts.values())}
    print(f"{len(learned)} lines of {args.modules} modules to learn from, {len(held_out)} of {len(HELD_OUT)} held out")
    print(f"{'':17} {'tokens':>7} {'right: most frequent tag':>26} {'network':>8}")
    for tag, (kind, (n, by_lookup, by_network)) in zip(TAGS, table.items(), strict=True):
        print(f"{tag} {kind:15} {n:7} {by_lookup / n:26.1%} {by_network / n:8.1%}")
    colourful = [text for text, tags in held_out.items() if len(set(tags)) > 7]
    for text in colourful[:: -(-len(colourful) // 6)]:
        print(f"\n{text}\n{said[text]}")
    return {"table": table, "said": said, "learned": learned, "held_out": held_out}


if __name__ == "__main__":
    main()
