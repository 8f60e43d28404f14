"""Hub models, with the Hub's client replaced: what is asked for, and what is said when it does not answer."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ultrafuser.preflight import check
from ultrafuser.recipe import Recipe

COMMIT = "a" * 40


def answer() -> Any:
    return SimpleNamespace(headers={}, request=None)


class ConnectError(Exception):
    """Stands for whatever the client's HTTP library raises."""


@pytest.fixture
def hub_recipe(make_recipe: Callable[..., Recipe]) -> Recipe:
    return make_recipe(
        specialists={"text": {"source": "models/text"}, "code": {"source": "owner/name", "revision": "main"}}
    )


def test_small_files_and_headers_are_read_and_no_weights(
    hub_recipe: Recipe, make_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ultrafuser.safetensors_files import read_folder

    snapshot = make_model(tmp_path / "cache" / COMMIT)
    tensors = read_folder(snapshot)
    (snapshot / "model.safetensors").unlink()
    asked: dict[str, Any] = {}

    def download(repository: str, **options: Any) -> str:
        asked.update(options, repository=repository)
        return str(snapshot)

    def headers(repository: str, *, revision: str) -> Any:
        found = {name: SimpleNamespace(dtype=t.dtype, shape=list(t.shape)) for name, t in tensors.items()}
        return SimpleNamespace(files_metadata={"model.safetensors": SimpleNamespace(tensors=found)})

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setattr("huggingface_hub.get_safetensors_metadata", headers)
    report = check(hub_recipe)
    assert [str(f) for f in report.findings if f.level != "ok"] == []
    assert report.specialists["code"]["commit"] == COMMIT
    assert report.specialists["code"]["parameters"] == report.specialists["text"]["parameters"]
    assert (asked["repository"], asked["revision"]) == ("owner/name", "main")
    assert asked["etag_timeout"] <= 5
    assert not any(
        pattern.endswith(("safetensors", "bin", "*")) for pattern in asked["allow_patterns"] if "LICEN" not in pattern
    )


def test_headers_that_cannot_be_had_are_a_warning(
    hub_recipe: Recipe, make_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = make_model(tmp_path / "cache" / COMMIT)
    (snapshot / "model.safetensors").unlink()

    def fail(*_: Any, **__: Any) -> None:
        raise ConnectError("slow")

    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(snapshot))
    monkeypatch.setattr("huggingface_hub.get_safetensors_metadata", fail)
    report = check(hub_recipe)
    assert report.ok
    assert "headers cannot be read from the Hub (ConnectError)" in report.warnings[0].message


@pytest.mark.parametrize(
    ("error", "message", "fix"),
    [
        (RepositoryNotFoundError("x", response=answer()), "the Hub has no model 'owner/name'", "correct the id"),
        (RevisionNotFoundError("x", response=answer()), "no revision 'main'", "give a branch, tag or commit"),
        (GatedRepoError("x", response=answer()), "is gated", "accept its terms"),
        (LocalEntryNotFoundError("Got: no route\nmore"), "the Hub cannot be reached (no route)", "go online"),
        (ConnectError("refused"), "the Hub cannot be reached (refused)", "give a local folder"),
        (LocalEntryNotFoundError("x outgoing traffic has been disabled"), "(HF_HUB_OFFLINE is set)", "go online"),
    ],
)
def test_a_hub_that_says_no_is_quoted(
    hub_recipe: Recipe, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str, fix: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    (finding,) = check(hub_recipe).errors
    assert finding.field == "specialists.code.source"
    assert message in finding.message
    assert fix in finding.fix
