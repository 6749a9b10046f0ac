"""Stand-ins: a port's caches under the release's names, for ports that have names of their own.

A stand-in holds one cache of the port. It hands every call and attribute on under the port's name,
gives the port its own caches as arguments, and puts what it gets back into stand-ins again.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

# What Python calls by itself, where a port has it.
_SPECIAL = ("__getitem__", "__setitem__", "__len__")
_HIDDEN = ("__deepcopy__", "__dict__", "__dir__")


@dataclass(frozen=True)
class Renamed:
    """A callable of the port: its own name, and its argument names by the release's."""

    name: str
    arguments: Mapping[str, str] = field(default_factory=dict)

    def keywords(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return keyword arguments under the port's names."""
        return {self.arguments.get(name, name): value for name, value in given.items()}


@dataclass(frozen=True)
class Outfit:
    """A class of the port, and its names by those of the release's class `name`.

    `always` are arguments that the constructor gets besides.
    """

    name: str
    port: type
    constructor: Renamed
    always: Mapping[str, Any] = field(default_factory=dict)
    methods: Mapping[str, Renamed] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)

    def members(self) -> dict[str, Renamed]:
        """Return what the port's class has, by the release's names."""
        own = [name for name in dir(self.port) if not name.startswith("_") or name in _SPECIAL]
        named = {name: Renamed(port) for name, port in self.attributes.items()} | {**self.methods}
        taken = {renamed.name for renamed in named.values()}
        has = {name: Renamed(name) for name in own if name not in taken and name not in named}
        return has | {name: at for name, at in named.items() if hasattr(self.port, at.name)}


class StandIn:
    """Stands for one cache of a port. Its fields are the port's, under the release's names."""

    __slots__ = ("_port",)
    _outfit: Outfit
    # The class that keeps the growth step, and under which name.
    _growth: tuple[type, str]
    _port: Any

    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
        fields: dict[str, Any] = vars(self._port)
        return fields

    def __dir__(self) -> list[str]:
        names = {port: name for name, port in self._outfit.attributes.items()}
        return [*dir(type(self)), *(names.get(name, name) for name in dir(self._port))]

    def __deepcopy__(self, memo: dict[int, Any]) -> StandIn:
        return _worn(type(self), copy.deepcopy(self._port, memo))


