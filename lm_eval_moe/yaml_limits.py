"""How deep a YAML file may nest and how far its aliases may expand."""

from __future__ import annotations

from typing import Any

import yaml
from yaml.composer import Composer
from yaml.constructor import SafeConstructor
from yaml.resolver import Resolver

if yaml.__with_libyaml__:
    from yaml._yaml import CParser as Events
else:  # pragma: no cover - every wheel of PyYAML has libyaml

    class Events(yaml.reader.Reader, yaml.scanner.Scanner, yaml.parser.Parser):  # type: ignore[no-redef]
        """The same events, six times as slowly."""

        def __init__(self, stream: str) -> None:
            yaml.reader.Reader.__init__(self, stream)
            yaml.scanner.Scanner.__init__(self)
            yaml.parser.Parser.__init__(self)


__all__ = ["MAX_BYTES", "MAX_DEPTH", "Limited"]

MAX_BYTES = 10_000_000
MAX_DEPTH = 50
MAX_ALIASED = 100_000


class Limited(Composer, Events, SafeConstructor, Resolver):
    """PyYAML's safe loader for files that may be hostile: libyaml reads, what it has read is put together here.

    Nesting deeper than `MAX_DEPTH`, an alias that refers to itself, and aliases that stand for many times more values
    than are written ("billion laughs") are `yaml.MarkedYAMLError`.
    """

    depth = 0

    def __init__(self, text: str) -> None:
        Events.__init__(self, text)
        Composer.__init__(self)
        SafeConstructor.__init__(self)
        Resolver.__init__(self)

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose a node, counting how deep it stands."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            here: Any = self.peek_event()
            raise yaml.MarkedYAMLError(problem=f"nested deeper than {MAX_DEPTH} levels", problem_mark=here.start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_document(self, node: yaml.Node) -> Any:
        """Construct the document unless it grows too large on the way."""
        sizes: dict[int, int] = {}
        if _expanded_size(node, sizes) - len(sizes) > MAX_ALIASED:
            raise yaml.MarkedYAMLError(
                problem="its aliases expand to far too many values", problem_mark=node.start_mark
            )
        return super().construct_document(node)


def _expanded_size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Count the nodes from ``node`` down as if every alias were written out; ``sizes`` remembers them by node."""
    if id(node) in sizes:
        if not sizes[id(node)]:
            raise yaml.MarkedYAMLError(problem="an alias refers to itself", problem_mark=node.start_mark)
        return sizes[id(node)]
    sizes[id(node)] = 0
    children: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        children = [child for pair in node.value for child in pair]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    sizes[id(node)] = 1 + sum(_expanded_size(child, sizes) for child in children)
    return sizes[id(node)]
