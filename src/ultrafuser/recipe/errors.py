"""What is wrong with a recipe, in a user's words: field, value, fix, and the line when it came from a file."""

import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel, ValidationError

from ultrafuser.lookup import did_you_mean, nearest

Location = tuple[str | int, ...]


@dataclass(frozen=True)
class Problem:
    """One mistake."""

    field: str  # full path, for example stages[0].learning_rate
    message: str  # what is wrong and how to mend it, without the field
    location: Location = ()
    line: int | None = None

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line else ""
        return f"{where}{self.field}: {self.message}" if self.field else f"{where}{self.message}"


class RecipeError(ValueError):
    """A recipe that cannot be run; `problems` lists every mistake found."""

    def __init__(self, problems: Sequence[Problem], origin: str | None = None) -> None:
        self.problems = list(problems)
        self.origin = origin
        lines = [str(problem) for problem in self.problems]
        head = f"{origin}: " if origin else ""
        super().__init__(head + lines[0] if len(lines) == 1 else "\n".join([f"{head}{len(lines)} mistakes", *lines]))

    @classmethod
    def from_validation(cls, error: ValidationError, root: type[BaseModel] | None = None) -> "RecipeError":
        """The same mistakes as pydantic found, in a user's words; `root` is the model of the file, a recipe if None."""
        if root is None:
            from ultrafuser.recipe.models import Recipe

            root = Recipe
        found = error.errors(include_url=False)
        misspelt = {(*d["loc"][:-1], _meant(d["loc"], root)) for d in found if d["type"] == "extra_forbidden"}
        told = [d for d in found if not (d["type"] == "missing" and d["loc"] in misspelt)]
        return cls(list(dict.fromkeys(_problem(details, root) for details in told)))

    def located(self, lines: Mapping[Location, int], origin: str) -> "RecipeError":
        """The same mistakes with the lines of the file that they stand in, in the file's order."""
        found = [replace(problem, line=_line(problem, lines)) for problem in self.problems]
        return RecipeError(sorted(found, key=lambda problem: problem.line or 0), origin)


def field_path(location: Sequence[str | int]) -> str:
    """`("stages", 0, "steps")` as `stages[0].steps`."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def _line(problem: Problem, lines: Mapping[Location, int]) -> int | None:
    location = problem.location
    while location:
        if location in lines:
            return lines[location]
        location = location[:-1]
    return None


def _problem(details: Any, root: type[BaseModel]) -> Problem:
    bad_key = "[key]" in details["loc"]
    location: Location = tuple(part for part in details["loc"] if part != "[key]")
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    if bad_key:
        return Problem(field_path(location[:-1]), _bad_name(location[-1]), location)
    if kind == "value_error":
        return _from_validator(str(context["error"]), location)
    if kind == "extra_forbidden":
        message = _unknown_key(location, root)
    elif kind == "missing":
        message = f"missing; {_describe(location, root)}"
    elif kind == "literal_error":
        choices = re.findall(r"'([^']*)'", context["expected"])
        close = did_you_mean(value, choices) if isinstance(value, str) else ""
        message = f"{value!r} is not one of {', '.join(choices)}{close}"
    else:
        message = _wrong_value(details, location, root)
    return Problem(field_path(location), message, location)


def _from_validator(text: str, location: Location) -> Problem:
    """Our own validators begin with the field inside the model that they belong to: `top_k: 5 ...`."""
    match = re.match(r"((?:[a-z_]+|\[\d+\])(?:\.[a-z_]+|\[\d+\])*): (.*)", text, re.DOTALL)
    if match is None:
        return Problem(field_path(location), text, location)
    inner: list[str | int] = []
    for name, index in re.findall(r"([a-z_]+)|\[(\d+)\]", match[1]):
        inner.append(int(index) if index else name)
    whole = (*location, *inner)
    return Problem(field_path(whole), match[2], whole)


def _bad_name(name: Any) -> str:
    return (
        f"{name!r} is not a name; use letters, digits, '.', '_' and '-', at most 64, the first a letter or a digit "
        "(quote it if YAML reads it as a number or true/false)"
    )


def _meant(location: Location, root: type[BaseModel]) -> str | None:
    """The key of the same mapping that an unknown one is probably a misspelling of."""
    return nearest(str(location[-1]), _keys(location, root))


def _keys(location: Location, root: type[BaseModel]) -> list[str]:
    """The keys that may stand beside the last one of a location."""
    model = _annotation(location[:-1], root)
    return list(model.model_fields) if _is_model(model) else []


def _unknown_key(location: Location, root: type[BaseModel]) -> str:
    key, fields = str(location[-1]), _keys(location, root)
    close = _meant(location, root)
    if close is not None:
        return f"no such key; did you mean {close!r}?"
    homes = [where for where, names in _all_fields(root).items() if key in names]
    if homes:
        return f"no such key here; {key!r} belongs in {homes[0] or 'the top level'}"
    elsewhere = {name: where for where, names in _all_fields(root).items() for name in names}
    far = nearest(key, elsewhere)
    hint = f"; {far!r} exists in {elsewhere[far] or 'the top level'}" if far is not None else ""
    return f"no such key{hint}; the keys here are {', '.join(fields)}"


def _all_fields(root: type[BaseModel]) -> dict[str, list[str]]:
    """Where each key of the recipe belongs: `stages[]` -> its keys."""
    found: dict[str, list[str]] = {}

    def visit(model: type[BaseModel], where: str) -> None:
        found[where] = list(model.model_fields)
        for name, field in model.model_fields.items():
            for inner, suffix in inner_models(field.annotation):
                visit(inner, f"{where}.{name}{suffix}" if where else f"{name}{suffix}")

    visit(root, "")
    return found


def inner_models(annotation: Any) -> list[tuple[type[BaseModel], str]]:
    """The model that a field holds, and how it holds it: "" itself, ".NAME" by name, "[]" in a list."""
    if _is_model(annotation):
        return [(annotation, "")]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return inner_models(arguments[0])
    if origin is dict and _is_model(arguments[1]):
        return [(arguments[1], ".NAME")]
    if origin is list and _is_model(arguments[0]):
        return [(arguments[0], "[]")]
    return []


def _annotation(location: Location, root: type[BaseModel]) -> Any:
    """The type that stands at a location, or None."""
    current: Any = root
    for part in location:
        if _is_model(current):
            field = current.model_fields.get(str(part))
            current = field.annotation if field is not None else None
        else:
            origin, arguments = typing.get_origin(current), typing.get_args(current)
            current = arguments[1] if origin is dict else arguments[0] if origin is list else None
        if typing.get_origin(current) is typing.Annotated:
            current = typing.get_args(current)[0]
    return current


def _is_model(annotation: Any) -> typing.TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _describe(location: Location, root: type[BaseModel]) -> str:
    """The field's own description, as a hint of what to write."""
    model = _annotation(location[:-1], root)
    field = model.model_fields.get(str(location[-1])) if _is_model(model) else None
    text = field.description if field is not None and field.description else "it has to be given"
    return text.rstrip(".").replace("\n", " ")


