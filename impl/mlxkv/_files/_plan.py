"""Making a cache of arrays and what a layer says, once or many times."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from mlxkv._files._layers import Layer
from mlxkv._files._regular import Tensor


class Plan(NamedTuple):
    """A cache: its class, the attributes that are arrays, lists of them, or other values."""

    cls: Any
    arrays: list[tuple[str, Any]]
    lists: list[tuple[str, list[Any]]]
    values: list[tuple[str, Any]]
    children: list[Plan] | None


def plan(layer: Layer, classes: Mapping[str, Any], keys: Mapping[str, Any]) -> Plan:
    """How the layer is made: `keys` says where each of its tensors will be found."""
    cls = classes[layer.name]
    made = Plan(cls, [], [], [], None)
    for name, value in layer.fields.items():
        if isinstance(value, Tensor):
            made.arrays.append((_field(cls, name), keys[value.name]))
        elif isinstance(value, tuple):
            made.lists.append((name, [None if one is None else keys[one.name] for one in value]))
        else:
            made.values.append((name, value))
    step = int(layer.extras.get("step", 0))
    if step and step != cls.step:
        made.values.append(("step", step))
    if layer.name != "CacheList":
        return made
    return made._replace(children=[plan(child, classes, keys) for child in layer.children])


def _field(cls: Any, name: str) -> str:
    """The attribute itself, where a property stands before it: `_keys` behind `keys`."""
    return f"_{name}" if isinstance(getattr(cls, name, None), property) else name


def make(plan: Plan, arrays: Any) -> Any:
    """One cache, as if its state had been set: fields only, its constructor does not run."""
    cls, fields, lists, values, children = plan
    cache = cls.__new__(cls)
    for name, key in fields:
        setattr(cache, name, arrays[key])
    for name, value in values:
        setattr(cache, name, value)
    for name, keys in lists:
        setattr(cache, name, [None if key is None else arrays[key] for key in keys])
    if children is not None:
        cache.caches = [make(child, arrays) for child in children]
    return cache
