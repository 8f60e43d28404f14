"""A saved tiny fused model and a way to run the command line in this process."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner


@pytest.fixture(scope="session")
def fused_folder(specialist_folders, chat_templates, tiny_tokenizer, tmp_path_factory) -> Path:
    """Folder of a fused model (text, code, math), untrained but decided gate, that never stops by itself. Read only."""
    import torch

    from ultrafuser.modeling import UltraFuserForCausalLM, save_fused

    model = UltraFuserForCausalLM.from_specialists(specialist_folders, templates=chat_templates, seed=3)
    with torch.no_grad():
        model.gate.outer.weight.mul_(20)
    model.generation_config.suppress_tokens = [1]
    folder = tmp_path_factory.mktemp("fused") / "model"
    save_fused(model, tiny_tokenizer, folder)
    return folder


@pytest.fixture
def run(monkeypatch) -> Callable:
    """`run(*args, input=None) -> result` with exit_code, stdout, stderr; `output` is both."""
    from ultrafuser.cli import build_app

    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    assert "ULTRAFUSER_DEBUG" not in os.environ

    def call(*args, **options):
        return CliRunner().invoke(build_app(), [str(arg) for arg in args], prog_name="ultrafuser", **options)

    return call
