"""YAML as editors read it (version 1.2 scalars): `1e-3` is a number, `no` is a word, a key stands once.

PyYAML follows version 1.1, where `1e-3` is text and `no` is false, and takes the last of two equal keys in silence.
"""

import re
from collections.abc import Hashable
from typing import Any

import yaml

Location = tuple[str | int, ...]


class YamlError(ValueError):
    """Text that is not YAML, or has a key twice; `line` and `column` count from 1."""

    def __init__(self, problem: str, line: int | None, column: int | None) -> None:
        super().__init__(problem)
        self.line = line
        self.column = column


_SCALARS = (
    ("tag:yaml.org,2002:bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("tag:yaml.org,2002:int", r"^[-+]?[0-9]+$", "-+0123456789"),
    ("tag:yaml.org,2002:float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", "-+.0123456789"),
    ("tag:yaml.org,2002:float", r"^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$", "-+."),
    ("tag:yaml.org,2002:null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - the attribute's form is PyYAML's

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        return int(node.value)


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - the attribute's form is PyYAML's

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


for _tag, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(_tag, re.compile(_pattern), list(_first))
    _Dumper.add_implicit_resolver(_tag, re.compile(_pattern), list(_first))
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def parse(text: str) -> tuple[Any, dict[Location, int]]:
    """The data, and the line (from 1) on which each key or list entry begins. Raises YamlError."""
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YamlError(f"the character with code {error.character} is not allowed; remove it", line, None) from None
    try:
        node = loader.get_single_node()
        if node is None:
            return None, {}
        lines: dict[Location, int] = {}
        _walk(node, (), lines, set())
        return loader.construct_document(node), lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        raise YamlError(problem, mark.line + 1 if mark else None, mark.column + 1 if mark else None) from None
    finally:
        loader.dispose()


def _walk(node: yaml.Node, location: Location, lines: dict[Location, int], above: set[int]) -> None:
    """Notes lines and refuses a key that stands twice in one mapping."""
    if id(node) in above:
        raise YamlError("an alias points at what it is part of", node.start_mark.line + 1, node.start_mark.column + 1)
    above = above | {id(node)}
    if isinstance(node, yaml.MappingNode):
        seen: dict[Hashable, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise YamlError("a key must be a single word", line, key.start_mark.column + 1)
            if key.value in seen:
                raise YamlError(
                    f"the key {key.value!r} stands twice (first on line {seen[key.value]}); remove one of them",
                    line,
                    key.start_mark.column + 1,
                )
            seen[key.value] = line
            lines[(*location, key.value)] = line
            _walk(value, (*location, key.value), lines, above)
    elif isinstance(node, yaml.SequenceNode):
        for i, entry in enumerate(node.value):
            lines[(*location, i)] = entry.start_mark.line + 1
            _walk(entry, (*location, i), lines, above)


def dump(data: Any) -> str:
    """YAML text with the keys in the order given."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100, default_flow_style=False)
