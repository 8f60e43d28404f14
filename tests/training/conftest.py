"""Makes `tiny_runs` importable under pytest's importlib mode; small encoded data sets."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def train_data(chat_templates, tiny_tokenizer):
    from tiny_runs import dataset

    return dataset(chat_templates.values(), tiny_tokenizer, 0)


@pytest.fixture(scope="session")
def validation_data(chat_templates, tiny_tokenizer):
    from tiny_runs import dataset

    return dataset(chat_templates.values(), tiny_tokenizer, 1, text=3, code=2, math=4)


@pytest.fixture
def weights_of():
    """`weights_of(model)`: a copy of every parameter by name."""

    def copy(model):
        return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    return copy


@pytest.fixture
def run(tiny_tokenizer, train_data, validation_data, tmp_path):
    """`run(model, *stages, **options) -> TrainingResult`, in a fresh folder unless told otherwise."""
    from ultrafuser.training import run_stages

    def start(model, *stages, output=None, train=train_data, validation=validation_data, seed=0, **options):
        options = {"tensorboard": False} | options
        folder = tmp_path / "run" if output is None else output
        return run_stages(model, tiny_tokenizer, list(stages), train, validation, folder, seed=seed, **options)

    return start
