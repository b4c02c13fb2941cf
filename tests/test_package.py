"""The package as a whole: README, imports, equation tags, promises about size, build and what is not imported."""

import os
import re
import runpy
import subprocess
import sys
from importlib import metadata, resources
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import SimpleNamespace

import pytest

import rnncore as rc
from rnncore.measure import presets

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("k", range(len(EXAMPLES)))
def test_readme_examples_run(k, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # one writes a file
    assert len([line for line in EXAMPLES[k].splitlines() if line and not line.startswith("import")]) <= 11
    exec(compile(EXAMPLES[k], f"README.md, example {k}", "exec"), {})


def test_the_guide_runs_from_top_to_bottom():
    guide = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
    names = {}
    for block in re.findall(r"```python\n(.*?)```", guide, re.DOTALL):
        exec(compile(block, "docs/guide.md", "exec"), names)
    assert names["losses"]
    for example in re.findall(r"`(examples/\w+\.py)`", guide):
        assert (ROOT / example).exists()


def test_readme_has_its_two_commands():
    for name, command in [
        ("demo", 'pip install -e ".[cli]" && rnncore demo'),
        ("tests", 'pip install -e ".[test]" && pytest'),
    ]:
        assert f"<!-- {name} -->\n```\n{command}\n```" in README


def test_readme_names_no_file_that_is_not_there():
    table = README.split("## Code layout")[1].split("Environment:")[0]
    for cell in re.findall(r"^\| `(.*?)` \|", table, re.MULTILINE):
        folder = ROOT
        for name in cell.split():
            path = ROOT / name if "/" in name and (ROOT / name).exists() else folder / name
            assert path.exists(), name
            folder = path.parent


def test_version():
    assert metadata.version("rnncore") == rc.__version__
    changelog = ROOT / "CHANGELOG.md"
    assert f"## {rc.__version__}" in changelog.read_text(encoding="utf-8")


def test_types_are_shipped():
    assert resources.files("rnncore").joinpath("py.typed").is_file()
    for (
        module
    ) in "blas cell crew driver gru leaf lstm matmul memory optim pack products rnn step tensors calls".split():
        assert resources.files("rnncore._kernels").joinpath(f"{module}.pyi").is_file()


def test_import_takes_numpy_alone():
    """Nothing but the standard library, NumPy, and what Cython itself puts in place; no SciPy, torch, tqdm, ..."""
    code = (
        "import sys, numpy\n"
        "before = set(sys.modules)\n"
        "import rnncore, rnncore.train, rnncore.interop.files, rnncore.interop.convert\n"
        "known = {'rnncore', 'numpy', 'cython_runtime', *sys.stdlib_module_names}\n"
        "new = {name for name in set(sys.modules) - before if name.split('.')[0] not in known}\n"
        "print(sorted(name for name in new if not name.startswith('_cython_')), 'rnncore.reference' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[] False\n"


def test_package_is_small():
    """Compiled modules and Python files as installed; a release has no debug symbols."""
    compiled = [f.read_bytes() for f in Path(rc.__file__).parent.rglob("*" + EXTENSION_SUFFIXES[0])]
    assert len(compiled) >= 6
    instrumented = any(name in data for data in compiled for name in (b"__asan_", b"__ubsan_", b"__tsan_"))
    if instrumented or os.environ.get("RNNCORE_DEBUG") == "1":
        pytest.skip("not a release build")
    assert not any(b".debug_info" in data for data in compiled)
    assert presets.package_size(quick=False) < 3


@pytest.mark.parametrize("switches,flags,names", [
    ({}, ["-O3", "-g0"], False), ({"RNNCORE_DEBUG": "1"}, ["-O0", "-g"], True),
    ({"RNNCORE_SANITIZE": "address"}, ["-O3", "-g0", "-fsanitize=address", "-g"], True),
    ({"RNNCORE_PROFILE": "1"}, ["-O3", "-g0"], True),
])  # fmt: skip
def test_build_flags(monkeypatch, switches, flags, names):
    """setup.py's own words, with the tools that it hands them to replaced: the last -g wins."""
    built = []
    for module, contents in {
        "setuptools": {
            "Extension": lambda name, sources, **options: (
                name.rpartition(".")[2], options["extra_compile_args"], options["extra_link_args"],
            ),
            "setup": lambda **options: built.extend(options["ext_modules"]),
        },
        "Cython": {}, "Cython.Compiler": {"Options": SimpleNamespace()},
    }.items():  # fmt: skip
        monkeypatch.setitem(sys.modules, module, SimpleNamespace(**contents))
    for name in ("RNNCORE_DEBUG", "RNNCORE_SANITIZE", "RNNCORE_PROFILE"):
        monkeypatch.setenv(name, switches.get(name, ""))
    runpy.run_path(str(ROOT / "setup.py"))
    assert len(built) >= 6
    for name, compile_args, link_args in built:
        small = name in {"blas", "calls", "matmul", "memory", "optim", "pack"} and "-O3" in flags
        assert [a for a in compile_args if a.startswith(("-O", "-g", "-fsanitize"))] == flags + ["-Os"] * small
        assert ("-Wl,--strip-all" not in link_args) == (names or sys.platform != "linux")


@pytest.mark.parametrize("cell,equations", [("rnn", 2), ("lstm", 8), ("gru", 6), ("jordan", 4)])
def test_equations_have_their_twins(cell, equations):
    """Each equation's tags, forward and backward, stand in the definition, the reference's code and the kernels."""
    reference = (ROOT / f"rnncore/reference/{cell}.py").read_text(encoding="utf-8")
    files = [{"jordan": "rnn"}.get(cell, cell) + ".pyx", "driver.pyx", "products.pyx", "simd/cells.h"]
    kernels = "".join((ROOT / "rnncore/_kernels" / name).read_text(encoding="utf-8") for name in files)
    code = reference.split("def forward")[1]
    for k in range(1, equations + 1):
        assert f"({k}) " in reference.split("def forward")[0]
        for tag in (f"({k})", f"({k}')"):
            assert f"# {tag}" in code, tag
            assert tag in kernels, tag


def test_no_generated_file_is_tracked():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    files = done.stdout.splitlines()
    stems = {f.removesuffix(".pyx") for f in files if f.endswith(".pyx")}
    assert not [f for f in files if f.endswith((".so", ".o", ".pyd")) or f.removesuffix(".c") in stems]
