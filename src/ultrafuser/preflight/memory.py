"""How much memory and disk each stage needs, estimated, against what the machine has. No torch: files and nvidia-smi.

Bytes per parameter: weights that stand still count as stored; weights that learn are kept in float32 with their
gradient and the two moments of Adam, 16 bytes together. Activations are counted per token and layer as
4 x inner size + 12 x hidden size elements (after Korthikanti et al., 2022, section 4, for gated feed-forward blocks);
a stage that trains only the gate keeps no graph of the specialists and needs those of one layer at a time. Measured on
a CPU (three Llamas of 10 to 14 million parameters, five settings), the process peaked at 0.89 to 1.02 of the estimate.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ultrafuser.preflight.facts import Facts
from ultrafuser.preflight.findings import Report
from ultrafuser.recipe import Recipe, StageConfig

GIB = 2**30
WIDTH = {"float32": 4, "float64": 8, "bfloat16": 2, "float16": 2}
LEARNING = 16  # bytes per parameter that learns: float32 weight, gradient, two moments
QUANTISED = {"int8": 1.02, "int4": 0.56}  # bytes per weight of a linear layer, scales included
PROCESS = 0.6 * GIB  # Python, PyTorch and Transformers themselves
EVIDENCE = 4  # numbers that an evidence gate reads beside each hidden state
LOGIT_BYTES = 256 * 2**20  # fused logits of one chunk; beyond that the loss is computed in pieces
LOGIT_COPIES = {False: 3, True: 6}  # temporaries of that size when the specialists stand still, and when they learn


@dataclass(frozen=True)
class Device:
    """Where the run takes place and what is free there, in bytes; None where that cannot be read."""

    name: str
    total: int | None
    free: int | None


def find_device(wanted: str) -> Device:
    """The device that a recipe's `device` means on this machine."""
    if wanted in ("mps",) or wanted.startswith("xpu"):
        return Device(wanted, None, None)
    cards = _cuda_cards()
    if wanted == "cpu" or (wanted == "auto" and not cards):
        total, free = _main_memory()
        return Device("cpu", total, free)
    index = int(wanted.partition(":")[2] or 0)
    if index < len(cards):
        total, free = cards[index]
        return Device(f"cuda:{index}", total, free)
    return Device(wanted, None, None)


def _cuda_cards() -> list[tuple[int, int]]:
    """Total and free bytes of each NVIDIA card, by nvidia-smi; empty without one."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=memory.total,memory.free", "--format=csv,noheader,nounits"]
    try:
        text = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
        rows = [line.split(",") for line in text.splitlines() if line.strip()]
        return [(int(total) * 2**20, int(free) * 2**20) for total, free in rows]
    except (OSError, subprocess.SubprocessError, ValueError):
        return []


def _main_memory() -> tuple[int | None, int | None]:
    """Total and available main memory in bytes, a container's limit included."""
    total = free = None
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        values = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
        total, free = values["MemTotal"], values["MemAvailable"]
    except (OSError, KeyError, ValueError, IndexError):
        try:
            total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (ValueError, OSError, AttributeError):
            return None, None
    for limit_file, used_file in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            limit = int(Path(limit_file).read_text())
            used = int(Path(used_file).read_text())
        except (OSError, ValueError):
            continue
        total = min(total, limit)
        free = min(free if free is not None else limit, max(0, limit - used))
    return total, free


def gate_parameters(kind: str, hidden_size: int, facts: Sequence[Facts], projection_size: int | None = None) -> int:
    """Parameters of the gate (Ding et al., ACL 2025, equation 1, for `token`)."""
    n = len(facts)
    sizes = [one.hidden_size for one in facts]
    if kind == "constant":
        return n
    if kind == "answer":
        return (sum(sizes) + 1) * n
    shared = kind in ("token", "evidence")
    width, outputs = (projection_size or min(sizes), 1) if shared else (sum(sizes), n)
    projections = sum(size * width for size in sizes if size != width) if shared else 0
    inputs = width + (EVIDENCE if kind == "evidence" else 0)
    return inputs * hidden_size + hidden_size + hidden_size * outputs + projections


def _gate_of(recipe: Recipe, facts: Sequence[Facts]) -> int:
    return gate_parameters(recipe.gate.type, recipe.gate.hidden_size, facts, recipe.gate.projection_size)


