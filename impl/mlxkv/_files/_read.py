"""Reading a prompt-cache file of any generation: every layer is checked, and nothing is guessed."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import mlx.core as mx

from mlxkv._files._body import Body, load_arrays
from mlxkv._files._errors import (
    LABELS,
    FieldError,
    GenerationError,
    LayoutError,
    Place,
    PromptCacheError,
    PromptCacheOSError,
)
from mlxkv._files._header import Header, opened, read_header
from mlxkv._files._layers import MAX_LAYERS, Content, Layer, dense, grow, tell, within
from mlxkv._files._metadata import unflatten_metadata
from mlxkv._files._python import Python, variant
from mlxkv._files._scalars import Scalars, read_leaves
from mlxkv._files._swift import Swift

GENERATIONS = tuple(LABELS)
# Newest last; a file without what distinguishes them fits several.
_STATE_AND_META = ("swift", "0.27", "0.28", "0.31")
_SCALAR = re.compile(r"2\.\d+\.")
_Grown: TypeAlias = tuple[list[tuple[str, str]], list[str], dict[str, Any], dict[str, Any]]


@dataclass(frozen=True)
class Reading:
    """A file read as one generation: the layers that are right, and what is wrong with others."""

    generation: str
    layers: tuple[Layer | None, ...]
    classes: tuple[str, ...]
    metadata: dict[str, str]
    problems: tuple[PromptCacheError, ...]

    @property
    def sound(self) -> int:
        return sum(layer is not None for layer in self.layers)


@dataclass(frozen=True)
class PromptCacheFile:
    """A file that can be loaded.

    `generations` are all that it fits, newest last: it loads the same in each. `metadata` is the
    user's, flat, by the names that the file has. The arrays are read when they are needed.
    """

    path: str
    nbytes: int
    generations: tuple[str, ...]
    layers: tuple[Layer, ...]
    metadata: dict[str, str]
    arrays: Mapping[str, mx.array]

    @property
    def generation(self) -> str:
        """The newest generation that the file fits."""
        return self.generations[-1]

    @property
    def place(self) -> Place:
        return Place(self.path, self.generation)

    def user_metadata(self) -> Any:
        """The metadata as mlx-lm's load function returns it. Raises `LayoutError`."""
        return unflatten_metadata(self.place, self.metadata)

    def read_all(self) -> None:
        """Read all arrays, on this thread. Raises `PromptCacheOSError`."""
        self.read(self.arrays)

    def read(self, names: Iterable[str]) -> None:
        """Read the arrays of these names, on this thread. Raises `PromptCacheOSError`."""
        try:
            mx.eval([self.arrays[name] for name in names])
        except (RuntimeError, MemoryError) as error:
            expected = "tensors that can be read"
            raise PromptCacheOSError(self.place, "tensors", expected, str(error)) from error


def read_prompt_cache(
    path: str | os.PathLike[str], generation: str | None = None
) -> PromptCacheFile:
    """Read a file of mlx-lm or mlx-swift-lm; it must fit a generation, or the one that is named.

    `generation` is "0.27" (and before), "0.28" (to 0.30), "0.31", "0.32" or "swift". No array is
    allocated, nor more than 2 MiB of their bytes. Raises `PromptCacheError`; of two generations
    that the file fits and that would load it differently, it takes none.
    """
    with opened(path) as source:
        header = read_header(source)
        arrays = load_arrays(source, header)
        return choose(header, Body(source, header.begin), generation, arrays)


def choose(
    header: Header, body: Body, generation: str | None, arrays: Mapping[str, mx.array]
) -> PromptCacheFile:
    """The file as the newest generation that it fits. Raises `PromptCacheError`."""
    if generation is not None and generation not in LABELS:
        raise GenerationError(header.place, "generation", ", ".join(LABELS), repr(generation))
    named = (generation,) if generation else None
    readings = read_as(header, body, named, hurried=True)
    fits = [reading for reading in readings if not reading.problems]
    if not fits:
        raise best(read_as(header, body, named)).problems[0]
    for problem in ambiguities(header.place, fits):
        raise problem
    last = fits[-1]
    layers = tuple(layer for layer in last.layers if layer)
    generations = tuple(one.generation for one in fits)
    return PromptCacheFile(
        header.place.file, header.nbytes, generations, layers, last.metadata, arrays
    )


def ambiguities(place: Place, fits: list[Reading]) -> Iterator[GenerationError]:
    """What keeps a file from being read that fits several generations, and loads otherwise."""
    like = fits[0]
    for other in fits[1:]:
        if alike(like, other):
            like = other
        else:
            got = f"{LABELS[fits[0].generation]} and {LABELS[other.generation]}"
            yield GenerationError(place, "generation", "one that it fits", got)


def alike(one: Reading, other: Reading) -> bool:
    """Whether both readings load as the same caches with the same metadata."""

    def plain(reading: Reading) -> list[Any]:
        layers = filter(None, reading.layers)
        return [(layer.name, layer.fields, layer.children, layer.extras) for layer in layers]

    same = one.layers is other.layers or plain(one) == plain(other)
    return same and one.metadata == other.metadata


def best(readings: list[Reading]) -> Reading:
    """The reading that finds least wrong, values rather than the layout; of several the newest."""

    def nearness(one: Reading) -> tuple[int, int, int]:
        values = sum(isinstance(problem, FieldError) for problem in one.problems)
        return one.sound, -len(one.problems), values

    return max(reversed(readings), key=nearness)


