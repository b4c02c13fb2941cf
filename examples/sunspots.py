"""Forecasting: the yearly number of sunspots, one to eleven years ahead, by a GRU and by what it has to beat.

The network reads the numbers up to a year and says the change to the next; for years further on it goes on from what it
said itself. Next to it stand the naive forecast, the last number again, and an autoregression (AR), linear in the last
numbers, its order chosen by AIC. All learn from the years before 1959 and are judged by those from 1959 on.

Numbers are forecast as their square roots, whose ups and downs are more alike: z (T,), windows of it (T, N, 1).

    pip install ".[examples]"
    python examples/sunspots.py --plot sunspots.png
"""

import argparse

import numpy as np
from statsmodels.datasets import sunspots
from statsmodels.tsa.ar_model import ar_select_order
from tqdm import tqdm

import rnncore as rc
from rnncore.train import AdamW, Linear, clip_grad_norm, mean_squared_error

HELD_OUT, AHEAD = 1959, 11  # first year held out; most years ahead
WINDOW, BATCH, WARM_UP = 60, 32, 10  # years that one gradient goes back, windows at once, years only read
NOISE = 0.1  # added to what is read in training, so that few numbers are not learned by heart
# Noise and number of steps were chosen by errors on 1909 to 1958, of networks that learned from the years before.


def train(gru, head, z, args):
    """Train on windows of z (T,), to say at each time the change to the next."""
    adam, rng = AdamW([gru, head], 0.003, weight_decay=0.01), np.random.default_rng(args.seed)
    counts = np.arange(WINDOW)[:, None, None] >= WARM_UP
    for step in (bar := tqdm(range(args.steps), desc="training", disable=None)):
        at = rng.integers(0, len(z) - WINDOW, BATCH) + np.arange(WINDOW + 1)[:, None]
        windows = z[at][..., None]  # (T + 1, N, 1)
        x = windows[:-1] + rng.normal(0, NOISE, windows[:-1].shape)
        y, _, tape = gru.forward(x)
        change, head_tape = head.forward(y)
        loss, d = mean_squared_error(x + change, windows[1:], mask=counts, reduction="mean")
        dy, head_grads = head.backward(head_tape, d)
        _, _, grads = gru.backward(tape, dy)
        clip_grad_norm([grads, head_grads], 1.0)
        adam.lr = 0.003 * (1 - step / args.steps)
        adam.step([grads, head_grads])
        bar.set_postfix(loss=f"{loss:.3f}", refresh=False)


def by_gru(gru, head, z, origins):
    """Return forecasts (AHEAD, N) from N places in z (T,), each with all numbers up to it."""
    states, _ = gru(z[:, None])  # (T, H): a GRU's output is its state, so that it can go on from every place at once
    h, x, said = states[origins][None], z[origins][:, None], []
    for _ in range(AHEAD):
        x = x + head(h[0])  # (N, 1)
        said.append(x[:, 0])
        _, h = gru(x[None], h)
    return np.array(said)


def draw(results, years, numbers, path):
    """Save two panels: one cycle and more running free, and errors by how far ahead."""
    from matplotlib.figure import Figure

    left, right = (figure := Figure(figsize=(10, 4), layout="constrained")).subplots(1, 2, width_ratios=(3, 2))
    left.plot(years[-60:], numbers[-60:], color="black", linewidth=1, label="sunspots")
    for name, result in results.items():
        (line,) = right.plot(np.arange(1, AHEAD + 1), result["errors"], ".-", label=name)
        for origin in range(0, len(result["forecasts"][0]) - AHEAD, AHEAD) if name != "last number" else ():
            begun = HELD_OUT - 1 + origin
            said = [numbers[years == begun][0], *result["forecasts"][:, origin]]
            left.plot(np.arange(begun, begun + AHEAD + 1), said, color=line.get_color(), marker=".", markersize=4)
    left.axvline(HELD_OUT - 0.5, color="grey", linestyle=":")
    left.set(xlabel="year", ylabel="sunspots", title=f"{AHEAD} years on their own, four times")
    right.set(xlabel="years ahead", ylabel="error (root of the mean square)", ylim=(0, None))
    right.legend()
    figure.savefig(path, dpi=80)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for option, value in (("steps", 500), ("hidden", 16), ("seed", 0)):
        parser.add_argument(f"--{option}", type=int, default=value, help=f"{value} by default")
    parser.add_argument("--plot", metavar="FILE", help="save a figure")
    args = parser.parse_args(argv)
    data = sunspots.load_pandas().data
    years, numbers = data["YEAR"].to_numpy(int), data["SUNACTIVITY"].to_numpy()
    roots = np.sqrt(numbers)
    n = int(np.searchsorted(years, HELD_OUT))  # years to learn from
    mean, std = roots[:n].mean(), roots[:n].std()
    z = (roots - mean) / std
    gru, head = rc.GRU(1, args.hidden, rng=args.seed), Linear(args.hidden, 1, rng=args.seed + 1)
    train(gru, head, z[:n], args)
    ar = ar_select_order(z[:n], 20, ic="aic").model.fit()

    origins = np.arange(n - 1, len(z) - 1)  # from the last year learned from on
    by_ar = [ar.apply(z[: origin + 1]).forecast(AHEAD) for origin in origins]  # the parameters stay
    forecasts = {
        "last number": np.tile(z[origins], (AHEAD, 1)), f"AR({len(ar.model.ar_lags)})": np.transpose(by_ar),
        "GRU": by_gru(gru, head, z, origins),
    }  # fmt: skip
    results = {}
    for name, said in forecasts.items():
        said = np.maximum(said * std + mean, 0) ** 2
        errors = [said[k, : len(origins) - k] - numbers[n + k :] for k in range(AHEAD)]
        results[name] = {"forecasts": said, "errors": np.array([np.sqrt(np.mean(e**2)) for e in errors])}
    print(f"Error (root of the mean square) over {years[n]} to {years[-1]}, by how many years ahead")
    print(f"{'':12}" + "".join(f"{k:7}" for k in (1, 2, 3, 5, 8, 11)))
    for name, result in results.items():
        print(f"{name:12}" + "".join(f"{result['errors'][k - 1]:7.1f}" for k in (1, 2, 3, 5, 8, 11)))
    print(f"The smallest one year ahead is that of {min(results, key=lambda name: results[name]['errors'][0])}")
    print("\nThe last years, each forecast from those before it")
    print(f"{'sunspots':>12}  " + "".join(f"{name:>13}" for name in results))
    for k in range(-10, 0):
        print(f"{years[k]}: {numbers[k]:6.1f}  " + "".join(f"{r['forecasts'][0, k]:13.1f}" for r in results.values()))
    if args.plot:
        draw(results, years, numbers, args.plot)
    return results


if __name__ == "__main__":
    main()
