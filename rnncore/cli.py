"""The command line: arguments in, text out. What the commands do is in the package."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import asdict
from io import BytesIO
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from .demo import Progress
    from .measure.results import Report

__all__ = ["main"]

EVERY = 10.0  # seconds between lines of progress where there is no terminal to redraw


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments, without the program's name; by default those of the process.

    Returns
    -------
    int
        0, 2 after an error, 130 after Ctrl-C, 141 when nobody reads the output any more.

    Examples
    --------
    >>> from rnncore.cli import main
    >>> main(["demo", "--seconds", "-1"])  # stderr says why
    2
    """
    with _both_streams():
        return _run(argv)


@contextmanager
def _both_streams() -> Iterator[None]:
    """A context with the null device as stdout or stderr where it is None: closed before the program began."""
    with ExitStack() as stack:
        for name, redirect in (("stdout", redirect_stdout), ("stderr", redirect_stderr)):
            if getattr(sys, name) is None:
                null = stack.enter_context(open(os.devnull, "w", encoding="utf-8", errors="replace"))
                stack.enter_context(redirect(null))
        yield


def _run(argv: Sequence[str] | None) -> int:
    command = "rnncore"
    try:
        args = _parser().parse_args(argv)
        command = f"rnncore {args.name}"
        args.command(args)
        sys.stdout.flush()
    except SystemExit as stop:  # argparse has said why
        return int(stop.code or 0)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except BrokenPipeError:
        # else the interpreter complains when it flushes at exit
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (OSError, ValueError, MemoryError) as error:
        print(f"{command}: error: {_line(error)}", file=sys.stderr)
        return 2
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="rnncore", description="Recurrent networks on CPUs.")
    commands = parser.add_subparsers(dest="name", required=True, metavar="command")

    info = commands.add_parser("info", help="what is installed, and what it uses of this machine")
    info.set_defaults(command=_info)

    demo = commands.add_parser(
        "demo",
        help="train a character model of English and let it write",
        description="Train a character-level language model, compare it with n-grams on held-out text, and let it "
        "write. Ctrl-C ends the training early.",
    )
    demo.set_defaults(command=_demo)
    demo.add_argument("--text", metavar="FILE", help="UTF-8 text to learn from (default: Python's help topics)")
    demo.add_argument("--cell", choices=["rnn", "lstm"], help="kind of network (default: lstm)")
    demo.add_argument("--hidden", type=int, metavar="H", help="units per layer (default: 256)")
    demo.add_argument("--layers", type=int, metavar="L", help="recurrent layers (default: 1)")
    demo.add_argument("--seconds", type=float, metavar="S", help="time to train (default: 60, or 0 with --load)")
    demo.add_argument("--steps", type=int, metavar="N", help="steps to train, whatever the time")
    demo.add_argument("--seed", type=int, default=0, help="of weights and sample (default: 0)")
    demo.add_argument("--save", metavar="FILE", help="write the model to a file, as .npz whatever its name")
    demo.add_argument("--load", metavar="FILE", help="begin with a saved model; trains with --seconds or --steps only")
    demo.add_argument("--prompt", metavar="TEXT", help="what the sample goes on from")
    demo.add_argument("--temperature", type=float, default=0.7, metavar="T", help="of the sample (default: 0.7)")

    bench = commands.add_parser(
        "bench",
        help="measure rnncore against other libraries and against this machine's limits",
        description="Measure what a preset lists, against the peers that are installed, and print every row with "
        "reached or not reached; or measure cases of your own. Takes long: leave the machine alone meanwhile.",
    )
    bench.set_defaults(command=_bench)
    bench.add_argument(
        "--preset", metavar="NAME", help="inference, layers, training, pytorch or all (default: inference)"
    )
    bench.add_argument("--rows", type=_words, metavar="NAME,...", help="these rows of it only")
    own = bench.add_argument_group("cases of your own, in place of a preset; every combination is measured")
    own.add_argument("--cell", type=_words, metavar="NAME,...", help="lstm, gru, rnn (default: lstm)")
    own.add_argument(
        "--mode",
        type=_words,
        metavar="NAME,...",
        help="inference, ragged, bidirectional, call, stream, training, ragged-training, memory, scaling "
        "(default: inference)",
    )
    own.add_argument("--hidden", type=_numbers, metavar="H,...", help="units (default: 64,128,256,512)")
    own.add_argument("--batch", type=_numbers, metavar="N,...", help="sequences (default: depends on the mode)")
    own.add_argument("--steps", type=_numbers, metavar="T,...", help="steps of a sequence (default: 100)")
    own.add_argument("--dtype", type=_words, metavar="NAME,...", help="float32, float64 (default: float32)")
    bench.add_argument("--threads", type=_numbers, metavar="N,...", help="these numbers of threads (own cases: 1)")
    bench.add_argument(
        "--against", type=_words, metavar="PEER,...", help="of torch, ort, openvino, jax, reference, these only"
    )
    bench.add_argument("--quick", action="store_true", help="a few cases, with short blocks: a rough look")
    bench.add_argument("--json", metavar="FILE", help="write all results to a file")
    bench.add_argument("--plot", metavar="FILE", help="draw them (.png, .svg, .pdf)")
    return parser


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