_TYPE_WORDS = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping (key: value)",
    "model_type": "a mapping (key: value)",
    "model_attributes_type": "a mapping (key: value)",
}


def _wrong_value(details: Any, location: Location, root: type[BaseModel]) -> str:
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    shown = _shown(value)
    if kind in _TYPE_WORDS:
        wanted, fix = _TYPE_WORDS[kind], ""
        if kind == "list_type" and isinstance(value, str):
            fix = f"; write [{value}]"
        elif kind in ("int_type", "float_type") and isinstance(value, str) and re.fullmatch(r"[-+\d._,eE]+", value):
            fix = "; write it without quotes, separators or units"
        elif kind in ("model_type", "model_attributes_type") and isinstance(value, str):
            fix = _mapping_fix(value, location, root)
        return f"{shown} is {_kind(value)}, {wanted} is needed{fix}"
    limits = {"greater_than": ("gt", "greater than"), "greater_than_equal": ("ge", "at least")}
    limits |= {"less_than": ("lt", "less than"), "less_than_equal": ("le", "at most")}
    if kind in limits:
        key, words = limits[kind]
        return f"{shown} is out of range; it must be {words} {context[key]}"
    if kind in ("too_short", "string_too_short"):
        return f"{shown} is empty; {_describe(location, root)}"
    if kind == "string_pattern_mismatch" and location[-1] == "name":
        return _bad_name(value)
    if kind == "string_pattern_mismatch":
        return f"{shown} is not understood; {_describe(location, root)}"
    if kind == "finite_number":
        return f"{shown} is not a finite number"
    return f"{shown}: {details['msg']}"


def _mapping_fix(value: str, location: Location, root: type[BaseModel]) -> str:
    model = _annotation(location, root)
    if not _is_model(model):
        return ""
    first = next(
        (name for name, field in model.model_fields.items() if field.is_required()), next(iter(model.model_fields))
    )
    return f"; write {{{first}: {value}}}"


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true/false"
    kinds: list[tuple[Any, str]] = [
        (str, "text"),
        (int, "a whole number"),
        (float, "a number"),
        (list, "a list"),
        (dict, "a mapping"),
        (types.NoneType, "nothing"),
    ]
    return next((word for kind, word in kinds if isinstance(value, kind)), type(value).__name__)


def _shown(value: Any) -> str:
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
