"""Reading a recipe file, and other strict YAML files in the same manner."""

import os
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ultrafuser.recipe.errors import Location, Problem, RecipeError
from ultrafuser.recipe.models import Recipe
from ultrafuser.recipe.yaml_text import YamlError, parse

Model = TypeVar("Model", bound=BaseModel)


def load_recipe(path: str | Path) -> Recipe:
    """The recipe in a YAML file, its relative paths made absolute from the file's folder.

    Raises RecipeError with file, line, field, value and fix for every mistake.
    """
    file = Path(os.path.expanduser(path))
    text = _text(file, "recipe", f"`ultrafuser init {file}` writes one to start from")
    return parse_recipe(text, folder=file.absolute().parent, origin=str(file))


def parse_recipe(text: str, *, folder: Path | None = None, origin: str = "recipe") -> Recipe:
    """The recipe in YAML text; relative paths start from `folder` (default: the current one)."""
    data, lines = _mapping(text, origin, "recipe", "see `ultrafuser init`")
    try:
        recipe = Recipe(**data)
    except RecipeError as error:
        raise error.located(lines, origin) from None
    return recipe.absolute((folder or Path.cwd()).absolute())


def load_strict(path: str | Path, kind: type[Model], what: str, hint: str) -> Model:
    """A strict model from a YAML file; `what` the file is and a `hint` where to find one go into messages.

    Raises RecipeError with file, line, field, value and fix for every mistake.
    """
    file = Path(os.path.expanduser(path))
    data, lines = _mapping(_text(file, what, hint), str(file), what, hint)
    try:
        return kind(**data)
    except ValidationError as error:
        raise RecipeError.from_validation(error, kind).located(lines, str(file)) from None


def _text(file: Path, what: str, hint: str) -> str:
    if not file.is_file():
        reason = "is a folder" if file.is_dir() else "does not exist"
        raise RecipeError([Problem(what, f"{file} {reason}; {hint}")])
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError([Problem("", f"not UTF-8 text (byte {error.start}); save it as UTF-8")], str(file)) from None


def _mapping(text: str, origin: str, what: str, hint: str) -> tuple[dict[str, Any], dict[Location, int]]:
    try:
        data, lines = parse(text)
    except YamlError as error:
        column = f", column {error.column}" if error.column else ""
        raise RecipeError([Problem("", f"not valid YAML{column}: {error}", line=error.line)], origin) from None
    if not isinstance(data, dict):
        raise RecipeError([Problem("", f"a {what} is a mapping of keys to values; {hint}")], origin)
    odd = [key for key in data if not isinstance(key, str)]
    if odd:
        raise RecipeError(
            [Problem("", f"{odd[0]!r} is no key of a {what}; a key is a word, written in quotes if need be")], origin
        )
    return data, lines
