"""Merges of weights: against loops in float64, a case worked by hand, and mergekit where the two must coincide."""

import json
import weakref

import pytest
import torch
from safetensors.torch import load_file, save_file

from ultrafuser.baselines import merging
from ultrafuser.baselines.mergekit_runs import run_mergekit


def tiny(folder, tensors, kind="LlamaForCausalLM"):
    """A folder of these tensors that looks like a model's to a merge."""
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"architectures": [kind], "model_type": "llama"}))
    return folder


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def test_average_is_the_mean_computed_in_float64(kin_folders, weights_in, out):
    from transformers import AutoModelForCausalLM

    merging.average(list(kin_folders.values()), out)
    found, given = weights_in(out), [weights_in(folder) for folder in kin_folders.values()]
    assert found.keys() == given[0].keys()
    for name, tensor in found.items():
        wanted = sum(weights[name].double() for weights in given) / len(given)
        assert torch.allclose(tensor.double(), wanted, rtol=1e-6, atol=1e-7)
    assert AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)[1]["missing_keys"] == set()


def test_task_arithmetic_by_hand(tmp_path, out):
    base = tiny(tmp_path / "base", {"w": torch.tensor([1.0, 2.0, -1.0]), "n": torch.tensor([7])})
    one = tiny(tmp_path / "one", {"w": torch.tensor([2.0, 2.0, -3.0]), "n": torch.tensor([7])})
    two = tiny(tmp_path / "two", {"w": torch.tensor([1.0, 6.0, 0.0]), "n": torch.tensor([7])})
    merging.task_arithmetic(base, [one, two], out, 0.5)
    # differences (1, 0, -2) and (0, 4, 1), their sum (1, 4, -1), half of it on the base
    assert load_file(out / "model.safetensors")["w"].tolist() == [1.5, 4.0, -1.5]
    assert load_file(out / "model.safetensors")["n"].tolist() == [7]


def test_task_arithmetic_at_one_over_n_is_the_average(kin_folders, base_folder, weights_in, tmp_path):
    folders = list(kin_folders.values())
    for name in ("sum", "mean"):
        (tmp_path / name).mkdir()
    merging.task_arithmetic(base_folder, folders, tmp_path / "sum", 1 / 3)
    merging.average(folders, tmp_path / "mean")
    ours, mean = weights_in(tmp_path / "sum"), weights_in(tmp_path / "mean")
    assert all(torch.allclose(ours[name], mean[name], atol=1e-6) for name in mean)


def test_formats_meet_in_the_widest_or_the_one_asked_for(tmp_path):
    half = tiny(tmp_path / "half", {"w": torch.tensor([1.0, 2.0]).bfloat16()})
    full = tiny(tmp_path / "full", {"w": torch.tensor([1.001, 3.0])})
    found = {}
    for dtype in (None, "bfloat16"):
        place = tmp_path / str(dtype)
        place.mkdir()
        merging.average([half, full], place, dtype=dtype)
        found[dtype] = load_file(place / "model.safetensors")["w"]
        assert json.loads((place / "config.json").read_text())["dtype"] == (dtype or "float32")
    assert found[None].tolist() == pytest.approx([1.0005, 2.5], abs=1e-7)
    assert found["bfloat16"].dtype == torch.bfloat16


def test_it_streams_and_cuts_into_shards_that_load(kin_folders, out):
    """No tensor of an earlier step is alive at a later one; no file is larger than asked, or holds one tensor alone."""
    from transformers import AutoModelForCausalLM

    seen = []

    def watched(tensors):
        assert all(reference() is None for reference in seen[:-1])  # the last result may wait for its file
        total = torch.stack([tensor.clone() for tensor in tensors]).mean(0)
        seen.append(weakref.ref(total))
        return total.clone()

    folders = list(kin_folders.values())
    merging.merge_folders(folders, out, watched, shard_bytes=20_000)
    files = sorted(out.glob("model-*.safetensors"))
    assert len(files) > 2
    for file in files:
        tensors = load_file(file)
        assert sum(tensor.nbytes for tensor in tensors.values()) <= 20_000 or len(tensors) == 1
    merged, report = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not report["missing_keys"]
    again = AutoModelForCausalLM.from_pretrained(folders[0])
    assert merged.config.hidden_size == again.config.hidden_size


