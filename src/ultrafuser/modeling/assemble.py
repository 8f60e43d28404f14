"""Building a fused model from specialists, and changing the set of specialists of one."""

import inspect
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from transformers import GenerationConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from ultrafuser.lookup import lookup
from ultrafuser.modeling.adapter_entries import entries
from ultrafuser.modeling.adapter_folders import find_adapters
from ultrafuser.modeling.adapters import SharedSpecialist, regroup
from ultrafuser.modeling.configuration import UltraFuserConfig
from ultrafuser.modeling.fusion import FUSION_RULES
from ultrafuser.modeling.gate import GATES, gate_settings
from ultrafuser.modeling.head import check_head
from ultrafuser.modeling.manner import Manner
from ultrafuser.modeling.quantisation import quantisation_of
from ultrafuser.modeling.specialists import Origin, check_causal, describe, licence_of, open_specialist
from ultrafuser.modeling.vocabulary import (
    align_specialists,
    common_vocabulary,
    tokenizer_of,
    united_ends,
    vocabularies,
)
from ultrafuser.templates import load_template

if TYPE_CHECKING:
    from ultrafuser.modeling.model import UltraFuserForCausalLM

Source: TypeAlias = str | Path | PreTrainedModel


def open_all(
    sources: Mapping[str, Source],
    revisions: Mapping[str, str],
    manner: Manner,
    bases: Mapping[str, Source] | None = None,
    base_revisions: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Open every specialist, those on one base sharing it, and bring all to one number format.

    Raises ValueError naming the specialist at fault.
    """
    if not sources:
        raise ValueError("specialists: none given; name at least one, for example {'text': 'path/to/model'}")
    for name in sources:
        if not isinstance(name, str) or not name:
            raise ValueError(f"specialists: {name!r} is not a name; use a short text such as 'code'")
    manner.check(sources)
    found = find_adapters(sources, revisions, bases or {}, base_revisions or {})
    opened: dict[str, PreTrainedModel] = {}
    for name, (source, field) in found.complete.items():
        settings = manner.together([other for other in sources if found.on.get(other) == name], name)
        if isinstance(source, PreTrainedModel):
            opened[name] = _in_memory(source, field, **settings)
        else:
            opened[name] = open_specialist(source, field=field, **settings)
        if any(opened[name] is other for key, other in opened.items() if key != name):
            raise ValueError(f"{field}: the same model object is given twice; open it twice, or copy it")
    for name, specialist in opened.items():
        check_reads_cache(specialist, f"specialists.{name}")
        check_head(specialist, f"specialists.{name}")
    return found.attach(_one_dtype(opened, manner.common_format), list(sources))


def _in_memory(model: PreTrainedModel, field: str, dtype: Any, device: Any, quantisation: str | None) -> Any:
    """A specialist given as a model: used, not copied; its number format is settled with the others'."""
    check_causal(model.config, field)
    if quantisation is not None:
        raise ValueError(f"{field}.quantisation: {quantisation} is for specialists opened from files; this is a model")
    return (model if device is None else model.to(device)).eval()


def check_reads_cache(specialist: PreTrainedModel, field: str) -> None:
    """Raise ValueError for architectures without a standard key/value cache (Mamba, RWKV, XLNet and the like)."""
    if "past_key_values" not in inspect.signature(type(specialist.base_model).forward).parameters:
        raise ValueError(
            f"{field}: {type(specialist).__name__} keeps no standard key/value cache (past_key_values), which a "
            "fused model needs; use an attention-based model as this specialist"
        )


def _one_dtype(opened: dict[str, PreTrainedModel], target: torch.dtype | None) -> dict[str, PreTrainedModel]:
    found = {name: specialist.dtype for name, specialist in opened.items()}
    if target is None:
        target = next(iter(found.values()))
        for other in found.values():
            target = torch.promote_types(target, other)
        if len(set(found.values())) > 1:
            shown = ", ".join(f"{name} {str(kind).removeprefix('torch.')}" for name, kind in found.items())
            wide = str(target).removeprefix("torch.")
            warnings.warn(f"specialists differ in number format ({shown}); all are held as {wide}", stacklevel=4)
    return {name: model if model.dtype == target else model.to(target) for name, model in opened.items()}


def check_fusion(fusion: str | Mapping[str, Any], n: int) -> dict[str, Any]:
    """The fusion settings with defaults. Raises ValueError for an unknown rule or option, or top_k out of range."""
    settings: dict[str, Any] = {"rule": "logits", "top_k": None} | (
        {"rule": fusion} if isinstance(fusion, str) else dict(fusion)
    )
    lookup(FUSION_RULES, settings["rule"], "fusion.rule")
    for name in settings:
        if name not in ("rule", "top_k"):
            raise ValueError(f"fusion.{name}: unknown option; fusion takes rule and top_k")
    top_k = settings["top_k"]
    if top_k is not None and (not isinstance(top_k, int) or isinstance(top_k, bool) or not 1 <= top_k <= n):
        raise ValueError(
            f"fusion.top_k: {top_k!r} specialists asked for, there are {n}; give 1 to {n}, or leave it out"
        )
    return settings


def find_templates(
    names: Sequence[str],
    tokenizers: Mapping[str, Any],
    templates: Mapping[str, str | None] | Sequence[str | None] | None,
) -> list[str]:
    """Jinja source for each specialist; "" where none is named and its folder has none of its own."""
    if templates is None:
        wanted: dict[str, str | None] = {}
    elif isinstance(templates, Mapping):
        wanted = dict(templates)
        for name in wanted:
            if name not in names:
                raise ValueError(f"templates.{name}: no such specialist; there are {', '.join(names)}")
    elif isinstance(templates, str) or len(templates) != len(names):
        raise ValueError(f"templates: give a mapping or a list with one entry for each of {len(names)} specialists")
    else:
        wanted = dict(zip(names, templates, strict=True))
    found = []
    for name in names:
        spec, tokenizer = wanted.get(name), tokenizers.get(name)
        if spec is None and not getattr(tokenizer, "chat_template", None):
            found.append("")
        else:
            found.append(load_template(spec, tokenizer, field=f"specialists.{name}.template") if spec != "" else "")
    return found


def provenance(specialist: Any) -> dict[str, Any]:
    """Where a specialist came from, fit to be published: Hub id and commit, licence; its hash is filled in at save.

    That of an adapter says the same of its base.
    """
    quantisation = quantisation_of(specialist)
    found = _provenance(getattr(specialist, "ultrafuser_origin", None))
    found |= {} if quantisation is None else {"quantisation": quantisation}
    if isinstance(specialist, SharedSpecialist) and specialist.row.layers:
        found["base"] = _provenance(specialist.base_origin)
    return found


def _provenance(origin: Origin | None) -> dict[str, Any]:
    return {
        "id": origin.hub_id if origin else None,
        "revision": origin.revision if origin else None,
        "licence": licence_of(origin.path) if origin else None,
        "sha256": None,
    }


def token_ids(specialist: PreTrainedModel) -> dict[str, Any]:
    """bos, eos and pad ids, the generation configuration's first: it is the one kept up to date by chat models."""
    ids = {}
    for field in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = getattr(specialist.generation_config, field, None) if specialist.generation_config else None
        ids[field] = value if value is not None else getattr(specialist.config, field, None)
    if ids["pad_token_id"] is None and ids["eos_token_id"] is not None:
        eos = ids["eos_token_id"]
        ids["pad_token_id"] = eos[0] if isinstance(eos, list) else eos
    return ids


def assemble(
    model_class: "type[UltraFuserForCausalLM]",
    sources: Mapping[str, Source],
    *,
    templates: Mapping[str, str | None] | Sequence[str | None] | None,
    gate: str | Mapping[str, Any],
    fusion: str | Mapping[str, Any],
    seed: int,
    manner: Manner,
    vocab_size: int | None,
    revisions: Mapping[str, str] | None,
    bases: Mapping[str, Source] | None = None,
    base_revisions: Mapping[str, str] | None = None,
) -> "UltraFuserForCausalLM":
    """See `UltraFuserForCausalLM.from_specialists`."""
    settings = check_fusion(fusion, len(sources))
    opened = open_all(sources, revisions or {}, manner, bases, base_revisions)
    names = list(opened)
    tokenizers = {name: tokenizer for name in names if (tokenizer := tokenizer_of(opened[name])) is not None}
    found = find_templates(names, tokenizers, templates)
    aligned = align_specialists(opened, tokenizers, found, settings["rule"])
    kind = gate_settings(gate, seed)["type"]
    if aligned is not None and lookup(GATES, kind, "gate.type").holds:
        raise ValueError(f"gate.type: a gate that decides once for an answer ({kind!r}) needs one tokenizer for all")
    if aligned is None:
        vocab_size = common_vocabulary(opened, tokenizers, vocab_size)
    elif vocab_size not in (None, len(aligned.tables[0])):
        raise ValueError(f"vocab_size: {vocab_size} given, but the specialists' tokenizers differ; leave it out")
    ids = token_ids(opened[names[0]])
    if aligned is not None:
        vocab_size, ends = len(aligned.tables[0]), aligned.eos[0].tolist()
        ids["eos_token_id"] = ends if len(ends) > 1 else ends[0]
    elif ids["eos_token_id"] is not None:
        assert vocab_size is not None
        ids["eos_token_id"] = united_ends(opened, vocab_size)
    config = UltraFuserConfig(
        specialists=[describe(specialist) for specialist in opened.values()],
        specialist_names=names,
        templates=found,
        sources=[provenance(specialist) for specialist in opened.values()],
        gate=gate_settings(gate, seed),
        fusion=settings,
        vocabularies=vocabularies(aligned),
        vocab_size=vocab_size,
        dtype=opened[names[0]].dtype,
        **ids,
    )
    model = join(model_class, config, list(opened.values()))
    if aligned is not None:
        model.use_alignment(aligned)
    model.gate.reset_parameters(seed)
    return model


def join(
    model_class: "type[UltraFuserForCausalLM]", config: UltraFuserConfig, specialists: Sequence[Any]
) -> "UltraFuserForCausalLM":
    """A fused model around specialists in memory, whose weights stay as they are; the gate's are not drawn yet."""
    specialists = regroup(specialists)
    config.adapters = entries(config.specialist_names, specialists)
    with no_init_weights():
        model = model_class(config, specialists=specialists)
    if model.gate.reads_evidence and config.vocabularies:
        raise ValueError(
            f"gate.type: {config.gate['type']!r} compares the specialists' predictions token by token, but their "
            "tokenizers differ; use token, joint or constant"
        )
    model.gate.to(specialists[0].device)
    model.config.gate.pop("projection_size", None)
    if model.gate.projection_size is not None:
        model.config.gate["projection_size"] = model.gate.projection_size
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    return model.eval()
