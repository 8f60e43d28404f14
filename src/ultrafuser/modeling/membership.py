"""Adding a specialist to a fused model, and taking one away."""

import copy
import warnings
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel

from ultrafuser.adapter_files import find_base
from ultrafuser.hashing import content_hash
from ultrafuser.modeling import assemble
from ultrafuser.modeling.adapter_folders import adapter_of, base_hash, read_matrices
from ultrafuser.modeling.adapters import Adapter, SharedSpecialist, bare, share
from ultrafuser.modeling.gate import ConstantGate, TokenGate
from ultrafuser.modeling.manner import Manner
from ultrafuser.modeling.specialists import describe, resolve
from ultrafuser.modeling.vocabulary import align_specialists, common_vocabulary, tokenizer_of, vocabularies
from ultrafuser.tokens import Alignment

if TYPE_CHECKING:
    from ultrafuser.modeling.configuration import UltraFuserConfig
    from ultrafuser.modeling.model import UltraFuserForCausalLM

_LISTS = ("specialists", "specialist_names", "templates", "sources")


def add_specialist(
    model: "UltraFuserForCausalLM",
    name: str,
    source: assemble.Source,
    template: str | None = None,
    *,
    revision: str | None = None,
    base: assemble.Source | None = None,
    base_revision: str | None = None,
) -> "UltraFuserForCausalLM":
    """A new fused model with one more specialist, sharing the old one's specialists (not copies).

    A shared gate is kept as it is and serves the larger set, a newcomer of another width through an untrained
    projection, with a warning; a constant gate gives the newcomer the mean logit; a joint gate is drawn anew from its
    seed and counts as untrained. An adapter (`base`: where its base lies, if not where it says) whose base is there
    already, by its hash, shares that one. A newcomer with another tokenizer is aligned where probabilities are mixed.
    Raises ValueError for a name in use, another vocabulary elsewhere, or what `open_specialist` refuses.
    """
    if name in model.config.specialist_names:
        raise ValueError(f"specialists.{name}: there is a specialist of this name already; choose another name")
    newcomer, old = _open_newcomer(model, name, source, revision, base, base_revision)
    tokenizer = tokenizer_of(newcomer)
    tokenizers = {} if tokenizer is None else {name: tokenizer}
    config = copy.deepcopy(model.config)
    config.specialists.append(describe(newcomer))
    config.specialist_names.append(name)
    config.templates.extend(assemble.find_templates([name], tokenizers, {name: template}))
    config.sources.append(assemble.provenance(newcomer))
    together = dict(zip(config.specialist_names, [*old, newcomer], strict=True))
    aligned = align_specialists(together, _tokenizers(model) | tokenizers, config.templates, config.fusion["rule"])
    config.vocabularies = vocabularies(aligned)
    if aligned is None:
        _check_rows(model, name, newcomer)
    kept = [*range(model.n_specialists), None]
    result = _rejoin(model, config, kept, old, newcomer, f"{name} added", aligned)
    if name in result.config.projected and model.gate_is_trained:
        width, size = result.config.projected[name], result.config.gate["projection_size"]
        result.config.gate_training["changes"][-1] += f" (its projection for the gate, {width} to {size}, is untrained)"
        warnings.warn(
            f"specialists.{name}: hidden size {width}, so the gate reads it through a new, untrained projection to "
            f"{size}; train the gate again",
            stacklevel=2,
        )
    return result


def _open_newcomer(
    model: "UltraFuserForCausalLM", name: str, source: Any, revision: str | None, base: Any, base_revision: str | None
) -> tuple[Any, list[Any]]:
    """The new specialist and the old ones, in which one that is its base has become a part of a group with it."""
    old = model.specialists
    found = adapter_of(source, revision, f"specialists.{name}")
    if found is not None:
        facts, origin = found
        wanted = facts.base_sha256
        if wanted is None and not isinstance(base, PreTrainedModel):
            place = find_base(facts, base, base_revision, f"specialists.{name}")
            wanted = content_hash(resolve(*place, f"specialists.{name}.base").path)
        for j, entry in enumerate(model.config.sources):
            if wanted is not None and base_hash(old[j], entry) == wanted:
                return _beside(old, j, read_matrices(facts, origin), f"specialists.{name}")
    given = ({} if base is None else {name: base}, {} if base_revision is None else {name: base_revision})
    manner = Manner(dtype=model.dtype, device=model.device)
    return assemble.open_all({name: source}, {} if revision is None else {name: revision}, manner, *given)[name], old


def _beside(old: list[Any], j: int, adapter: Adapter, field: str) -> tuple[Any, list[Any]]:
    """A specialist that shares the base of specialist j, which is or becomes one of a group."""
    module = bare(getattr(old[j], "module", old[j]))
    adapter.check(module, field)
    if not isinstance(old[j], SharedSpecialist):
        old = [*old[:j], share(bare(module), [None])[0], *old[j + 1 :]]
    return share(module, [adapter])[0], old