def sharing(facts: Sequence[Facts]) -> list[list[Facts]]:
    """The specialists by copies of weights in memory: adapters on one base, and that base alone, share one."""
    bases = {one.place for one in facts if one.adapter is not None}
    groups: dict[object, list[Facts]] = {}
    for one in facts:
        groups.setdefault(one.place if one.place in bases else one.name, []).append(one)
    return list(groups.values())


def stage_memory(
    recipe: Recipe,
    stage: StageConfig,
    facts: Sequence[Facts],
    tokens: int,
    *,
    here: Sequence[Facts] | None = None,
    gate: bool = True,
) -> dict[str, int]:
    """Bytes that one stage needs, by kind; `tokens` is the longest sequence.

    Of several devices, the one where the specialists `here` lie; `gate` says whether gate and fused logits do too.
    """
    learns = stage.train in ("all", "specialists")
    micro = len(recipe.data) * stage.examples_per_category // stage.accumulation
    parts = _specialists_memory(recipe, stage, facts if here is None else here, micro * tokens, learns)
    if gate:
        parts = _with_gate(recipe, parts, facts, micro * tokens, learns)
    return {**parts, "total": sum(parts.values()), "examples_at_once": micro}


def _specialists_memory(
    recipe: Recipe, stage: StageConfig, facts: Sequence[Facts], seen: int, learns: bool
) -> dict[str, int]:
    weights = optimiser = activations = passing = 0
    for group in sharing(facts):
        base, adapters = group[0], [one.adapter for one in group if one.adapter is not None]
        whole = learns and not adapters  # every weight learns, not the adapters alone
        number = 4 if whole else width_of(recipe, base)
        weights += 4 * (base.parameters or 0) if whole else held_bytes(recipe, group) or 0
        small = sum(adapter.parameters for adapter in adapters)
        weights += small * (4 if learns else number)
        optimiser += (LEARNING - 4) * (((base.parameters or 0) if whole else small) if learns else 0)
        layer = len(group) * seen * (4 * base.inner_size + 12 * base.hidden_size) * number
        kept = len(group) * seen * base.hidden_size * number  # the last hidden states, until the head has read them
        passing = max(passing, layer)
        if learns:
            activations += base.layers * (kept if stage.gradient_checkpointing else layer)
        activations += kept
    if not learns or stage.gradient_checkpointing:
        activations += passing
    return {"weights": weights, "optimiser": optimiser, "activations": activations}


def _with_gate(
    recipe: Recipe, parts: dict[str, int], facts: Sequence[Facts], seen: int, learns: bool
) -> dict[str, int]:
    """`parts` and what the gate and the fused logits of all specialists need."""
    logits = LOGIT_COPIES[learns] * min(LOGIT_BYTES, seen * max(one.vocab_rows for one in facts) * 4)
    gate = _gate_of(recipe, facts) * LEARNING
    return {**parts, "optimiser": parts["optimiser"] + gate, "activations": parts["activations"] + logits}


def answering_memory(recipe: Recipe, facts: Sequence[Facts]) -> dict[str, int]:
    """Bytes for answering: the weights, and the keys and values that each token leaves behind."""
    weights = 0
    for group in sharing(facts):
        small = sum(one.adapter.parameters for one in group if one.adapter is not None)
        weights += (held_bytes(recipe, group) or 0) + small * width_of(recipe, group[0])
    return {"weights": weights, "per_token": sum(one.cache_width * width_of(recipe, one) for one in facts)}


def held_bytes(recipe: Recipe, group: Sequence[Facts]) -> int | None:
    """Bytes of the weights that a group of `sharing` has in common, as the recipe loads them; None where not known."""
    one = group[0]
    if one.parameters is None:
        return None
    kind = _given(recipe, group, "quantisation")
    packed = (one.linear or 0) if kind is not None else 0
    return (one.parameters - packed) * width_of(recipe, one) + int(packed * QUANTISED.get(kind or "", 0))


def _given(recipe: Recipe, group: Sequence[Facts], key: str) -> str | None:
    """What any specialist of a group is given, which holds for all of them."""
    return next((value for one in group if (value := getattr(recipe.specialists[one.name], key)) is not None), None)


def width_of(recipe: Recipe, one: Facts) -> int:
    """Bytes of one weight of a specialist, as the recipe loads it."""
    return WIDTH.get(number_format(recipe, one), 4)


