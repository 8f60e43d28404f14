"""A reproduction of a micro trio: random specialists of a few thousand parameters, made by the demo's tests."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "demo"))

RECIPE = """
name: micro
specialists:
{specialists}
data:
{data}
max_length: 200
stages:
  - {{name: first, train: gate, steps: 2, examples_per_category: 2, learning_rate: 0.001, logging_steps: 1}}
  - {{name: second, train: all, steps: 2, examples_per_category: 2, learning_rate: 0.001, logging_steps: 1}}
"""


@pytest.fixture(scope="session")
def micro_recipe(tmp_path_factory) -> Path:
    """A recipe file of the micro trio with training and held-out data."""
    from micro import micro_sources

    folder = tmp_path_factory.mktemp("micro")
    sources = micro_sources(folder)
    specialists = "\n".join(
        f"  {name}: {{source: {path}, template: own}}" for name, path in sources.specialists.items()
    )
    data = "\n".join(
        f"  {name}: {{train: [{files['train']}], heldout: [{files['heldout']}], validation_fraction: 0.2}}"
        for name, files in sources.data.items()
        if "train" in files
    )
    file = folder / "micro.yaml"
    file.write_text(RECIPE.format(specialists=specialists, data=data))
    return file


@pytest.fixture
def micro_plan(micro_recipe):
    """Makes a plan over the micro trio, composite items included, for the named tables."""
    from ultrafuser.reproduce import make_plan

    def plan(*tables: str, scale: str = "smoke", seeds: int | None = None):
        composite = micro_recipe.parent / "composite" / "heldout.jsonl"
        made = make_plan(scale, tables, seeds=seeds, recipe=micro_recipe)
        return made.model_copy(update={"extra": {"composite": [str(composite)]}})

    return plan
