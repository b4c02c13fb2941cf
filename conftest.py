"""Which modules have no docstrings to test here."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("torch") else ["rnncore/interop/torch"]
