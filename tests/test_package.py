"""The package as a whole: README, imports, equation tags, promises about what is not imported."""

import re
import subprocess
import sys
from importlib import metadata, resources
from pathlib import Path

import pytest

import rnncore as rc

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("heading", ["Inference", "Training"])
def test_readme_examples_run(heading):
    (code,) = re.findall(rf"## {heading}\n.*?```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in code.splitlines() if line and not line.startswith("import")]) <= 11
    exec(compile(code, f"README.md, {heading}", "exec"), {})


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
    for module in ("blas", "driver", "leaf", "lstm", "pack", "rnn", "step"):
        assert resources.files("rnncore._kernels").joinpath(f"{module}.pyi").is_file()


def test_import_takes_numpy_alone():
    code = (
        "import sys, rnncore, rnncore.train\n"
        "heavy = {'scipy', 'torch', 'tqdm', 'matplotlib', 'threadpoolctl', 'safetensors', 'rnncore.reference'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("cell,equations", [("rnn", 2), ("lstm", 7)])
def test_equations_have_their_twins(cell, equations):
    """Each equation's tags, forward and backward, stand in the definition, the reference's code and the kernels."""
    reference = (ROOT / f"rnncore/reference/{cell}.py").read_text(encoding="utf-8")
    cells = (ROOT / "rnncore/_kernels/simd/cells.h").read_text(encoding="utf-8")
    kernels = (ROOT / f"rnncore/_kernels/{cell}.pyx").read_text(encoding="utf-8") + cells
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
