"""Transcription: digits dialled by tones, in noise, of any length and with any pauses, written down by a PyTorch model.

A digit is a pair of tones of 60 to 200 ms; digits and pauses make a recording, with noise of more power. The model is
told which digits a recording has, but not when: `torch.nn.CTCLoss` sums over all ways to lay them along time. A
bidirectional LSTM reads spectra (T, F), one every 16 ms, packed with others' (`PackedSequence`); a linear layer gives
each a distribution over blank and ten digits. The likeliest at each time, repeats merged, blanks dropped, is said.

The LSTM is `rnncore.interop.torch.LSTM`. To run the same on PyTorch alone, import it from `torch.nn` instead: one line.

    pip install ".[torch,examples]"
    python examples/speech_ctc.py
"""

import argparse
from functools import cache

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
BATCH, HELD_OUT = 16, 200  # recordings


def recording(digits, rng):
    """Return the spectra (T, F) of digits dialled one after the other."""
    pieces = []
    for digit in digits:
        t = np.arange(rng.integers(240, 800)) / RATE
        tones = [np.sin(2 * np.pi * (tone * rng.uniform(0.99, 1.01) * t + rng.uniform())) for tone in TONES[digit]]
        pieces.append(np.pad(sum(rng.uniform(0.5, 1) * tone for tone in tones), rng.integers(60, 400, 2)))
    signal = np.concatenate(pieces)
    noisy = torch.tensor(signal + rng.normal(0, 1, len(signal)), dtype=torch.float32)
    x = torch.stft(noisy, FRAME, HOP, window=torch.hann_window(FRAME), return_complex=True)[BANDS].abs().log1p().T
    return (x - x.mean()) / x.std()


def recordings(n, rng):
    """Return n recordings, of 3 to 7 digits, no two of the same, as a list of (digits, spectra)."""
    found = {}
    while len(found) < n:
        digits = "".join(rng.choice(list(TONES), rng.integers(3, 8)))
        found[digits] = recording(digits, rng)
    return list(found.items())


class Transcriber(nn.Module):
    """Reads packed spectra; returns log-probabilities (T, N, 11) of blank and digits, and lengths (N,)."""

    def __init__(self, F, H):
        super().__init__()
        self.rnn, self.head = LSTM(F, H, bidirectional=True), nn.Linear(2 * H, 11)

    def forward(self, spectra):
        y, lengths = pad_packed_sequence(self.rnn(spectra)[0])
        return self.head(y).log_softmax(2), lengths


def train(model, learned, args):
    """Train on batches of recordings in random order."""
    adam, ctc = torch.optim.Adam(model.parameters(), 0.02), nn.CTCLoss()
    schedule = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.05, args.epochs)
    batches = torch.utils.data.DataLoader(learned, BATCH, shuffle=True, collate_fn=lambda rows: zip(*rows, strict=True))
    for _ in tqdm(range(args.epochs), desc="training", disable=None):
        for digits, spectra in batches:
            log_p, lengths = model(pack_sequence(spectra, enforce_sorted=False))
            target = torch.tensor([1 + int(digit) for digit in "".join(digits)])  # 0 is the blank
            loss = ctc(log_p, target, lengths, torch.tensor([len(each) for each in digits]))
            adam.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            adam.step()
        schedule.step()


@torch.no_grad()
def transcribe(model, spectra):
    """Return the digits of each recording: the likeliest at each time, repeats merged, blanks dropped."""
    log_p, lengths = model(pack_sequence(spectra, enforce_sorted=False))
    best = [torch.unique_consecutive(row[:length]) for row, length in zip(log_p.argmax(2).T, lengths, strict=True)]
    return ["".join(str(int(k) - 1) for k in row if k) for row in best]


@cache
def edits(a, b):
    """Return how many digits of a have to be put in, left out or replaced to make b of it (Levenshtein)."""
    if not a or not b:
        return len(a) + len(b)
    return min(1 + edits(a[1:], b), 1 + edits(a, b[1:]), (a[0] != b[0]) + edits(a[1:], b[1:]))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for option, value in (("epochs", 10), ("recordings", 1000), ("hidden", 64), ("seed", 0)):
        parser.add_argument(f"--{option}", type=int, default=value, help=f"{value} by default")
    args = parser.parse_args(argv)
    torch.manual_seed(args.seed)
    every = recordings(HELD_OUT + args.recordings, np.random.default_rng(args.seed))
    held_out, learned = every[:HELD_OUT], every[HELD_OUT:]
    model = Transcriber(held_out[0][1].shape[1], args.hidden)
    train(model, learned, args)
    dialled, spectra = zip(*held_out, strict=True)
    said = transcribe(model, spectra)
    wrong = [edits(a, b) for a, b in zip(said, dialled, strict=True)]
    rate = sum(wrong) / sum(len(digits) for digits in dialled)
    for k in range(12):
        print(f"dialled {dialled[k]:>8}   written {said[k]:>8}   errors {wrong[k]}")
    print(f"{wrong.count(0)} of {len(wrong)} recordings held out are right, {rate:.1%} of their digits wrong")
    return {"rate": rate, "said": said, "learned": learned, "held_out": held_out}


if __name__ == "__main__":
    main()