def test_bin_files_merge_as_safetensors_do(kin_folders, copy_folder, weights_in, tmp_path):
    folders = list(kin_folders.values())
    pickled = copy_folder(folders[1], "pickled")
    torch.save(weights_in(pickled), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    for name, second in (("a", folders[1]), ("b", pickled)):
        (tmp_path / name).mkdir()
        merging.average([folders[0], second], tmp_path / name)
    a, b = weights_in(tmp_path / "a"), weights_in(tmp_path / "b")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_what_differs_is_refused_by_the_name_of_the_tensor(tmp_path, out):
    first = tiny(tmp_path / "first", {"a": torch.ones(2), "b": torch.ones(3)})
    cases = [
        (tiny(tmp_path / "shape", {"a": torch.ones(2), "b": torch.ones(4)}), r"shape: b has the shape \(4,\), in"),
        (tiny(tmp_path / "less", {"a": torch.ones(2)}), "less has no tensor b, which .*first has"),
        (tiny(tmp_path / "more", {n: torch.ones((n == "b" and 3) or 2) for n in "abc"}), "first has no tensor c"),
        (tiny(tmp_path / "kind", {"a": torch.ones(2), "b": torch.ones(3)}, "GPT2LMHeadModel"), "is a GPT2LMHeadModel"),
        (tmp_path / "nothing", "nothing has no config.json"),
    ]
    for other, message in cases:
        with pytest.raises(ValueError, match=message):
            merging.average([first, other], out)
    counts = [tiny(tmp_path / f"count{i}", {"n": torch.tensor([i])}) for i in range(2)]
    with pytest.raises(ValueError, match="count1: n holds whole numbers that differ"):
        merging.average(counts, out)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("linear", {}),
        ("task_arithmetic", {"scale": 0.4}),
        ("dare_linear", {"scale": 0.4, "density": 1.0}),
    ],
)
def test_mergekit_coincides_with_ours(kin_folders, base_folder, weights_in, tmp_path, method, options):
    """linear is the average; task arithmetic is task arithmetic; DARE that drops nothing is task arithmetic too."""
    pytest.importorskip("mergekit")
    folders, theirs, ours = list(kin_folders.values()), tmp_path / "theirs", tmp_path / "ours"
    ours.mkdir()
    run_mergekit(method, folders, theirs, base=base_folder if options else None, **options)
    if options:
        merging.task_arithmetic(base_folder, folders, ours, 0.4)
    else:
        merging.average(folders, ours)
    found, wanted = weights_in(theirs), weights_in(ours)
    assert found.keys() == wanted.keys()
    assert all(torch.allclose(found[name], wanted[name], atol=1e-6) for name in wanted)


@pytest.fixture
def upward(make_specialist_folder, tmp_path):
    """A base and two models all of whose differences from it point the same way, those of the second twice as far."""
    from transformers import AutoModelForCausalLM

    base, folders = make_specialist_folder(tmp_path / "base", 5), []
    for i in range(2):
        model = AutoModelForCausalLM.from_pretrained(base)
        torch.manual_seed(i)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01 + (1 + i) * torch.rand_like(parameter))
        folders.append(tmp_path / f"up{i}")
        model.save_pretrained(folders[-1])
    return base, folders


def test_ties_that_trims_nothing_and_disputes_nothing_is_the_average(upward, weights_in, tmp_path, out):
    """Where all differences point the same way, the mean of those that agree with the majority is the mean of all."""
    pytest.importorskip("mergekit")
    base, folders = upward
    run_mergekit("ties", folders, tmp_path / "theirs", base=base)
    merging.average(folders, out)
    found, wanted = weights_in(tmp_path / "theirs"), weights_in(out)
    assert all(torch.allclose(found[name], wanted[name], atol=1e-6) for name in wanted)


def test_varm_worked_by_hand_on_two_matrices(tmp_path, weights_in, out):
    """a: changes 1 and 3 everywhere, squares 1 : 9; b: one model left it as it was; c: nobody changed it."""
    zero, one_place, c = torch.zeros(2, 2), torch.tensor([[0.0, 4.0], [0.0, 0.0]]), torch.full((3,), 7.0)
    pivot = tiny(tmp_path / "pivot", {"a": zero, "b": zero.clone(), "c": c})
    one = tiny(tmp_path / "one", {"a": zero + 1, "b": zero.clone(), "c": c.clone()})
    two = tiny(tmp_path / "two", {"a": zero - 3, "b": one_place, "c": c.clone()})
    merging.variation(pivot, [one, two], out)
    found = weights_in(out)
    assert torch.allclose(found["a"], torch.full((2, 2), 0.1 * 1 + 0.9 * -3))
    assert torch.equal(found["b"], one_place)
    assert torch.equal(found["c"], c)


def test_sce_that_selects_all_and_erases_nothing_is_varm(upward, weights_in, tmp_path, out):
    """Where all differences point the same way, base + sum_j W_j (x_j - base) = sum_j W_j x_j."""
    pytest.importorskip("mergekit")
    base, folders = upward
    run_mergekit("sce", folders, tmp_path / "theirs", base=base, select=1.0)
    merging.variation(base, folders, out)
    found, wanted = weights_in(tmp_path / "theirs"), weights_in(out)
    assert found.keys() == wanted.keys()
    assert all(torch.allclose(found[name], wanted[name], atol=1e-5) for name in wanted)


def test_sce_takes_the_share_that_it_is_asked_for(upward, weights_in, tmp_path):
    pytest.importorskip("mergekit")
    base, folders = upward
    run_mergekit("sce", folders, tmp_path / "theirs", base=base, select=0.1)
    name = "model.layers.0.mlp.up_proj.weight"
    changed = weights_in(tmp_path / "theirs")[name] != weights_in(base)[name]
    assert changed.float().mean() == pytest.approx(0.1, abs=0.01)


def test_dare_draws_from_its_seed_and_leaves_the_callers_generator(kin_folders, base_folder, weights_in, tmp_path):
    pytest.importorskip("mergekit")
    folders, found = list(kin_folders.values()), []
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    for i, seed in enumerate((0, 0, 1)):
        run_mergekit("dare_linear", folders, tmp_path / str(i), base=base_folder, density=0.5, seed=seed)
        found.append(weights_in(tmp_path / str(i)))
    assert torch.equal(before, torch.random.get_rng_state())
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(found[0][name], found[1][name])
    assert not torch.equal(found[0][name], found[2][name])
