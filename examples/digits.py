"""Digits, row by row: a network reads a picture as a sequence, and says at the end what it was.

scikit-learn's handwritten digits, 8 x 8 pixels: T = 8 steps of I = 8 numbers, from the top row to the bottom one. The
answer, one of ten classes, comes from the final state alone (many to one). The network learns from beginnings of each
picture, of 1 to 8 rows, which are sequences of several lengths; so it can be asked after each row, becomes the surer
the more it has seen, and says how sure it is.

    python examples/digits.py --plot digits.png
"""

import argparse

import numpy as np
from sklearn.datasets import load_digits

import rnncore as rc


def data(seed):
    """Return pictures (N, 8, 8) from 0 to 1 and their digits (N,), to learn from and held out."""
    pictures, digits = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(digits))
    x, y = pictures.reshape(-1, 8, 8)[order].astype(np.float32) / 16, digits[order]
    return (x[450:], y[450:]), (x[:450], y[:450])


def draw(results, path):
    """Save two panels: how certainty and accuracy grow with the rows, and the answers to one picture."""
    from matplotlib.figure import Figure

    left, middle, right = (figure := Figure(figsize=(10, 3.4), layout="constrained")).subplots(1, 3)
    rows = np.arange(1, 9)
    left.plot(rows, results["accuracy"], marker="o", label="share that is right")
    left.plot(rows, results["certainty"], marker="o", label="probability of the true digit")
    left.set(xlabel="rows read", ylim=(0, 1), title="all held-out pictures")
    left.legend(loc="lower right")
    picture, answers = results["example"]
    middle.imshow(picture, cmap="gray_r")
    middle.set(yticks=range(8), yticklabels=rows, xticks=[], title="one of them")
    right.imshow(answers, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    right.set(yticks=range(8), yticklabels=rows, xticks=range(10), xlabel="digit", title="probability after each row")
    figure.savefig(path, dpi=80)


def main(argv=None):
    parser = argparse.ArgumentParser(description="Which digit is it, row by row?")
    for option, value in (("epochs", 12), ("hidden", 64), ("seed", 0)):
        parser.add_argument(f"--{option}", type=int, default=value, help=f"{value} by default")
    parser.add_argument("--plot", metavar="FILE", help="save a figure")
    args = parser.parse_args(argv)
    (x, y), (x_held, y_held) = data(args.seed)
    options = {"hidden": args.hidden, "layers": 2, "dropout": 0.3, "rng": args.seed}
    model = rc.SequenceModel("gru", inputs=8, outputs=10, **options)
    beginnings = [picture[:t] for picture in x for t in range(1, 9)]
    options = {"epochs": args.epochs, "batch_size": 64, "lr": 0.005, "progress": True, "rng": args.seed}
    history = model.fit(beginnings, np.repeat(y, 8), **options)
    print(f"{len(y)} pictures to learn from, {len(y_held)} held out; loss {history.loss[-1]:.4f}")

    after = np.array([model.predict_proba(x_held[:, :t]) for t in range(1, 9)])  # (rows, N, 10)
    of_truth = after[:, np.arange(len(y_held)), y_held]
    accuracy, certainty = (after.argmax(2) == y_held).mean(1), of_truth.mean(1)
    print("\nrows read  right  probability of the true digit")
    for t in range(8):
        print(f"{t + 1:9}  {accuracy[t]:5.1%}  {certainty[t]:5.1%}  {'#' * round(40 * certainty[t])}")

    found = after[-1].argmax(1)
    mixed, counts = np.unique(np.sort([y_held, found], axis=0)[:, found != y_held], axis=1, return_counts=True)
    most = [f"{mixed[0, i]} and {mixed[1, i]} ({counts[i]}x)" for i in np.argsort(-counts, kind="stable")[:5]]
    print("\ntaken for each other:", ", ".join(most) or "none")

    k = int(np.abs(of_truth[3] - 0.5).argmin())  # half read, half sure
    print(f"\na picture of {y_held[k]}, and the likeliest digits after each row:")
    for row, p in zip(x_held[k], after[:, k], strict=True):
        pixels = "".join(" .:-=+*#%@"[round(9 * value)] * 2 for value in row)
        print(f"  {pixels}  {', '.join(f'{digit} {p[digit]:.0%}' for digit in np.argsort(-p)[:3] if p[digit] > 0.005)}")
    results = {"accuracy": accuracy, "certainty": certainty, "example": (x_held[k], after[:, k])}
    if args.plot:
        draw(results, args.plot)
    return results


if __name__ == "__main__":
    main()