def read_as(
    header: Header,
    body: Body,
    generations: tuple[str, ...] | None = None,
    hurried: bool = False,
) -> list[Reading]:
    """Read the layers as each of these generations; as all that can be meant where none is named.

    What is wrong with the file as a whole, or with a layer, is collected and not raised; with
    `hurried`, a reading ends with the first problem.
    """
    if generations is None:
        # No class of the others has an empty name, nor a name with parts.
        names = header.metadata
        scalars = names.get("2.0") == "" or any(map(_SCALAR.match, names))
        generations = ("0.32",) if scalars else _STATE_AND_META
    reader = _Reader(header, Content(body), hurried)
    return [reader.read(one) for one in generations]


class _Reader:
    """One file, read as one generation after the other: what they share is read once."""

    def __init__(self, header: Header, content: Content, hurried: bool) -> None:
        self._header, self._content, self._hurried = header, content, hurried
        self._grown: _Grown | None = None
        self._sound: dict[tuple[str, ...], Reading] = {}

    def read(self, generation: str) -> Reading:
        place = replace(self._header.place, generation=generation)
        try:
            if generation == "0.32":
                return self._read_scalars(place)
            return self._read_metas(place)
        except PromptCacheError as error:
            return Reading(generation, (), (), {}, (error,))

    def _read_metas(self, place: Place) -> Reading:
        """As a file with meta_states: up to 0.31, and mlx-swift-lm."""
        if self._grown is None:
            self._grown = _grow(place, self._header)
        user, classes, meta, nodes = self._grown
        ways = tuple(variant(place.generation, name) for name in sorted(set(classes)))
        if ways in self._sound:
            return replace(self._sound[ways], generation=place.generation)
        swift = place.generation == "swift"
        reader = Swift(self._content) if swift else Python(place.generation, self._content)

        def read(i: int, name: str) -> Layer:
            node = str(i)
            return reader.layer(place.child(i, name), nodes.get(node), meta.get(node))

        reading = self._read_layers(place, classes, user, read)
        if not reading.problems:
            self._sound[ways] = reading
        return reading

    def _read_scalars(self, place: Place) -> Reading:
        """As a file of 0.32."""
        user, names, scalars = split(place, self._header.metadata)
        tree = read_leaves(place, self._header, self._content, scalars)
        classes = _classes(place, grow(place, "metadata", names), "1", none=True)
        nodes = within(place, "tensors", tree, len(classes))
        reader = Scalars(self._content)

        def read(i: int, name: str) -> Layer:
            return reader.layer(place.child(i, name), nodes.get(str(i)))

        return self._read_layers(place, classes, user, read)

    def _read_layers(
        self,
        place: Place,
        classes: list[str],
        user: list[tuple[str, str]],
        read: Callable[[int, str], Layer],
    ) -> Reading:
        """Read one layer after the other, whatever is wrong with one of them."""
        problems: list[PromptCacheError] = []
        layers: list[Layer | None] = []
        for i, name in enumerate(classes):
            try:
                layers.append(read(i, name))
            except PromptCacheError as error:
                layers.append(None)
                problems.append(error)
                if self._hurried:
                    break
        metadata = {name.partition(".")[2]: text for name, text in user}
        try:
            unflatten_metadata(place, metadata)
            if len(metadata) < len(user):
                raise LayoutError(place, "metadata", "each name once", "two without a name")
        except PromptCacheError as error:
            problems.append(error)
        return Reading(place.generation, tuple(layers), tuple(classes), metadata, tuple(problems))


def _grow(place: Place, header: Header) -> _Grown:
    """The user's metadata, the classes, the meta_states and the tensors by layer."""
    infos, user, names = split(place, header.metadata)
    classes = _classes(place, grow(place, "metadata", names), "2")
    meta = within(place, "metadata 0", grow(place, "metadata", infos).get("0"), len(classes))
    tree = grow(place, "tensor", header.tensors.items())
    nodes = within(place, "tensors", tree, len(classes))
    return user, classes, meta, nodes


def split(
    place: Place, metadata: dict[str, str]
) -> tuple[list[tuple[str, str]], list[tuple[str, str]], list[tuple[str, str]]]:
    """The three parts of the metadata by their numbers. Raises `LayoutError` for other entries."""
    parts: dict[str, list[tuple[str, str]]] = {"0": [], "1": [], "2": []}
    begins = {begin: part for name, part in parts.items() for begin in (name, f"{name}.")}
    for name in sorted(metadata):
        part = begins.get(name[:2])
        if part is None:
            expected = "names that begin with 0., 1. or 2."
            raise LayoutError(place, "metadata", expected, tell(name))
        part.append((name, metadata[name]))
    return parts["0"], parts["1"], parts["2"]


def _classes(place: Place, tree: dict[str, Any], part: str, none: bool = False) -> list[str]:
    """The class names of the layers; a file without any is a prompt cache in 0.32 only."""
    if none and part not in tree:
        return []
    names = dense(place, "class names", tree.get(part))
    if len(names) > MAX_LAYERS:
        raise LayoutError(place, "class names", f"at most {MAX_LAYERS}", str(len(names)))
    for i, name in enumerate(names):
        if not isinstance(name, str):
            raise LayoutError(place, f"class name {i}", "a class name", tell(name))
    return names
