"""Builds the compiled kernels; everything else stands in pyproject.toml.

Switches, by environment variable:
RNNCORE_SANITIZE=address,undefined   instrument the kernels (run Python with the sanitizer's runtime preloaded)
RNNCORE_DEBUG=1                      no optimisation, debug symbols
RNNCORE_ANNOTATE=1                   write Cython's annotated HTML beside the generated C (build/temp.*, with
                                     `python setup.py build_ext --inplace`)
RNNCORE_PROFILE=1                    keep the names of functions, for perf
"""

import os
import sys
from glob import glob

import numpy
from Cython.Compiler import Options
from setuptools import Extension, setup

sanitizers = os.environ.get("RNNCORE_SANITIZE", "")
debug = os.environ.get("RNNCORE_DEBUG", "") == "1"
Options.annotate = os.environ.get("RNNCORE_ANNOTATE", "") == "1"

compile_args = ["-O0", "-g"] if debug else ["-O3", "-g0", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"]
compile_args.append("-pthread")
link_args = ["-pthread"]
if sanitizers:
    flags = [f"-fsanitize={sanitizers}", "-fno-omit-frame-pointer"]
    compile_args += [*flags, "-fno-sanitize-recover=all", "-g"]
    link_args += flags
elif sys.platform == "linux" and not debug and os.environ.get("RNNCORE_PROFILE", "") != "1":
    # names, pages that are half empty, and what C++ needs to leave functions: more than a tenth of the package
    link_args += ["-Wl,--strip-all", "-Wl,-z,noseparate-code"]
    compile_args.append("-fno-asynchronous-unwind-tables")


def extension(name: str, *sources: str, small: bool = False) -> Extension:
    return Extension(
        f"rnncore._kernels.{name}",
        [f"rnncore/_kernels/{name}.pyx", *sources],
        include_dirs=[numpy.get_include(), "rnncore/_kernels"],
        depends=glob("rnncore/_kernels/**/*.h", recursive=True),
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")],
        extra_compile_args=compile_args + ["-Os"] * (small and not debug),
        extra_link_args=link_args,
    )


# Bounds and None checks stay on: loops run over C pointers, which they do not touch.
directives = {"language_level": 3, "cdivision": True, "nonecheck": True}

setup(
    ext_modules=[
        extension("leaf", *sorted(glob("rnncore/_kernels/simd/*.c"))),
        extension("crew", "rnncore/_kernels/pool.c"),
        *map(extension, "driver products cell rnn lstm gru step tensors".split()),
        # what takes its time in BLAS, leaf kernels or Python's objects, or is not on the way of a call
        *[extension(name, small=True) for name in "blas calls matmul memory optim pack".split()],
    ],
    options={"build_ext": {"cython_directives": directives, "cython_c_in_temp": True}},
)
