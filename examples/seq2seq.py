"""Sequence to sequence: an encoder hands its final state to a decoder ("three hundred and twelve" becomes "312").

An LSTM reads the words of a number, from the last to the first, and says nothing; a second LSTM starts from its final
state and writes digits until it writes the end. It is trained with the right digits as input (teacher forcing) and then
has to go on from its own (greedy decoding). Its gradient with respect to the initial state is what the encoder learns
from. Words are (T, N) with lengths, states (1, N, H), digits (S, N); no number is both trained on and asked for.

    python examples/seq2seq.py
"""

import argparse

import numpy as np
from tqdm import tqdm

import rnncore as rc
from rnncore.train import Adam, Embedded, Embedding, Linear, clip_grad_norm, softmax_cross_entropy

SMALL = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen".split()
SMALL += "seventeen eighteen nineteen".split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
VALUES = {word: k for k, word in enumerate(SMALL)} | {word: k for k, word in enumerate(TENS, 2)}
CODES = {word: code for code, word in enumerate([*SMALL, *TENS, "hundred", "thousand", "and"])}
END, DIGITS, IGNORED = 10, 7, -1  # END also starts the decoder; no number has more than six digits, and the end


def spell(number):
    """Return the words of a number below a million."""
    if number < 20:
        return [SMALL[number]]
    if number < 100:
        return [TENS[number // 10 - 2]] + (spell(number % 10) if number % 10 else [])
    size, name = (100, "hundred") if number < 1000 else (1000, "thousand")
    rest = number % size
    joint = ["and"] * (0 < rest < 100)
    return [*spell(number // size), name, *joint, *(spell(rest) if rest else [])]


def encode(numbers):
    """Return words (T, N), their lengths (N,), and digits with the end behind them and IGNORED from there on (S, N)."""
    spelled = [[CODES[word] for word in spell(number)] for number in numbers]
    lengths = np.array([len(words) for words in spelled])
    words = np.zeros((lengths.max(), len(numbers)), np.int64)
    digits = np.full((DIGITS, len(numbers)), IGNORED)
    for n, number in enumerate(numbers):
        words[: lengths[n], n] = spelled[n]
        digits[: len(str(number)) + 1, n] = [*map(int, str(number)), END]
    return words, lengths, digits


def draw(rng, count):
    return np.floor(10 ** rng.uniform(0, 6, count) - 0.5).astype(int)  # those of one digit as often as those of six


def gradients(model, numbers):
    """Return the gradients of each module, of the mean loss per digit."""
    encoder, decoder, head = model
    words, lengths, digits = encode(numbers)
    inputs = np.concatenate([np.full((1, len(numbers)), END), digits[:-1]])
    inputs[inputs == IGNORED] = END  # behind the end: read, but what comes of it is not asked for
    _, state, encoder_tape = encoder.forward(words, lengths=lengths)
    y, _, decoder_tape = decoder.forward(inputs, state)
    z, z_tape = head.forward(y)
    _, dz = softmax_cross_entropy(z, digits, ignore_index=IGNORED, reduction="mean")
    dy, head_grads = head.backward(z_tape, dz)
    dstate, *decoder_grads = decoder.backward(decoder_tape, dy)
    _, *encoder_grads = encoder.backward(encoder_tape, None, dstate)  # through the state alone
    return [*encoder_grads, *decoder_grads, head_grads]


def translate(model, numbers):
    """Return what the model writes for each number's words."""
    encoder, decoder, head = model
    words, lengths, _ = encode(numbers)
    _, state = encoder(words, lengths=lengths, return_sequence=False)

    def step(tokens, state):
        y, state = decoder(tokens[None], state)  # (1, N), one step of time
        return head(y[0]), state

    found = rc.decode.generate(step, np.full(len(numbers), END), DIGITS, state, stop=END)
    return ["".join(map(str, row[:length])) for row, length in zip(*found, strict=True)]


def word_by_word(number):
    """Return the digits of each word, one behind the other, as if there were no zeros to fill in."""
    return "".join(str(VALUES[word]) for word in spell(number) if word in VALUES)


def main(argv=None):
    parser = argparse.ArgumentParser(description="Number words to digits.")
    for option, value in (("steps", 1000), ("hidden", 128), ("batch", 64), ("seed", 0)):
        parser.add_argument(f"--{option}", type=int, default=value, help=f"{value} by default")
    args = parser.parse_args(argv)
    rng, H = np.random.default_rng(args.seed), args.hidden
    numbers = draw(rng, 2000)
    held_out = rng.permutation(np.unique(numbers[numbers >= 100]))[:1000].tolist()  # below, there are few to learn from
    reader, writer = rc.LSTM(32, H, reverse=True, rng=rng), rc.LSTM(32, H, rng=rng)
    words, digits, head = Embedding(len(CODES), 32, rng=rng), Embedding(11, 32, rng=rng), Linear(H, 11, rng=rng)
    model = Embedded(words, reader), Embedded(digits, writer), head
    adam = Adam([words, reader, digits, writer, head])
    for k in tqdm(range(args.steps), disable=None):
        adam.lr = 0.005 * 0.5 * (1 + np.cos(np.pi * k / args.steps))
        numbers = draw(rng, args.batch)
        grads = gradients(model, numbers[~np.isin(numbers, held_out)].tolist())
        clip_grad_norm(grads, 1.0)
        adam.step(grads)

    written = translate(model, held_out)
    right = np.array([a == str(b) for a, b in zip(written, held_out, strict=True)])
    baseline = np.mean([word_by_word(number) == str(number) for number in held_out])
    for k in [*range(6), *np.flatnonzero(~right)[:4]]:
        print(f"{' '.join(spell(held_out[k])):75} {written[k]:>7} {'' if right[k] else f'wrong: {held_out[k]}'}")
    print(f"{len(held_out)} numbers never trained on: {right.mean():.1%} written without a mistake")
    print(f"(without zeros to fill in, word by word: {baseline:.1%})")
    return {"accuracy": right.mean(), "baseline": baseline, "held out": held_out, "written": written}


if __name__ == "__main__":
    main()