def _numbers(text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers, got {text!r}") from None


def _info(args: argparse.Namespace) -> None:
    from . import info

    for name, value in info().items():
        print(f"{name + ':':<9}{value}")


def _demo(args: argparse.Namespace) -> None:
    from .demo import run

    screen = _Screen()
    try:
        run(
            args.text,
            cell=args.cell,
            hidden=args.hidden,
            layers=args.layers,
            seconds=args.seconds,
            steps=args.steps,
            seed=args.seed,
            save=args.save,
            load=args.load,
            prompt=args.prompt,
            temperature=args.temperature,
            progress=screen.progress,
            write=screen.write,
        )
    finally:
        screen.close()


def _bench(args: argparse.Namespace) -> None:
    from .file import check_writable
    from .measure.modes import cases
    from .measure.run import planned, prepare, run
    from .measure.table import Table, growth_lines

    own = {name: getattr(args, name) for name in ("cell", "mode", "hidden", "batch", "steps", "dtype")}
    given = [f"--{name}" for name, value in own.items() if value is not None]
    with_preset = [f"--{name}" for name in ("preset", "rows") if getattr(args, name) is not None]
    if given and with_preset:
        raise ValueError(f"expected a preset or cases of your own, got {', '.join(with_preset + given)}")
    common = {"against": args.against, "quick": args.quick, "command": _command(args)}
    if given:
        report = prepare(cases=cases(**own, threads=args.threads, quick=args.quick), **common)
    else:
        preset = "inference" if args.preset is None else args.preset
        report = prepare(preset, rows=args.rows, threads=args.threads, **common)
    kind = None if args.plot is None else _picture_format(args.plot)
    for name in (args.plot, args.json):
        if name is not None:
            check_writable(name)  # an error now rather than after the run
    with ExitStack() as stack:
        if kind is not None:
            stack.callback(_write_picture, report, args.plot, kind)
        if args.json is not None:
            stack.callback(_write_json, report, args.json)
        screen = _Screen()
        stack.callback(screen.close)
        for peer, modules in report.missing.items():
            screen.line(f"not installed: {', '.join(modules)}; measuring without {peer}")
        table = Table(planned(report), screen.colours)
        run(report, lambda result: screen.line(table.lines(result)), screen.show)
        if end := table.end().rstrip():
            screen.line(end)
        if report.growth:
            screen.line("\n" + "\n".join(growth_lines(report.growth)))
    for problem in report.problems:
        print(f"rnncore bench: {problem}", file=sys.stderr)


def _command(args: argparse.Namespace) -> str:
    """Return the command that the options make, without names of files."""
    words = ["rnncore", args.name]
    for name, value in vars(args).items():
        if name in ("name", "command", "json", "plot") or value in (None, False):
            continue
        words.append(f"--{name}")
        if value is not True:
            words.append(",".join(map(str, value)) if isinstance(value, list) else str(value))
    return " ".join(words)


def _write_json(report: Report, path: str) -> None:
    from .file import write_whole

    write_whole(path, f"{json.dumps(asdict(report), indent=1)}\n".encode())


def _picture_format(name: str) -> str:
    from .measure.pictures import check

    try:
        return check(name)
    except ImportError as error:
        raise ValueError(error) from None


def _write_picture(report: Report, path: str, kind: str) -> None:
    from .file import write_whole
    from .measure.pictures import PICTURES, draw, save

    whole = BytesIO()
    save(draw(panel for picture in PICTURES.values() for panel in picture(report)), whole, kind)
    write_whole(path, whole.getvalue())


class _Screen:
    """Text to stdout, progress to stderr: as a bar on a terminal, if there is tqdm; else as a line now and then."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._begun = False
        self._shown = time.monotonic()
        self.colours = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def progress(self, done: Progress) -> None:
        self.show(done.fraction, f"{done.rate:,.0f} characters/s, {done.bits:.2f} bits per character")

    def show(self, fraction: float, words: str) -> None:
        if not self._begun and sys.stderr.isatty():
            with suppress(ImportError):
                from tqdm import tqdm

                self._bar = tqdm(total=1.0, bar_format="{percentage:3.0f}% |{bar}| {elapsed}<{remaining}{postfix}")
        self._begun = True
        if self._bar is not None:
            self._bar.set_postfix_str(words, refresh=False)
            self._bar.update(fraction - self._bar.n)
            self._bar.refresh()
        elif time.monotonic() - self._shown >= EVERY:
            self._shown = time.monotonic()
            print(f"{fraction:4.0%}  {words}", file=sys.stderr, flush=True)

    def line(self, text: str) -> None:
        """Write a line of results above the bar."""
        if self._bar is not None:
            self._bar.clear()
        self._print(text + "\n")

    def write(self, piece: str) -> None:
        self.close()
        self._print(piece)

    def _print(self, text: str) -> None:
        """Print what the stream's encoding can show, and "?" for the rest."""
        encoding = sys.stdout.encoding or "utf-8"
        print(text.encode(encoding, "replace").decode(encoding), end="", flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.strerror}: {error.filename!r}"
    return " ".join(str(error).split()) or type(error).__name__
