"""A compressed radix tree of token runs: a node where a value is held or where runs part.

Every node but a root holds a value or has two children at least, and knows the way to the nearest
value below it. Children are in the order in which their first tokens came, as in a dict of dicts
with a node a token, and tokens are the objects that came first. Nothing here recurses.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Any, NamedTuple

from mlxkv._runs import Path, Run, count_alike, cut, join, size_of, token_at

_SPARE = 8
Way = tuple[int, int, "Node"]


class Node:
    """What is below one run: `label` is that run, `held` None or a tuple of the value.

    `distance` counts the tokens to the nearest value at or below the node and `nearest` is the
    child on that way, None where the node holds one itself. Of equally near children it is the
    one of the highest `order`, which is the last that came. `ways` is a heap of how near the
    children were said to be; an entry is true while the child is one and that near. A root has
    none of these: nobody asks it.
    """

    __slots__ = ("children", "distance", "held", "label", "nearest", "order", "ways")

    def __init__(self, label: Run = b"", held: tuple[Any] | None = None, order: int = 0) -> None:
        self.label = label
        self.held = held
        self.order = order
        self.children: dict[Any, Node] = {}
        self.distance = 0
        self.nearest: Node | None = None
        self.ways: list[Way] = []

    def __lt__(self, other: Node) -> bool:
        return False  # entries of a heap that are as near and of one order may come in any

    def way(self) -> Way:
        """The tokens from the parent to the nearest value, and what breaks ties."""
        return size_of(self.label) + self.distance, -self.order, self

    def put(self, child: Node) -> None:
        """Set a child, in the place of the one whose run starts alike if there is one."""
        self.children[token_at(child.label, 0)] = child

    def append(self, child: Node) -> None:
        """Set a child that comes last."""
        if self.children:
            child.order = next(reversed(self.children.values())).order + 1
        self.put(child)

    def drop(self) -> None:
        """Keep nothing alive, being no node of the tree any more."""
        self.label = b""
        self.children = {}

    def note(self, child: Node) -> None:
        """Take note of a child that came or whose way changed."""
        heappush(self.ways, child.way())
        if len(self.ways) > 2 * len(self.children) + _SPARE:
            self.ways = [one.way() for one in self.children.values()]
            heapify(self.ways)

    def settle(self) -> bool:
        """Find the nearest value anew; return whether the way to it changed."""
        before = self.distance, self.nearest
        self.distance, self.nearest = 0, None
        if self.held is None:
            while not self._is_true(*self.ways[0]):
                heappop(self.ways)
            self.distance, _, self.nearest = self.ways[0]
        return before != (self.distance, self.nearest)

    def _is_true(self, reach: int, _order: int, child: Node) -> bool:
        if not child.label or self.children.get(token_at(child.label, 0)) is not child:
            return False
        return size_of(child.label) + child.distance == reach


class Walk(NamedTuple):
    """How far a path leads: through `nodes`, the root first, then `into` the run of `inside`."""

    nodes: list[Node]
    inside: Node | None
    into: int
    reached: int

    def depths(self) -> list[int]:
        """The tokens from the root to each of `nodes`."""
        depths, depth = [], 0
        for node in self.nodes:
            depth += size_of(node.label)
            depths.append(depth)
        return depths


def follow(root: Node, path: Path) -> Walk:
    """Go along the path as far as the tree does."""
    run, first, node, nodes, reached = path.run, path.first, root, [root], 0
    while reached < path.size:
        child = node.children.get(token_at(run, first + reached))
        if child is None:
            break
        alike = count_alike(child.label, run, first + reached)
        reached += alike
        if alike < size_of(child.label):
            return Walk(nodes, child, alike, reached)
        nodes.append(child)
        node = child
    return Walk(nodes, None, 0, reached)


def find_nearest(walk: Walk) -> tuple[Node, list[Run]]:
    """The nearest value at or below the end of a walk of one token or more, and the runs to it."""
    node, runs = walk.nodes[-1], []
    if walk.inside is not None:
        node = walk.inside
        runs.append(cut(node.label, walk.into))
    while node.nearest is not None:
        node = node.nearest
        runs.append(node.label)
    return node, runs


def hold(root: Node, path: Path, held: tuple[Any]) -> tuple[Any] | None:
    """Hold a value at the end of the path, and return what was held there."""
    walk = follow(root, path)
    nodes = walk.nodes
    if walk.inside is not None:
        nodes.append(_split(nodes, walk.inside, walk.into))
    node = nodes[-1]
    if walk.reached == path.size:
        previous, node.held = node.held, held
        if node.settle():
            _tell(nodes[:-1], node)
        return previous
    leaf = Node(cut(path.run, path.first + walk.reached), held)
    node.append(leaf)
    _tell(nodes, leaf)
    return None


def release(nodes: list[Node]) -> None:
    """Hold no value any more at the end of these nodes, a root and what follows."""
    node = nodes.pop()
    node.held = None
    if not nodes:
        return
    if len(node.children) > 1:
        if node.settle():
            _tell(nodes, node)
    elif node.children:
        _splice(nodes, node)
    else:
        parent = nodes[-1]
        del parent.children[token_at(node.label, 0)]
        node.drop()
        if len(nodes) == 1:
            return
        nodes.pop()
        if parent.held is None and len(parent.children) == 1:
            _splice(nodes, parent)
        elif parent.settle():
            _tell(nodes, parent)


def release_prefixes(walk: Walk, size: int) -> list[tuple[int, Any]]:
    """Hold no values above the end of a walk of so many tokens; return them with their depths."""
    found = []
    for depth, node in zip(walk.depths(), walk.nodes, strict=True):
        if depth < size and node.held is not None:
            found.append((depth, node.held[0]))
            node.held = None
    if found:
        _contract(walk.nodes if walk.inside is None else [*walk.nodes, walk.inside])
    return found


def _split(nodes: list[Node], child: Node, into: int) -> Node:
    """Put a node into the run of a child of the last of `nodes`, so many tokens from its start."""
    upper = Node(cut(child.label, 0, into), order=child.order)
    child.label = cut(child.label, into)
    upper.put(child)
    upper.note(child)
    upper.settle()
    nodes[-1].put(upper)
    _tell(nodes, upper)
    return upper


def _splice(nodes: list[Node], node: Node) -> None:
    """Take out a node with one child: the last of `nodes` gets that child, with both runs."""
    (child,) = node.children.values()
    child.label, child.order = join([node.label, child.label]), node.order
    nodes[-1].put(child)
    node.drop()
    _tell(nodes, child)


def _tell(nodes: list[Node], child: Node) -> None:
    """Tell of a child of the last of these nodes, upwards for as long as it makes a difference."""
    for node in reversed(nodes[1:]):
        node.note(child)
        if not node.settle():
            return
        child = node


def _contract(nodes: list[Node]) -> None:
    """Take out what neither holds a value nor parts runs, from a root down to a node that does."""
    kept, chain = nodes[:1], []
    for node in nodes[1:]:
        chain.append(node)
        if node.held is not None or len(node.children) != 1:
            node.label, node.order = join([one.label for one in chain]), chain[0].order
            kept[-1].put(node)
            kept.append(node)
            for one in chain[:-1]:
                one.drop()
            chain = []
    for node, child in zip(kept[-2:0:-1], kept[:1:-1], strict=True):
        node.note(child)
        node.settle()
