"""Reading a recipe file."""

import os
from pathlib import Path

from ultrafuser.recipe.errors import Problem, RecipeError
from ultrafuser.recipe.models import Recipe
from ultrafuser.recipe.yaml_text import YamlError, parse


def load_recipe(path: str | Path) -> Recipe:
    """The recipe in a YAML file, its relative paths made absolute from the file's folder.

    Raises RecipeError with file, line, field, value and fix for every mistake.
    """
    file = Path(os.path.expanduser(path))
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "does not exist"
        raise RecipeError([Problem("recipe", f"{file} {what}; `ultrafuser init {file}` writes one to start from")])
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError([Problem("", f"not UTF-8 text (byte {error.start}); save it as UTF-8")], str(file)) from None
    return parse_recipe(text, folder=file.absolute().parent, origin=str(file))


def parse_recipe(text: str, *, folder: Path | None = None, origin: str = "recipe") -> Recipe:
    """The recipe in YAML text; relative paths start from `folder` (default: the current one)."""
    try:
        data, lines = parse(text)
    except YamlError as error:
        column = f", column {error.column}" if error.column else ""
        raise RecipeError([Problem("", f"not valid YAML{column}: {error}", line=error.line)], origin) from None
    if not isinstance(data, dict):
        raise RecipeError([Problem("", "a recipe is a mapping of keys to values; see `ultrafuser init`")], origin)
    odd = [key for key in data if not isinstance(key, str)]
    if odd:
        raise RecipeError(
            [Problem("", f"{odd[0]!r} is no key of a recipe; a key is a word, written in quotes if need be")], origin
        )
    try:
        recipe = Recipe(**data)
    except RecipeError as error:
        raise error.located(lines, origin) from None
    return recipe.absolute((folder or Path.cwd()).absolute())
