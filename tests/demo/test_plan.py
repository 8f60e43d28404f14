import json

import pytest

from ultrafuser.demo.plan import DemoPlan, DemoSources, make_plan, open_folder, recipe


@pytest.fixture
def sources(tmp_path) -> DemoSources:
    data = {}
    for domain in ("text", "code", "math", "composite"):
        file = tmp_path / f"{domain}.jsonl"
        file.write_text(domain)
        data[domain] = {"train": str(file), "heldout": str(file)}
    specialists = {}
    for name in ("text", "code", "math"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(name.encode())
        specialists[name] = str(folder)
    return DemoSources(specialists=specialists, data=data)


def test_same_plan_is_taken_up_again(tmp_path, sources) -> None:
    folder = tmp_path / "runs" / "demo"
    open_folder(folder, DemoPlan(), sources, overwrite=False)
    (folder / "parts").mkdir()
    open_folder(folder, DemoPlan(), sources, overwrite=False)
    assert (folder / "parts").is_dir()


def test_another_seed_is_refused_and_named(tmp_path, sources) -> None:
    folder = tmp_path / "demo"
    open_folder(folder, DemoPlan(), sources, overwrite=False)
    with pytest.raises(ValueError, match="seed 0 instead of 3; give --overwrite"):
        open_folder(folder, DemoPlan(seed=3), sources, overwrite=False)


def test_other_weights_are_refused(tmp_path, sources) -> None:
    folder = tmp_path / "demo"
    open_folder(folder, DemoPlan(), sources, overwrite=False)
    (tmp_path / "code" / "model.safetensors").write_bytes(b"other")
    with pytest.raises(ValueError, match="other specialists, data"):
        open_folder(folder, DemoPlan(), sources, overwrite=False)


def test_overwrite_removes_only_what_is_the_demos(tmp_path, sources) -> None:
    folder = tmp_path / "demo"
    open_folder(folder, DemoPlan(), sources, overwrite=False)
    for name in ("result.json", "report.html", "notes.txt"):
        (folder / name).write_text("x")
    (folder / "fused").mkdir()
    open_folder(folder, DemoPlan(seed=1), sources, overwrite=True)
    assert sorted(path.name for path in folder.iterdir()) == ["notes.txt", "plan.json"]
    assert json.loads((folder / "plan.json").read_text())["plan"]["seed"] == 1


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_someone_else_is_left_alone(tmp_path, sources, overwrite) -> None:
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter.tex").write_text("x")
    with pytest.raises(ValueError, match="none of an earlier demo"):
        open_folder(folder, DemoPlan(), sources, overwrite=overwrite)
    assert (folder / "chapter.tex").read_text() == "x"


def test_a_file_in_the_way_is_named(tmp_path, sources) -> None:
    (tmp_path / "demo").write_text("x")
    with pytest.raises(ValueError, match="is a file"):
        open_folder(tmp_path / "demo", DemoPlan(), sources, overwrite=False)


def test_missing_file_or_specialist_is_named(tmp_path, sources) -> None:
    del sources.data["math"]["heldout"]
    with pytest.raises(ValueError, match=r"data\.math\.heldout"):
        open_folder(tmp_path / "demo", DemoPlan(), sources, overwrite=False)
    sources.specialists = {"text": "a", "prose": "b", "math": "c"}
    with pytest.raises(ValueError, match="code"):
        open_folder(tmp_path / "demo", DemoPlan(), sources, overwrite=False)


def test_rivals_get_the_same_steps_examples_and_rate() -> None:
    plan = make_plan(0)
    full, other = plan.full_stage(), plan.specialists_stage("uniform")
    assert (full.train, other.train) == ("all", "specialists")
    changes = {"name": "x", "train": "all"}
    assert full.model_copy(update=changes) == other.model_copy(update=changes)


def test_fast_takes_fewer_steps_and_nothing_else() -> None:
    slow, fast = make_plan(2).model_dump(), make_plan(2, fast=True).model_dump()
    assert {key for key in slow if slow[key] != fast[key]} == {"fast", "gate_steps", "full_steps"}
    assert fast["full_steps"] < slow["full_steps"]


def test_recipe_of_the_demo_is_an_ordinary_recipe() -> None:
    made = recipe(make_plan(0))
    assert [stage.train for stage in made.stages] == ["gate", "all"]
    assert "zoo:text" in made.dump_yaml()
