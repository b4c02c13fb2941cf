"""What `train.Embedded` saves: time of lookup and layer one after the other ÷ its own.

    python bench/embedded.py [--threads 1] [--blocks 30]

Forward passes are checked to have the same bits, gradients to be close. Then blocks of both alternate in one process; a
ratio is the median over neighbouring blocks, with its 95 % confidence interval. In training, parameters change before
each call, so that what depends on them is made again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import rnncore as rc
from rnncore.measure.paired import median_interval
from rnncore.train import Embedded, Embedding

CASES = [  # V, E, H, T, N: characters, and words drawn as natural language has them (Zipf)
    (96, 64, 128, 32, 16), (96, 64, 256, 32, 16), (96, 64, 256, 100, 1), (96, 128, 128, 100, 32),
    (10_000, 128, 128, 50, 32), (10_000, 256, 256, 50, 32), (10_000, 256, 512, 50, 32),
]  # fmt: skip


def tokens_of(V: int, T: int, N: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    p = 1 / np.arange(1, V + 1)
    return rng.choice(V, (T, N), p=p / p.sum())


def apart(embedding: Embedding, layer: Any, tokens: np.ndarray, dy: np.ndarray) -> Any:
    x, x_tape = embedding.forward(tokens)
    _, _, tape = layer.forward(x)
    dx, _, grads = layer.backward(tape, dy)
    return embedding.backward(x_tape, dx)[1]["weight"], grads["weight_ih_l0"]


def together(model: Embedded[Any], tokens: np.ndarray, dy: np.ndarray) -> Any:
    _, embedding_grads, grads = model.backward(model.forward(tokens)[2], dy)
    return embedding_grads["weight"], grads["weight_ih_l0"]


def seconds(run: Callable[[], object], prepare: Callable[[], object], count: int) -> float:
    total = 0.0
    for _ in range(count):
        prepare()
        start = time.perf_counter()
        run()
        total += time.perf_counter() - start
    return total


def compare(a: Callable[[], object], b: Callable[[], object], prepare: Callable[[], object], blocks: int) -> str:
    """Return the time of a ÷ that of b."""
    count = max(1, round(0.05 / seconds(a, prepare, 3) * 3))
    times = [[seconds(run, prepare, count) for run in (a, b)] for _ in range(blocks)]
    ratio = median_interval([one / other for one, other in times])
    return f"{ratio.median:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"


def ratios(model: Embedded[Any], tokens: np.ndarray, blocks: int) -> tuple[str, str]:
    """Return those of inference and of training."""
    embedding, layer = model.embedding, model.layer
    dy = np.random.default_rng(1).standard_normal((*tokens.shape, layer.hidden_size)).astype(np.float32)
    while model._weights.whole is None:
        model(tokens)
    assert np.array_equal(model(tokens)[0], layer(embedding(tokens))[0])
    for found, wanted in zip(together(model, tokens, dy), apart(embedding, layer, tokens, dy), strict=True):
        assert np.linalg.norm(found - wanted) <= 1e-5 * np.linalg.norm(wanted)
    states = embedding.state_dict(), layer.state_dict()

    def change() -> None:
        embedding.load_state_dict(states[0])
        layer.load_state_dict(states[1])

    inference = compare(lambda: layer(embedding(tokens)), lambda: model(tokens), lambda: None, blocks)
    return inference, compare(
        lambda: apart(embedding, layer, tokens, dy), lambda: together(model, tokens, dy), change, blocks
    )


def of_steps(model: Embedded[Any], blocks: int) -> str:
    """Return that of single steps of one stream, vectors at hand."""
    vectors, tokens = list(model.embedding.parameters()["weight"]), tokens_of(model.embedding.num_embeddings, 100, 1)
    numbers = tokens[:, 0].tolist()
    own, plain = model.stream(), model.layer.stream()
    assert all(np.array_equal(own.step(k), plain.step(vectors[k])) for k in numbers)
    return compare(
        lambda: [plain.step(vectors[k]) for k in numbers], lambda: [own.step(k) for k in numbers], lambda: None, blocks
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="What train.Embedded saves.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--blocks", type=int, default=30)
    args = parser.parse_args()
    if args.blocks < 6:
        parser.error(f"expected at least 6 blocks, for a confidence of 95 %, got {args.blocks}")
    rc.set_num_threads(args.threads)
    print(f"{'V, E, H, T, N':26}{'cell':6}{'inference':>20}{'training':>20}{'step of one stream':>20}")
    for V, E, H, T, N in CASES:
        for cell in ("RNN", "LSTM", "GRU"):
            model = Embedded(Embedding(V, E, rng=0), getattr(rc, cell)(E, H, rng=1))
            inference, training = ratios(model, tokens_of(V, T, N), args.blocks)
            step = of_steps(model, args.blocks)
            print(f"{f'{V}, {E}, {H}, {T}, {N}':26}{cell:6}{inference:>20}{training:>20}{step:>20}", flush=True)


if __name__ == "__main__":
    main()
