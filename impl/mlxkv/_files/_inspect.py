"""Telling what is in a prompt-cache file, right or wrong, as plain data."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from mlxkv._files._body import Body, load_arrays
from mlxkv._files._errors import PromptCacheError
from mlxkv._files._header import Header, opened, read_header
from mlxkv._files._layers import Layer
from mlxkv._files._read import Reading, ambiguities, best, read_as
from mlxkv._files._regular import Tensor


@dataclass(frozen=True)
class Inspection:
    """What was found. `generations` are those that the file fits, newest last; none with problems.

    `read_as` is the generation that `layers` are told by: the newest it fits, or comes nearest to.
    """

    header: Header
    generations: tuple[str, ...]
    read_as: str
    reading: Reading
    problems: tuple[PromptCacheError, ...]

    def as_data(self) -> dict[str, Any]:
        """Numbers, strings, lists and dictionaries, for JSON."""
        reading = self.reading
        told = [
            {"class": name} if layer is None else tell_layer(layer)
            for name, layer in zip(reading.classes, reading.layers, strict=True)
        ]
        tensors = self.header.tensors.values()
        return {
            "file": self.header.place.file,
            "bytes": self.header.nbytes,
            "generations": list(self.generations),
            "read_as": self.read_as,
            "tensors": len(tensors),
            "tensor_bytes": sum(one.nbytes for one in tensors),
            "layers": [{"layer": str(i), **one} for i, one in enumerate(told)],
            "metadata": reading.metadata,
            "problems": [tell_problem(problem) for problem in self.problems],
        }


def inspect_prompt_cache(path: str | os.PathLike[str]) -> Inspection:
    """Read a file as far as it can be read, and collect what is wrong with it.

    Raises `HeaderError` and `PromptCacheOSError` for what cannot be read at all.
    """
    with opened(path) as source:
        header = read_header(source)
        load_arrays(source, header)
        readings = read_as(header, Body(source, header.begin))
    fits = [reading for reading in readings if not reading.problems]
    if not fits:
        nearest = best(readings)
        return Inspection(header, (), nearest.generation, nearest, nearest.problems)
    generations = tuple(one.generation for one in fits)
    problems = tuple(ambiguities(header.place, fits))
    return Inspection(header, generations, generations[-1], fits[-1], problems)


def tell_layer(layer: Layer) -> dict[str, Any]:
    """A layer's class, scalars, tensors and children."""
    told: dict[str, Any] = {"class": layer.spelled or layer.name}
    if layer.spelled not in ("", layer.name):
        told["loads_as"] = layer.name
    scalars = {
        name: value
        for name, value in layer.fields.items()
        if not isinstance(value, Tensor | tuple) and name not in ("keys", "values", "cache")
    }
    if layer.name == "ArraysCache":
        told["slots"] = len(layer.fields["cache"])
    if layer.name != "CacheList":
        told["empty"] = layer.empty
    told |= {"scalars": scalars} if scalars else {}
    told |= {"extras": layer.extras} if layer.extras else {}
    tensors = [
        {
            "field": name,
            "tensor": one.name,
            "dtype": one.dtype,
            "shape": list(one.shape),
            "bytes": one.nbytes,
        }
        for name, one in layer.tensors()
    ]
    told |= {"tensors": tensors} if tensors else {}
    if layer.name == "CacheList":
        told["children"] = [tell_layer(child) for child in layer.children]
    return told


def tell_problem(problem: PromptCacheError) -> dict[str, str]:
    """The parts of a refusal."""
    return {
        "kind": type(problem).__name__,
        "layer": problem.place.layer,
        "class": problem.place.cache,
        "field": problem.field,
        "expected": problem.expected,
        "got": problem.got,
        "message": str(problem),
    }
