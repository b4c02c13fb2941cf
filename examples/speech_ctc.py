"""Transcription: digits dialled by tones, in noise, of any length and with any pauses, written down by a PyTorch model.

A digit is a pair of tones, as telephones dial it, of 60 to 200 ms; some digits and pauses make a recording. The model
is told which digits a recording has, but not when: `torch.nn.CTCLoss` sums over all ways to lay them along time. A
bidirectional LSTM reads spectra (T, F), one every 16 ms, packed with those of other recordings (`PackedSequence`); a
linear layer gives each a distribution over blank and ten digits. Decoding takes the likeliest at each time, merges
repeats, and drops blanks. Beside it stands a rule that takes the loudest pair of tones.

The LSTM is `rnncore.interop.torch.LSTM`. To run the same on PyTorch alone, import it from `torch.nn` instead: one line.

    pip install "rnncore[torch,examples]"
    python examples/speech_ctc.py
"""

import argparse

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence
from tqdm import tqdm

from rnncore.interop.torch import LSTM  # from torch.nn import LSTM

RATE, FRAME, HOP = 4000, 128, 64  # samples a second, samples in a spectrum and from one to the next
ROWS, COLUMNS = (697, 770, 852, 941), (1209, 1336, 1477)  # Hz
TONES = {digit: (ROWS[k // 3], COLUMNS[k % 3]) for k, digit in enumerate("123456789*0#") if digit.isdigit()}
BANDS = slice(18, 52)  # of a spectrum, 560 to 1600 Hz
BATCH = 16


def recording(digits, rng, noise):
    """Return the spectra (T, F) of digits dialled one after the other."""

    def pause():
        return np.zeros(int(rng.uniform(0.03, 0.2) * RATE))

    pieces = [pause()]
    for digit in digits:
        t = np.arange(int(rng.uniform(0.06, 0.2) * RATE)) / RATE
        tones = [np.sin(2 * np.pi * (tone * rng.uniform(0.99, 1.01) * t + rng.uniform())) for tone in TONES[digit]]
        pieces += [sum(rng.uniform(0.5, 1) * tone for tone in tones), pause()]
    signal = np.concatenate(pieces)
    signal += rng.normal(0, noise, len(signal))
    frames = np.lib.stride_tricks.sliding_window_view(signal, FRAME)[::HOP] * np.hanning(FRAME)
    spectra = np.log1p(abs(np.fft.rfft(frames)[:, BANDS]))
    return torch.tensor((spectra - spectra.mean()) / spectra.std(), dtype=torch.float32)


def recordings(n, rng, noise, but=()):
    """Return n recordings as a list of (digits, spectra), of 3 to 7 digits, which are not those of one in `but`."""
    known, found = {digits for digits, _ in but}, []
    while len(found) < n:
        digits = "".join(rng.choice(list(TONES), rng.integers(3, 8)))
        if digits not in known:
            found.append((digits, recording(digits, rng, noise)))
    return found


class Transcriber(nn.Module):
    """Reads packed spectra; returns log-probabilities (T, N, 11) of blank and digits, and lengths (N,)."""

    def __init__(self, F, H):
        super().__init__()
        self.rnn, self.head = LSTM(F, H, bidirectional=True), nn.Linear(2 * H, 11)
        nn.init.constant_(self.head.bias[:1], -2.0)  # else it says nothing but blanks for long

    def forward(self, spectra):
        y, lengths = pad_packed_sequence(self.rnn(spectra)[0])
        return self.head(y).log_softmax(2), lengths


def train(model, learned, args):
    """Train on batches of recordings in random order."""
    adam, ctc = torch.optim.Adam(model.parameters(), 0.02), nn.CTCLoss()
    steps = args.epochs * (len(learned) // BATCH)
    schedule = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.05, steps)
    order = [k for _ in range(args.epochs) for k in torch.randperm(len(learned)).tolist()]
    for step in (bar := tqdm(range(steps), desc="training", disable=None)):
        digits, spectra = zip(*(learned[k] for k in order[step * BATCH : (step + 1) * BATCH]), strict=True)
        log_p, lengths = model(pack_sequence(spectra, enforce_sorted=False))
        target = torch.tensor([1 + int(digit) for digit in "".join(digits)])  # 0 is the blank
        loss = ctc(log_p, target, lengths, torch.tensor([len(each) for each in digits]))
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)


@torch.no_grad()
def transcribe(model, spectra):
    """Return the digits of each recording: the likeliest at each time, repeats merged, blanks dropped."""
    log_p, lengths = model(pack_sequence(spectra, enforce_sorted=False))
    best = [torch.unique_consecutive(row[:length]) for row, length in zip(log_p.argmax(2).T, lengths, strict=True)]
    return ["".join(str(int(k) - 1) for k in row if k) for row in best]


def loudest(spectra, threshold, least):
    """Return the digits of a recording by rule: pairs of tones that are loudest for some spectra, and loud."""
    at = np.array([[round(tone * FRAME / RATE) - BANDS.start for tone in TONES[digit]] for digit in TONES])  # (10, 2)
    scores = spectra.numpy()[:, at].sum(axis=2)  # (T, 10)
    loud = np.where(scores.max(axis=1) > threshold, scores.argmax(axis=1), -1)
    ends = np.flatnonzero(np.diff(loud, append=-2))
    spans = np.diff(ends, prepend=-1)
    return "".join(list(TONES)[loud[k]] for k, span in zip(ends, spans, strict=True) if loud[k] >= 0 and span >= least)


def edits(a, b):
    """Return how many digits of a have to be put in, left out or replaced to make b of it (Levenshtein)."""
    row = list(range(len(b) + 1))
    for i, digit in enumerate(a, 1):
        above, row = row, [i]
        for j, other in enumerate(b):
            row.append(min(above[j + 1] + 1, row[j] + 1, above[j] + (digit != other)))
    return row[-1]


def error_rate(said, held_out):
    """Return the edits it takes to make what was said right, per digit."""
    wrong = [edits(string, digits) for string, (digits, _) in zip(said, held_out, strict=True)]
    return sum(wrong) / sum(len(digits) for digits, _ in held_out)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for option, value in (("epochs", 10), ("recordings", 1000), ("hidden", 64), ("seed", 0)):
        parser.add_argument(f"--{option}", type=int, default=value, help=f"{value} by default")
    parser.add_argument("--noise", type=float, default=1.0, help="standard deviation; tones have 0.35 to 0.7")
    args = parser.parse_args(argv)
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    held_out = recordings(200, rng, args.noise)
    learned = recordings(args.recordings, rng, args.noise, but=held_out)
    model = Transcriber(held_out[0][1].shape[1], args.hidden)
    train(model, learned, args)
    rule = min(
        ((t, least) for t in np.arange(0, 8, 0.5) for least in range(1, 5)),
        key=lambda options: error_rate([loudest(spectra, *options) for _, spectra in learned[:200]], learned[:200]),
    )
    said = {
        "loudest pair of tones": [loudest(spectra, *rule) for _, spectra in held_out],
        "network": transcribe(model, [spectra for _, spectra in held_out]),
    }
    rates = {name: error_rate(strings, held_out) for name, strings in said.items()}
    print(f"{'dialled':>10}" + "".join(f"{name:>25}" for name in said))
    for k in range(8):
        print(f"{held_out[k][0]:>10}" + "".join(f"{strings[k]:>25}" for strings in said.values()))
    print(f"{'errors':>10}" + "".join(f"{rate:>25.1%}" for rate in rates.values()))
    return {"rates": rates, "said": said, "learned": learned, "held_out": held_out}


if __name__ == "__main__":
    main()
