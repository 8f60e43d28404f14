"""Configuration of a fused model: its specialists, how the gate and the fusion rule are set, what was trained."""

import copy
from dataclasses import field
from typing import Any, NamedTuple

from transformers import AutoConfig, PreTrainedConfig

from ultrafuser.modeling.registration import register


class Group(NamedTuple):
    """Specialists that run in one pass, by index; `name` is the attribute of the fused model that holds their module.

    In the module's batch row j * B + b is example b of `members[j]`: those with an adapter first, in order, then those
    that are the base alone.
    """

    name: str
    members: tuple[int, ...]


class UltraFuserConfig(PreTrainedConfig):
    """Everything needed to build the fused model without its weights.

    Fields (all plain JSON):
        specialists: full configuration of each specialist as a dict with its `model_type`, in order. Dicts, not
            configuration objects: Transformers would treat objects as sub-models of its own kind.
        specialist_names: unique names, in order; the first is the canonical one, whose prompt is the visible one.
        templates: Jinja source of each specialist's chat template ("" where there is none).
        gate: `{"type": ..., "seed": int, ...options of the gate}`, the type a row of GATES;
            `projection_size` is there only where the gate projects specialists of another width to it, `temperature`
            and `learn_temperature` only where they are not 1.0 and False.
        fusion: `{"rule": "logits" | "probabilities", "top_k": int | None}`.
        gate_training: `{"trained": bool, "stages": [...], "data": ..., "seed": ...}`, written by training.
        sources: per specialist `{"id", "revision", "sha256", "licence"}`; no local paths except in a gate-only
            checkpoint, which has to say where the specialists lie.
        adapters: by name, for specialists that share one copy of a base: `{"group": int, "layers": {layer: [rank,
            scaling]}}`, a layer named in full or, where all of its kind are alike, by the last part of its name; no
            layers for the base alone.
        vocabularies: per specialist `{"tokens": real tokens of its tokenizer, "eos": [ids that end an answer]}` where
            tokenizers differ, the first specialist's being the canonical one; empty where all share one.
        vocab_size: real tokens, of the canonical tokenizer where there are several; rows of a padded head beyond it are
            left out of the fused logits.
        gate_only: True in a checkpoint that holds the gate's weights alone.
        recipe: the YAML recipe that made it, without local paths, or None.
    """

    model_type = "ultrafuser"
    keys_to_ignore_at_inference = ("past_key_values", "gate_weights", "token_loss")

    specialists: list = field(default_factory=list)
    specialist_names: list = field(default_factory=list)
    templates: list = field(default_factory=list)
    gate: dict = field(default_factory=dict)
    fusion: dict = field(default_factory=dict)
    gate_training: dict = field(default_factory=dict)
    sources: list = field(default_factory=list)
    adapters: dict = field(default_factory=dict)
    vocabularies: list = field(default_factory=list)
    vocab_size: int | None = None
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list | None = None
    gate_only: bool = False
    recipe: str | None = None
    tie_word_embeddings: bool = False
    use_cache: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        """Fill in defaults and check that the per-specialist lists have one length."""
        self.specialists = list(self.specialists or [])
        n = len(self.specialists)
        self.specialist_names = list(self.specialist_names or [f"specialist{j}" for j in range(n)])
        self.templates = list(self.templates or [""] * n)
        self.sources = list(self.sources or [{} for _ in range(n)])
        self.adapters = dict(self.adapters or {})
        self.vocabularies = list(self.vocabularies or [])
        self.gate = {"type": "token", "seed": 0} | dict(self.gate or {})
        self.fusion = {"rule": "logits", "top_k": None} | dict(self.fusion or {})
        self.gate_training = {"trained": False, "stages": []} | dict(self.gate_training or {})
        for name in ("specialist_names", "templates", "sources", *(["vocabularies"] if self.vocabularies else [])):
            if len(getattr(self, name)) != n:
                raise ValueError(f"{name}: {len(getattr(self, name))} entries for {n} specialists; give one for each")
        if len(set(self.specialist_names)) != n:
            raise ValueError(f"specialist_names: {self.specialist_names} holds a name twice; names must be unique")
        if self.vocab_size is None and n:
            self.vocab_size = min(c.get_text_config(decoder=True).vocab_size for c in self.specialist_configs)
        super().__post_init__(**kwargs)
        register()

    @property
    def n_specialists(self) -> int:
        """How many specialists there are."""
        return len(self.specialists)

    @property
    def groups(self) -> list[Group]:
        """The specialists by the pass they run in, ordered by their first member; most stand alone."""
        found: dict[str, list[int]] = {}
        for j, name in enumerate(self.specialist_names):
            entry = self.adapters.get(name)
            found.setdefault(f"specialist{j}" if entry is None else f"shared{entry['group']}", []).append(j)
        alone = {j: not (self.adapters.get(name) or {}).get("layers") for j, name in enumerate(self.specialist_names)}
        return [Group(name, tuple(sorted(members, key=lambda j: (alone[j], j)))) for name, members in found.items()]

    @property
    def specialist_configs(self) -> list[PreTrainedConfig]:
        """A fresh configuration object for each specialist."""
        configs = []
        for entry in self.specialists:
            fields = copy.deepcopy(entry)
            configs.append(AutoConfig.for_model(fields.pop("model_type"), **fields))
        return configs

    @property
    def hidden_sizes(self) -> list[int]:
        """Width of each specialist's last hidden state, which OPT may bring back to that of its embeddings."""
        configs = [config.get_text_config(decoder=True) for config in self.specialist_configs]
        return [getattr(config, "word_embed_proj_dim", None) or config.hidden_size for config in configs]

    @property
    def projected(self) -> dict[str, int]:
        """Hidden size of each specialist that the gate reads through a projection, by name."""
        width = self.gate.get("projection_size")
        sizes = zip(self.specialist_names, self.hidden_sizes, strict=True)
        return {} if width is None else {name: size for name, size in sizes if size != width}

    @property
    def hidden_size(self) -> int:
        """Width of the first specialist's hidden state (what Transformers asks of a configuration)."""
        return self.hidden_sizes[0]

    @property
    def num_hidden_layers(self) -> int:
        """Layers of all specialists together."""
        return sum(config.get_text_config(decoder=True).num_hidden_layers for config in self.specialist_configs)

    @property
    def max_position_embeddings(self) -> int:
        """The shortest context among the specialists, in tokens."""
        lengths = [
            getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
            for config in self.specialist_configs
        ]
        return min((length for length in lengths if length), default=2**31)


register()  # where this module was itself what imported the Auto classes
