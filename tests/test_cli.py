import io
import os
import signal
import subprocess
import sys

import pytest

import rnncore
from rnncore import cli
from rnncore.demo.charlm import CharLM
from rnncore.demo.text import vocabulary

TEXT = "the cat sat on the mat, and the rat sat on the cat. " * 40


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "text"
    path.write_text(TEXT)
    return str(path)


@pytest.fixture
def demo(text_file):
    """The beginning of a quick command."""
    return ["demo", "--text", text_file, "--hidden", "8", "--steps", "3"]


def python(*args, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "rnncore", *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )


def test_info(capsys):
    assert cli.main(["info"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = dict(line.split(":", 1) for line in out.splitlines())
    assert {name: value.strip() for name, value in lines.items()} == {
        name: str(value) for name, value in rnncore.info().items()
    }
    assert lines["version"].strip() == rnncore.__version__


def test_demo(capsys, demo):
    assert cli.main([*demo, "--prompt", "the rat", "--temperature", "0.5", "--layers", "2", "--cell", "rnn"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for words in ("RNN, 2 x 8", "trained   3 steps", "n-gram, order 1  ", "n-gram, order 5  ", "\n\nthe rat"):
        assert words in out
    assert "interrupted" not in out


def test_demo_save_and_load(capsys, demo, text_file, tmp_path):
    file = str(tmp_path / "model")
    assert cli.main([*demo, "--save", file]) == 0
    first = capsys.readouterr().out
    assert cli.main(["demo", "--text", text_file, "--load", file]) == 0
    second = capsys.readouterr().out
    assert "trained" in first
    assert "trained" not in second
    assert first.split("\nbits")[1] == second.split("\nbits")[1]
    assert cli.main(["demo", "--text", text_file, "--load", file, "--seconds", "0.01"]) == 0
    assert "trained" in capsys.readouterr().out


def test_steps_go_before_seconds(capsys, demo):
    assert cli.main([*demo, "--seconds", "1e9"]) == 0
    assert "trained   3 steps" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--hidden", "0"], "expected hidden between 1 and"),
        (["--hidden", "100000000"], "Unable to allocate"),
        (["--layers", "-1"], "expected layers between 1 and"),
        (["--temperature", "0"], "expected a temperature above 0, got 0.0"),
        (["--temperature", "nan"], "expected temperature of at least 0 and less than inf, got nan"),
        (["--steps", "-1"], "expected steps of at least 0, got -1"),
        (["--seed", "-1"], "expected a seed of at least 0, got -1"),
        (["--prompt", "the QUEEN"], "expected characters of the model's vocabulary, got 'E', 'N', 'Q', 'U'"),
        (["--prompt", ""], "expected a prompt of at least one character"),
        (["--text", "/no/such/file"], "No such file or directory: '/no/such/file'"),
        (["--load", "/no/such/file"], "No such file or directory: '/no/such/file'"),
        (["--save", "/no/such/file"], "No such file or directory: '/no/such/file'"),
        (["--save", ""], "No such file or directory: ''"),
        (["--load", "no such\nfile"], r"No such file or directory: 'no such\nfile'"),
        (["--text", os.devnull], "expected at least 1000 characters"),
        (["--load", os.devnull], "expected a whole file saved as"),
        (["--cell", "gru"], "argument --cell: invalid choice"),
        (["--steps", "many"], "argument --steps: invalid int value: 'many'"),
        (["--speed"], "unrecognized arguments: --speed"),
    ],
)
def test_errors_are_one_line(capsys, demo, args, message):
    assert cli.main([*demo, *args]) == 2
    out, err = capsys.readouterr()
    prefix = "rnncore: error: " if args == ["--speed"] else "rnncore demo: error: "
    assert err.startswith(prefix + message)
    assert err.count("\n") == 1
    assert out == ""


@pytest.mark.parametrize("seconds", ["-1", "nan", "inf"])
def test_seconds(capsys, text_file, seconds):
    assert cli.main(["demo", "--text", text_file, "--seconds", seconds]) == 2
    assert f"error: expected seconds of at least 0 and less than inf, got {float(seconds)}" in capsys.readouterr().err


def test_text_with_characters_the_loaded_model_lacks(capsys, text_file, tmp_path):
    CharLM(vocabulary(TEXT.replace("c", "")), hidden=4).save(tmp_path / "model")
    assert cli.main(["demo", "--text", text_file, "--load", str(tmp_path / "model")]) == 2
    assert capsys.readouterr().err.endswith("vocabulary, got 'c'\n")


@pytest.mark.parametrize(("args", "status"), [([], 2), (["fly"], 2), (["--help"], 0), (["demo", "--help"], 0)])
def test_usage(capsys, args, status):
    assert cli.main(args) == status
    out, err = capsys.readouterr()
    if status:
        assert err.startswith("rnncore: error: ")
        assert err.count("\n") == 1
    else:
        assert out.startswith("usage: rnncore")


def interrupt_at(step):
    def progress(self, done):
        if done.steps == step:
            signal.raise_signal(signal.SIGINT)

    return progress


def test_interrupt_ends_training_only(capsys, demo, monkeypatch):
    monkeypatch.setattr(cli._Screen, "progress", interrupt_at(2))
    assert cli.main(demo) == 0
    out = capsys.readouterr().out
    assert "trained   2 steps" in out
    assert "interrupted" in out
    assert out.split("sample at temperature 0.7\n\n")[1].startswith("t")
    assert len(out.split("sample at temperature 0.7\n\n")[1]) == 602


def test_second_interrupt_ends_all(capsys, demo, monkeypatch):
    write = cli._Screen.write

    def interrupted_write(self, piece):
        if piece.startswith("\nsample"):
            signal.raise_signal(signal.SIGINT)
        write(self, piece)

    monkeypatch.setattr(cli._Screen, "progress", interrupt_at(2))
    monkeypatch.setattr(cli._Screen, "write", interrupted_write)
    assert cli.main(demo) == 130
    out, err = capsys.readouterr()
    assert "bits per held-out character" in out
    assert "sample" not in out
    assert err == "\n"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_bar_on_a_terminal(capsys, demo, monkeypatch):
    pytest.importorskip("tqdm")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    assert cli.main(demo) == 0
    assert "100% |" in terminal.getvalue()
    assert "characters/s" in terminal.getvalue()
    assert "bits per character" in terminal.getvalue()
    assert "characters/s" not in capsys.readouterr().out


@pytest.mark.parametrize("terminal", [io.StringIO(), Terminal()])
def test_lines_without_terminal_or_tqdm(demo, monkeypatch, terminal):
    monkeypatch.setattr(cli, "EVERY", 0.0)
    monkeypatch.setattr(sys, "stderr", terminal)
    if terminal.isatty():
        monkeypatch.setitem(sys.modules, "tqdm", None)
    assert cli.main(demo) == 0
    lines = terminal.getvalue().splitlines()
    assert len(lines) == 3
    assert [line.split()[0] for line in lines] == ["33%", "67%", "100%"]
    assert all("characters/s" in line and "\r" not in line for line in lines)


def test_output_that_cannot_show_every_character(demo, text_file, monkeypatch):
    with open(text_file, "a", encoding="utf-8") as file:
        file.write("…" * 200)
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    assert cli.main([*demo, "--prompt", "…"]) == 0
    assert b"\n\n?" in raw.getvalue()


def test_in_a_pipe(demo):
    process = python(*demo)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0
    assert err == b""
    assert b"trained   3 steps" in out
    assert b"\r" not in out.replace(b"\r\n", b"\n")


def test_when_nobody_reads(demo):
    process = python(*demo)
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(timeout=300) == 141


def closed(redirection, *args):
    """Run a command with a stream closed before it begins; return status, stdout, stderr."""
    shell = ["sh", "-c", f'exec "$@" {redirection}', "sh"]
    done = subprocess.run([*shell, sys.executable, "-m", "rnncore", *args], capture_output=True, timeout=300)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.skipif(os.name != "posix", reason="a shell's way of closing streams")
def test_closed_streams(demo):
    assert closed(">&-", "info") == (0, b"", b"")
    assert closed("<&- >&- 2>&-", *demo) == (0, b"", b"")
    assert closed("2>&-", *demo, "--hidden", "0") == (2, b"", b"")
    assert closed("2>&-", "--help")[:2] == (0, python("--help").communicate(timeout=300)[0])
    status, out, err = closed("2>&-", *demo)
    assert (status, err) == (0, b"")
    assert b"trained   3 steps" in out


def test_missing_streams_are_left_missing(monkeypatch, demo):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert cli.main([*demo, "--prompt", "\udcff"]) == 2
    assert cli.main(["info"]) == 0
    assert sys.stdout is sys.stderr is None


def test_info_loads_no_demo():
    code = "import sys; from rnncore.cli import main; main(['info']); sys.exit('rnncore.demo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, timeout=300).returncode == 0