def _check_rows(model: "UltraFuserForCausalLM", name: str, newcomer: PreTrainedModel) -> None:
    """Raise ValueError where the newcomer's vocabulary has other rows than one that shares the tokenizer could have."""
    vocabulary = model.config.vocab_size
    assert vocabulary is not None
    rows = newcomer.get_output_embeddings().weight.shape[0]
    known = {specialist.get_output_embeddings().weight.shape[0] for specialist in model.specialists}
    if rows < vocabulary or (rows != vocabulary and rows not in known):
        raise ValueError(
            f"specialists.{name}: its vocabulary has {rows} entries, the fused model's {vocabulary}; a new specialist "
            "must share the tokenizer"
        )


def _tokenizers(model: "UltraFuserForCausalLM") -> dict[str, Any]:
    """Every specialist's tokenizer; where all share one, the first that is found, or none."""
    names = model.config.specialist_names
    if model.tokenizers is not None:
        return dict(zip(names, model.tokenizers, strict=True))
    known = (tokenizer_of(specialist) for specialist in model.specialists)
    shared = next((tokenizer for tokenizer in known if tokenizer is not None), None)
    return {} if shared is None else dict.fromkeys(names, shared)


def remove_specialist(model: "UltraFuserForCausalLM", name: str) -> "UltraFuserForCausalLM":
    """A new fused model without `name`, sharing the others. Raises ValueError for an unknown or the only specialist."""
    model.specialist(name)
    if model.n_specialists == 1:
        raise ValueError(f"specialists.{name}: the only specialist left cannot be removed")
    gone = model.config.specialist_names.index(name)
    config = copy.deepcopy(model.config)
    for field in _LISTS:
        del getattr(config, field)[gone]
    top_k = config.fusion.get("top_k")
    if top_k is not None and top_k > config.n_specialists:
        config.fusion["top_k"] = None
    if gone == 0:
        for field, value in assemble.token_ids(model.specialist(1)).items():
            setattr(config, field, value)
    kept: list[int | None] = [j for j in range(model.n_specialists) if j != gone]
    aligned = None
    if model.tokenizers is not None:
        left = {one: model.specialist(one) for one in config.specialist_names}
        tokenizers = {one: tokenizer for one, tokenizer in _tokenizers(model).items() if one in left}
        aligned = align_specialists(left, tokenizers, config.templates, config.fusion["rule"])
        config.vocabularies = vocabularies(aligned)
        config.vocab_size = common_vocabulary(left, tokenizers, None) if aligned is None else len(aligned.tables[0])
    return _rejoin(model, config, kept, model.specialists, None, f"{name} removed", aligned)


def _rejoin(
    model: "UltraFuserForCausalLM",
    config: "UltraFuserConfig",
    kept: list[int | None],
    old: list[Any],
    newcomer: Any,
    change: str,
    aligned: Alignment | None,
) -> "UltraFuserForCausalLM":
    """A fused model of the old specialists at `kept` and the newcomer (None in `kept`), with the gate carried over."""
    specialists = [newcomer if j is None else old[j] for j in kept]
    if isinstance(model.gate, TokenGate):
        config.gate["projection_size"] = model.gate.width  # also where a smaller one comes, or it goes
    result = assemble.join(type(model), config, specialists)
    result.generation_config = copy.deepcopy(model.generation_config)
    if aligned is not None:
        result.use_alignment(aligned)
    if isinstance(model.gate, TokenGate) and isinstance(result.gate, TokenGate):
        result.gate.reset_parameters(int(config.gate["seed"]))
        result.gate.inner.load_state_dict(model.gate.inner.state_dict())
        result.gate.outer.load_state_dict(model.gate.outer.state_dict())
        for i, j in enumerate(kept):
            if j is not None and str(j) in model.gate.projections:
                result.gate.projections[str(i)].load_state_dict(model.gate.projections[str(j)].state_dict())
    elif model.gate.serves_any_number:
        result.gate.load_state_dict(model.gate.state_dict())
    elif isinstance(model.gate, ConstantGate) and isinstance(result.gate, ConstantGate):
        logits = model.gate.logits.detach()
        with torch.no_grad():
            result.gate.logits.copy_(torch.stack([logits.mean() if j is None else logits[j] for j in kept]))
    else:
        result.gate.reset_parameters(int(config.gate["seed"]))
        config.gate_training = {**config.gate_training, "trained": False}
        return result
    if model.gate.log_temperature is not None and result.gate.log_temperature is not None:
        result.gate.log_temperature.data.copy_(model.gate.log_temperature.data)
    if result.gate_is_trained:
        config.gate_training.setdefault("changes", []).append(change)
    return result
