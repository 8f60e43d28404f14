"""The model card of a fused model: what it is made of, whether and on what its gate was trained, how to rebuild it."""

import os
import re
from collections.abc import Iterable
from pathlib import PurePath
from typing import Any

import yaml

from ultrafuser.modeling.configuration import UltraFuserConfig

UNTRAINED = "**The gate is untrained**: its weights are random, drawn from seed {seed}. Train it before use."


class _Dumper(yaml.SafeDumper):
    """Text of several lines as a block, as one would write it."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _yaml(value: Any) -> str:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def publishable(value: Any) -> Any:
    """`value` with every local path in it, at any depth, cut to its last part."""
    if isinstance(value, dict):
        return {key: publishable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [publishable(item) for item in value]
    if isinstance(value, str) and _is_local(value):
        return PurePath(value.replace("\\", "/")).name or "local"
    return value


def _is_local(text: str) -> bool:
    if "\n" in text or "{" in text or len(text) > 1000 or re.match(r"[a-z]+://", text) or text.startswith("zoo"):
        return False
    looks = text.startswith(("/", "./", "../", "~")) or re.match(r"[A-Za-z]:[\\/]", text) is not None
    return looks or text.count("/") > 1 or (os.path.exists(text) and ("/" in text or "\\" in text))


def publishable_recipe(recipe_yaml: str) -> str:
    """The recipe as YAML without local paths."""
    return _yaml(publishable(yaml.safe_load(recipe_yaml)))


def _recipe(config: UltraFuserConfig) -> str:
    """The recipe that made the model, or what the configuration knows of it."""
    if config.recipe:
        return config.recipe
    specialists = {}
    for name, entry, template in zip(config.specialist_names, config.sources, config.templates, strict=True):
        specialists[name] = {"source": entry.get("id") or name, "template": template or None}
        if entry.get("revision"):
            specialists[name]["revision"] = entry["revision"]
    gate = {key: value for key, value in config.gate.items() if key not in ("seed", "projection_size")}
    stages = publishable(config.gate_training.get("stages") or [])
    recipe = {"specialists": specialists, "gate": gate, "fusion": dict(config.fusion), "seed": config.gate["seed"]}
    recipe |= {"stages": stages} if stages else {}
    return _yaml(recipe)


def _front(config: UltraFuserConfig, tags: Iterable[str]) -> str:
    parts = [part for entry in config.sources for part in (entry.get("base"), entry) if part is not None]
    bases = list(dict.fromkeys(part["id"] for part in parts if part.get("id")))
    licences = {entry.get("licence") for entry in config.sources}
    fields: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["ultrafuser", "model-fusion", *(tag for tag in tags if tag not in ("ultrafuser", "model-fusion"))],
    }
    if len(licences) == 1 and None not in licences:
        fields["license"] = licences.pop()
    if bases:
        fields |= {"base_model": bases, "base_model_relation": "merge"}
    return f"---\n{_yaml(fields)}---\n"


def _training(config: UltraFuserConfig) -> str:
    """The paragraph on the gate: trained or not, for how many steps, on what."""
    told = publishable(config.gate_training)
    if not told.get("trained"):
        return UNTRAINED.format(seed=config.gate["seed"])
    lines = ["The gate is trained."]
    for number, stage in enumerate(told.get("stages") or [], start=1):
        lines.append(f"- {stage.get('name') or f'stage {number}'}: {_stage(stage)}")
    if told.get("data"):
        lines.append(f"\nTrained on: {_flat(told['data'])}.")
    for change in told.get("changes") or []:
        lines.append(f"\nAfter training: {change}. The gate has not seen the new set of specialists.")
    return "\n".join(lines)


def _stage(stage: dict[str, Any]) -> str:
    learns = {"gate": "the gate alone", "all": "gate and specialists", "specialists": "the specialists alone"}
    text = (
        f"{stage.get('steps', 'an unknown number of')} steps, {learns.get(str(stage.get('train')), 'the gate')} learned"
    )
    if stage.get("examples_per_category"):
        text += f", {stage['examples_per_category']} examples of each category per step"
    return text + (f", learning rate {stage['learning_rate']:g}" if stage.get("learning_rate") else "")


def _flat(value: Any) -> str:
    if isinstance(value, dict) and set(value) - {"participation"} == {"examples", "response_tokens"}:
        shares = ", ".join(f"{name} {share:.1%}" for name, share in value.get("participation", {}).items())
        at = f"; taking part at {shares} of them" if shares else ""
        return f"{value['examples']} examples ({value['response_tokens']} response tokens{at})"
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_flat(value[key])}" for key in sorted(value))
    return ", ".join(_flat(item) for item in value) if isinstance(value, list) else str(value)


def _specialists(config: UltraFuserConfig) -> str:
    rows = [
        "| specialist | architecture | from | licence | SHA-256 of the weights it was fused from |",
        "|---|---|---|---|---|",
    ]
    entries = zip(config.specialist_names, config.specialists, config.sources, strict=True)
    for name, fields, entry in entries:
        origin, digest = _origin(entry), (entry.get("sha256") or "not recorded")[:16]
        base = entry.get("base")
        if base is not None:
            origin += f", on {_origin(base)} ({(base.get('sha256') or 'not recorded')[:16]})"
        architecture = _architecture(config, name, (fields.get("architectures") or [fields["model_type"]])[0])
        rows.append(f"| {name} | {architecture} | {origin} | {entry.get('licence') or 'not stated'} | {digest} |")
    return "\n".join(rows)


def _origin(entry: dict[str, Any]) -> str:
    return (entry.get("id") or "a local model") + (f" at {entry['revision'][:12]}" if entry.get("revision") else "")


def _architecture(config: UltraFuserConfig, name: str, plain: str) -> str:
    """The architecture, and whether the specialist is an adapter on a base or the base of others."""
    entry = config.adapters.get(name)
    if entry is None:
        return plain
    if entry["layers"]:
        return f"an adapter on {plain}"
    others = [n for n, e in config.adapters.items() if e["group"] == entry["group"] and e["layers"]]
    return f"{plain}, also the base of {', '.join(others)}"


def _projections(config: UltraFuserConfig) -> str:
    """The sentence on specialists that the gate reads through a projection, or nothing."""
    if not config.projected:
        return ""
    shown = ", ".join(f"{name} ({size})" for name, size in config.projected.items())
    width = config.gate["projection_size"]
    return f"The gate reads hidden states {width} wide; those of {shown} through a learned projection each.\n"


def _tokenizers(config: UltraFuserConfig) -> str:
    """The paragraph on tokenizers that differ, or nothing."""
    if not config.vocabularies:
        return ""
    sizes = [f"{n} ({e['tokens']} tokens)" for n, e in zip(config.specialist_names, config.vocabularies, strict=True)]
    return (
        f"The specialists' tokenizers differ: {', '.join(sizes)}. Probabilities are mixed over the byte strings of the "
        "tokens, at positions where the specialists' own tokens have a boundary; the first tokenizer is the model's.\n"
    )


def model_card(
    config: UltraFuserConfig, *, gate_only: bool = False, tags: Iterable[str] = (), repo_id: str | None = None
) -> str:
    """README.md for a fused model, without local paths."""
    where = repo_id or "folder"
    top_k = config.fusion.get("top_k")
    form = (
        "This checkpoint holds the gate alone and opens its specialists from where they are, checking their hashes."
        if gate_only
        else "This checkpoint is self-contained."
    )
    return f"""{_front(config, tags)}
# Fused model of {", ".join(config.specialist_names)}

{config.n_specialists} complete language models run side by side; at every token a small gate weighs them and their
predictions are mixed (UltraFuser, Ding et al., ACL 2025). Made with `ultrafuser`. {form}

## Gate

{_training(config)}

Gate `{config.gate["type"]}`, fusion rule `{config.fusion["rule"]}`{f", the {top_k} largest weights" if top_k else ""}.
{_projections(config)}{_tokenizers(config)}
## Specialists

{_specialists(config)}

The licences of all specialists apply.

## Use

```python
import ultrafuser
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("{where}")
```

Every specialist keeps its own chat template; `ultrafuser chat {where}` takes care of it.

## Recipe

```yaml
{_recipe(config).rstrip()}
```
"""