def number_format(recipe: Recipe, one: Facts) -> str:
    """The number format that a specialist is loaded in."""
    wanted = recipe.specialists[one.name].dtype or recipe.dtype
    return one.dtype if wanted == "auto" else wanted


def check_memory(recipe: Recipe, facts: Sequence[Facts], longest: int | None, report: Report) -> None:
    """Notes whether every stage fits, on every device that specialists lie on; fills `report.memory`."""
    main = _present(recipe.device, "device", report)
    homes: dict[str, tuple[Device, list[Facts]]] = {main.name: (main, [])}
    for group in sharing(facts):
        own = _given(recipe, group, "device")
        home = main if own is None else _present(own, f"specialists.{group[0].name}.device", report)
        homes.setdefault(home.name, (home, []))[1].extend(group)
    tokens = longest or recipe.max_length
    report.memory = {
        "device": main.name,
        "total_bytes": main.total,
        "free_bytes": main.free,
        "longest_tokens": tokens,
        "stages": {},
    }
    unknown = [one.name for one in facts if one.parameters is None]
    if unknown:
        report.add("warning", "stages", f"memory not estimated: the size of {', '.join(unknown)} is not known")
        return
    for i, stage in enumerate(recipe.stages):
        report.memory["stages"][stage.name] = stage_memory(recipe, stage, facts, tokens)
        for home, there in homes.values():
            need = stage_memory(recipe, stage, facts, tokens, here=there, gate=home is main)
            _compare(f"stages[{i}]", stage, need, home, report)
    report.memory["answering"] = answering_memory(recipe, facts)


def _present(wanted: str, field: str, report: Report) -> Device:
    device = find_device(wanted)
    if wanted.startswith("cuda") and device.total is None:
        report.add("error", field, f"{wanted!r} is not on this machine (asked nvidia-smi)", "use auto or cpu")
    return device


def _compare(field: str, stage: StageConfig, need: dict[str, int], device: Device, report: Report) -> None:
    whole = need["total"] + (PROCESS if device.name == "cpu" else 0)
    certain = need["weights"] + need["optimiser"]
    what = f"stage {stage.name} needs about {gib(whole)} ({gib(certain)} for weights and optimiser)"
    if device.total is None:
        report.add("ok", field, f"{what}; what {device.name} has cannot be read here")
    elif certain > device.total:
        fix = "train the gate alone (train: gate)" if stage.train != "gate" else "use dtype: bfloat16"
        report.add(
            "error", field, f"{what}, {device.name} has {gib(device.total)} in all", f"{fix}, or a larger machine"
        )
    elif device.free is not None and whole > device.free:
        report.add("warning", field, f"{what}, {device.name} has {gib(device.free)} free", _smaller(stage))
    else:
        free = device.total if device.free is None else device.free
        report.add("ok", field, f"{what}; {device.name} has {gib(free)} free")


def _smaller(stage: StageConfig) -> str:
    """What makes a stage need less."""
    larger = [
        d
        for d in range(stage.accumulation + 1, stage.examples_per_category + 1)
        if stage.examples_per_category % d == 0
    ]
    advice = [f"accumulation: {larger[min(1, len(larger) - 1)]}"] if larger else []
    if not stage.gradient_checkpointing and stage.train != "gate":
        advice.append("gradient_checkpointing: true")
    return f"try {' and '.join(advice)}" if advice else "try a smaller max_length"


def gib(n_bytes: float) -> str:
    """Bytes for a person."""
    return f"{n_bytes / GIB:.1f} GiB" if n_bytes >= 0.1 * GIB else f"{n_bytes / 2**20:.0f} MiB"


def disk_needed(recipe: Recipe, facts: Sequence[Facts]) -> dict[str, int]:
    """Bytes on disk: the fused model; two checkpoints of what learns, a third while it is written, the best weights."""
    learns = sum(
        one.adapter.parameters if one.adapter is not None else one.parameters or 0
        for group in sharing(facts)
        for one in group
        if one.adapter is not None or len(group) == 1  # the base of adapters stands still
    )
    model = answering_memory(recipe, facts)["weights"]
    learning = any(stage.train != "gate" for stage in recipe.stages)
    per_parameter = 3 * (LEARNING - 4) + 4
    checkpoints = per_parameter * learns if learning else 0
    gate = 4 * _gate_of(recipe, facts)
    return {"model": model + gate, "checkpoints": checkpoints + (10 * gate if recipe.stages else 0)}
