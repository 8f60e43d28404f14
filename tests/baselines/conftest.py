"""A recipe of three tiny specialists on made-up data, the setting it gives, and a way to change both."""

import json
import random
import shutil
from pathlib import Path

import pytest

DOMAINS = ("text", "code", "math")
COMMON = {"steps": 3, "examples_per_category": 2, "eval_every": 2, "save_every": 1, "logging_steps": 1}


def write_talks(file: Path, domain: str, count: int, seed: int) -> str:
    """Conversations of made-up words, of different lengths."""
    draw = random.Random(f"{domain}{seed}")
    words = [f"{domain}{i}" for i in range(30)]
    lines = []
    for i in range(count):
        question, answer = (" ".join(draw.choices(words, k=draw.randint(1, 6))) for _ in range(2))
        lines.append(json.dumps({"id": f"{domain}{seed}-{i}", "question": question, "answer": answer}))
    file.write_text("\n".join(lines) + "\n")
    return str(file)


@pytest.fixture(scope="session")
def base_folder(make_specialist_folder, tmp_path_factory) -> Path:
    """A model of the specialists' shapes that stands for their common base; its tokenizer has no template."""
    return make_specialist_folder(tmp_path_factory.mktemp("base") / "base", 9)


@pytest.fixture(scope="session")
def kin_folders(base_folder, make_specialist_folder, chat_templates, tmp_path_factory) -> dict[str, Path]:
    """Three specialists a small step away from `base_folder`, as fine-tuned models are; untied like it. Read only."""
    import torch
    from transformers import AutoModelForCausalLM

    root, found = tmp_path_factory.mktemp("kin"), {}
    for seed, name in enumerate(DOMAINS):
        folder = make_specialist_folder(root / name, 9, template=chat_templates[name])
        model = AutoModelForCausalLM.from_pretrained(base_folder)
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        model.save_pretrained(folder)
        found[name] = folder
    return found


@pytest.fixture(scope="session")
def talk_files(tmp_path_factory) -> dict[str, dict[str, str]]:
    """Files by domain: 10 conversations to train on, 4 held out."""
    folder = tmp_path_factory.mktemp("talks")
    return {
        domain: {
            "train": write_talks(folder / f"{domain}.jsonl", domain, 10, 0),
            "heldout": write_talks(folder / f"{domain}-heldout.jsonl", domain, 4, 1),
        }
        for domain in DOMAINS
    }


@pytest.fixture
def make_recipe(kin_folders, talk_files):
    """`make_recipe(**changes) -> Recipe` of a gate stage and a full stage."""
    from ultrafuser.recipe import Recipe

    def make(**changes):
        given = {
            "name": "tiny",
            "specialists": {name: {"source": str(folder)} for name, folder in kin_folders.items()},
            "data": {
                domain: {"train": [f["train"]], "heldout": [f["heldout"]], "validation_fraction": 0.2}
                for domain, f in talk_files.items()
            },
            "max_length": 200,
            "stages": [
                {"name": "gate", "train": "gate", "learning_rate": 0.01, **COMMON},
                {"name": "all", "train": "all", "learning_rate": 0.003, **COMMON},
            ],
            "device": "cpu",
        }
        return Recipe(**(given | changes))

    return make


@pytest.fixture
def make_setting(make_recipe, base_folder, tmp_path):
    """`make_setting(variant="", folder=None, base=..., recipe=None, **options) -> Setting`."""
    from ultrafuser.baselines import Setting

    def make(variant="", *, folder=None, base=base_folder, recipe=None, **options):
        place = tmp_path / "made" if folder is None else folder
        return Setting.from_recipe(recipe or make_recipe(), place, variant=variant, base=base, **options)

    return make


@pytest.fixture
def weights_in():
    """`weights_in(folder)`: every tensor of a model folder by name."""
    from safetensors.torch import load_file

    def read(folder):
        return {k: v for file in sorted(Path(folder).glob("*.safetensors")) for k, v in load_file(file).items()}

    return read


@pytest.fixture
def copy_folder(tmp_path):
    """`copy_folder(source, name) -> folder`: one that a test may spoil."""

    def copy(source, name):
        return Path(shutil.copytree(source, tmp_path / name))

    return copy
