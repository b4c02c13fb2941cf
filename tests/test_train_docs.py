"""Docstrings of training kit, decoding, plots, files, demo: the sections the house asks for. Doctest runs examples."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import rnncore.demo
import rnncore.train

HOMES = (
    "rnncore.train", "rnncore.demo", "rnncore.cli", "rnncore.file", "rnncore.interop.files", "rnncore.interop.convert",
    "rnncore.plot", "rnncore.model", "rnncore.decode",
)  # fmt: skip


def public() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Public functions, classes that are not mere records, and their public methods; inherited ones of these rooms."""
    names = [*HOMES]
    for package in (rnncore.train, rnncore.demo):
        names += [module.name for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")]
    for name in names:
        module = importlib.import_module(name)
        for exported in module.__all__:
            item = getattr(module, exported)
            if inspect.isfunction(item) and item.__module__ == name:
                yield item.__qualname__, item
            elif inspect.isclass(item) and item.__module__ == name and not issubclass(item, tuple):
                yield item.__qualname__, item
                for attribute, method in inspect.getmembers(item, inspect.isroutine):
                    home = getattr(method, "__module__", None) or ""
                    if (attribute == "__call__" or not attribute.startswith("_")) and home.startswith(HOMES):
                        yield f"{item.__qualname__}.{attribute}", method


DOCUMENTED = dict(public())


def test_all_are_found() -> None:
    assert DOCUMENTED.keys() >= {"run", "main", "identity", "Linear", "Linear.__call__", "AdamW.step", "save"}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_sections(name: str) -> None:
    item = DOCUMENTED[name]
    doc = inspect.getdoc(item) or ""
    sections = re.findall(r"^(\w+)\n-+$", doc, re.MULTILINE)
    order = ["Parameters", "Returns", "Raises", "Notes", "References", "Examples"]
    signature = inspect.signature(item)
    wanted = {"Examples"}
    if signature.parameters.keys() - {"self", "cls"}:
        wanted.add("Parameters")
    if inspect.isroutine(item) and signature.return_annotation not in (None, "None"):
        wanted.add("Returns")
    if re.search(r"\braise \w+Error", inspect.getsource(item)) and inspect.isroutine(item):
        wanted.add("Raises")
    assert wanted <= set(sections)
    assert sections == sorted(sections, key=order.index)
    assert ">>> " in doc.split("Examples\n--------\n")[1]
    if "Parameters" in sections:
        text = doc.split("Parameters\n----------\n")[1].split("\n\n")[0]
        lines = re.findall(r"^\**(\w+(?:, \w+)*)", text, re.MULTILINE)
        described = [name for line in lines for name in line.split(", ")]
        assert sorted(described) == sorted(signature.parameters.keys() - {"self"})


def test_properties_say_what_they_are() -> None:
    classes = [item for item in DOCUMENTED.values() if inspect.isclass(item)]
    properties = {
        f"{item.__name__}.{name}": value
        for item in classes
        for name, value in inspect.getmembers(item, lambda value: isinstance(value, property))
        if not name.startswith("_")
    }
    assert properties.keys() >= {"Embedded.dtype", "Embedded.bidirectional", "Embedded.reverse"}
    assert [name for name, value in properties.items() if not inspect.getdoc(value)] == []


def test_attributes_of_an_embedded_layer_are_the_layers() -> None:
    embedding, names = rnncore.train.Embedding(3, 2, dtype="float64"), ("dtype", "bidirectional", "reverse")
    for options in ({}, {"bidirectional": True}, {"reverse": True}):
        layer = rnncore.GRU(2, 4, dtype="float64", **options)
        model = rnncore.train.Embedded(embedding, layer)
        assert model.embedding is embedding and model.layer is layer
        assert [getattr(model, name) for name in names] == [getattr(layer, name) for name in names]
