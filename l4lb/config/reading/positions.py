"""On which line of a TOML file each key stands, for error messages. Values come from tomllib."""

from __future__ import annotations

from collections.abc import Iterator

import tree_sitter
import tree_sitter_toml

from l4lb.config.options.paths import Path

_PARSER = tree_sitter.Parser(tree_sitter.Language(tree_sitter_toml.language()))


def _keys(node: tree_sitter.Node) -> Iterator[str]:
    """The parts of a bare, quoted or dotted key."""
    if node.type == "dotted_key":
        for child in node.named_children:
            yield from _keys(child)
        return
    text = (node.text or b"").decode()
    yield text[1:-1] if node.type == "quoted_key" else text


class Positions:
    """Lines by key path. A path that is not in the file has the line of the nearest one above it that is."""

    def __init__(self, text: str) -> None:
        self._lines: dict[Path, int] = {}
        self._elements: dict[Path, int] = {}
        for node in _PARSER.parse(text.encode()).root_node.named_children:
            if node.type == "pair":
                self._pair((), node)
            elif node.type in ("table", "table_array_element"):
                self._table(node)

    def line_of(self, path: Path) -> int:
        """1 for the first line; 0 when not even a table above `path` is in the file."""
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path, 0)

    def _table(self, node: tree_sitter.Node) -> None:
        head, *rest = node.named_children
        path: Path = tuple(_keys(head))
        if node.type == "table_array_element":
            index = self._elements.get(path, -1) + 1
            self._elements[path] = index
            self._lines.setdefault(path, node.start_point.row + 1)
            path = (*path, index)
        self._lines[path] = node.start_point.row + 1
        for end in range(1, len(path)):
            self._lines.setdefault(path[:end], node.start_point.row + 1)
        for child in rest:
            if child.type == "pair":
                self._pair(path, child)

    def _pair(self, above: Path, node: tree_sitter.Node) -> None:
        key, *values = node.named_children
        path = (*above, *_keys(key))
        for end in range(len(above) + 1, len(path) + 1):
            self._lines.setdefault(path[:end], node.start_point.row + 1)
        for value in values[:1]:
            self._value(path, value)

    def _value(self, path: Path, node: tree_sitter.Node) -> None:
        if node.type == "inline_table":
            for child in node.named_children:
                if child.type == "pair":
                    self._pair(path, child)
        elif node.type == "array":
            elements = [child for child in node.named_children if child.type != "comment"]
            for index, child in enumerate(elements):
                self._lines[(*path, index)] = child.start_point.row + 1
                self._value((*path, index), child)