class Wardrobe:
    """The stand-in classes of one port."""

    def __init__(self, outfits: Sequence[Outfit]) -> None:
        self.classes = {outfit.name: self._make(outfit) for outfit in outfits}

    def dress(self, value: Any, like: type[StandIn] | None = None) -> Any:
        """Return `value` with the port's caches in it in stand-ins, those of its class `like` it.

        A container without any is the same object.
        """
        if isinstance(value, (list, tuple)):
            items = [self.dress(item, like) for item in value]
            return _same(value, items)
        for cls in (like, *self.classes.values()):
            if cls is not None and type(value) is cls._outfit.port:
                return _worn(cls, value)
        return value

    def function(self, call: Callable[..., Any], renamed: Renamed) -> Callable[..., Any]:
        """Return a function of the port's module under the release's argument names."""

        def function(*args: Any, **kwargs: Any) -> Any:
            return self.dress(call(*bare(args), **renamed.keywords(bare(kwargs))))

        return _with_signature(function, _signature(call, renamed))

    def _make(self, outfit: Outfit) -> type[StandIn]:
        def __init__(self: StandIn, *args: Any, **kwargs: Any) -> None:  # noqa: N807
            given = outfit.constructor.keywords(bare(kwargs))
            object.__setattr__(self, "_port", outfit.port(*bare(args), **outfit.always, **given))

        def __getattr__(self: StandIn, name: str) -> Any:  # noqa: N807
            if name in ("_port", *_HIDDEN):
                raise AttributeError(name)
            port = outfit.attributes.get(name, name)
            return self_dress(getattr(self._port, port), type(self))

        def __setattr__(self: StandIn, name: str, value: Any) -> None:  # noqa: N807
            setattr(self._port, outfit.attributes.get(name, name), bare(value))

        self_dress = self.dress
        step = outfit.attributes.get("step", "step")
        body: dict[str, Any] = {
            "__slots__": (),
            "__doc__": f"Stands for {outfit.port.__module__}.{outfit.port.__qualname__}.",
            "__init__": __init__,
            "__getattr__": __getattr__,
            "__setattr__": __setattr__,
            "_outfit": outfit,
            "_growth": (outfit.port, step),
        }
        signature = _signature(outfit.port, outfit.constructor, without=outfit.always)
        if signature is not None:
            body["__signature__"] = signature
        for name, renamed in outfit.members().items():
            body[name] = self._member(outfit.port, renamed)
        return type(outfit.name, (StandIn,), body)

    def _member(self, port: type, renamed: Renamed) -> Any:
        """Return a member of a stand-in class for the port's `renamed`."""
        name = renamed.name
        static = inspect.getattr_static(port, name)
        if isinstance(static, (classmethod, staticmethod)):

            def shared(cls: type[StandIn], *args: Any, **kwargs: Any) -> Any:
                call = getattr(cls._outfit.port, name)
                return self.dress(call(*bare(args), **renamed.keywords(bare(kwargs))), cls)

            signature = _signature(getattr(port, name), renamed, first="cls")
            return classmethod(_with_signature(shared, signature))
        if callable(static):

            def method(one: StandIn, *args: Any, **kwargs: Any) -> Any:
                call = getattr(one._port, name)
                result = call(*bare(args), **renamed.keywords(bare(kwargs)))
                return self.dress(result, type(one))

            return _with_signature(method, _signature(static, renamed))
        return property(lambda one: self.dress(getattr(one._port, name), type(one)))


def module_of(
    classes: Mapping[str, type[StandIn]], functions: Mapping[str, Callable[..., Any]]
) -> ModuleType:
    """Return a module with the stand-in classes and functions."""
    module = ModuleType("port")
    vars(module).update({**classes, **functions})
    return module


def bare(value: Any) -> Any:
    """Return `value` with the port's own caches in the place of their stand-ins."""
    if isinstance(value, StandIn):
        return value._port
    if isinstance(value, (list, tuple)):
        return _same(value, [bare(item) for item in value])
    if type(value) is dict:
        return {key: bare(item) for key, item in value.items()}
    return value


def _worn(cls: type[StandIn], port: Any) -> StandIn:
    new = cls.__new__(cls)
    object.__setattr__(new, "_port", port)
    return new


def _same(container: Any, items: list[Any]) -> Any:
    """Return the container itself where its items are, else one of its kind with `items`."""
    if all(one is other for one, other in zip(container, items, strict=True)):
        return container
    return type(container)(items) if type(container) in (list, tuple) else items


def _signature(
    call: Any, renamed: Renamed, *, without: Mapping[str, Any] | None = None, first: str = ""
) -> inspect.Signature | None:
    """Return the signature of the port's callable under the release's names, None if it has none.

    `without` are parameters that are given already, `first` the name of one before all others.
    """
    try:
        parameters = list(inspect.signature(call).parameters.values())
    except (TypeError, ValueError):
        return None
    names = {port: name for name, port in renamed.arguments.items()}
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    head = [inspect.Parameter(first, kind)] if first else []
    open_ = [one for one in parameters if one.name not in (without or {})]
    kept = [one.replace(name=names.get(one.name, one.name)) for one in open_]
    try:
        return inspect.Signature([*head, *kept])
    except ValueError:
        return None


def _with_signature(
    function: Callable[..., Any], signature: inspect.Signature | None
) -> Callable[..., Any]:
    if signature is not None:
        function.__signature__ = signature  # type: ignore[attr-defined]
    return function
