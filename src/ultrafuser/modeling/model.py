"""The fused model: n complete causal LMs, one gate, one next-token distribution (Ding et al., ACL 2025, section 3.1).

Legend: B batch, T visible columns, Q columns of this call, P prompt columns, R response positions, K positions kept,
M response positions of a batch laid end to end, N specialists, D hidden, V vocabulary.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_utils import slice_logits_to_keep

from ultrafuser.modeling import assemble, checkpoint
from ultrafuser.modeling.adapter_entries import build_module
from ultrafuser.modeling.assemble import Source
from ultrafuser.modeling.cache import SpecialistCache
from ultrafuser.modeling.configuration import UltraFuserConfig
from ultrafuser.modeling.decoding import FusedGenerationMixin
from ultrafuser.modeling.gate import Gate, build_gate
from ultrafuser.modeling.head import fused_logits
from ultrafuser.modeling.inputs import (
    IGNORED,
    Columns,
    Responses,
    check_labels,
    check_prompts,
    check_responses,
    forced_weights,
    keep_columns,
    mean_loss,
    own_columns,
    spread,
)
from ultrafuser.modeling.loss import response_loss
from ultrafuser.modeling.manner import Manner
from ultrafuser.modeling.output import UltraFuserOutput
from ultrafuser.modeling.reading import read_all
from ultrafuser.modeling.registration import register
from ultrafuser.modeling.responding import RespondingMixin

# Sent along by Transformers or by our collator, without meaning here.
_HARMLESS = frozenset({"return_dict", "output_attentions", "category", "token_type_ids"})


class UltraFuserForCausalLM(RespondingMixin, FusedGenerationMixin, PreTrainedModel, GenerationMixin):
    """n specialists and a gate as one Transformers causal LM.

    Made by `from_specialists` or `from_pretrained`. `forward` has two forms, see there.
    """

    config_class = UltraFuserConfig
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _skip_keys_device_placement = ("past_key_values",)
    _keep_in_fp32_modules_strict = (r"^gate\.",)
    gate: Gate

    def __init__(self, config: UltraFuserConfig, specialists: Sequence[Any] | None = None) -> None:
        """Build from the configuration, or around specialists in memory. Prefer `from_specialists`."""
        requested = config._attn_implementation
        super().__init__(config)
        options = {} if requested is None else {"attn_implementation": requested}
        sub_configs = config.specialist_configs
        for group in config.groups:
            # Attributes, not a ModuleList: tied weights and no-split modules are gathered from direct children only.
            first = group.members[0]
            if specialists is None:
                module = build_module(config, group, sub_configs[first], options)
            else:
                module = getattr(specialists[first], "module", specialists[first])
            setattr(self, group.name, module)
        self.gate = build_gate(config.gate, config.hidden_sizes).float()
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Draw a gate that was not loaded from its seed, all of it, when any part of it comes by.

        Transformers does not call this for a module without parameters of its own, as most gates are.
        """
        of_gate = any(module is part for part in self.gate.modules())
        if of_gate and not any(getattr(parameter, "_is_hf_initialized", False) for parameter in self.gate.parameters()):
            self.gate.reset_parameters(int(self.config.gate["seed"]))

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        return True  # handed on to the specialists, each of which checks for itself

    # ---- forward ----

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: SpecialistCache | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        *,
        prompt_ids: torch.Tensor | None = None,
        prompt_mask: torch.Tensor | None = None,
        sequence_ids: torch.Tensor | None = None,
        sequence_mask: torch.Tensor | None = None,
        response_index: torch.Tensor | None = None,
        gate_weights: torch.Tensor | Sequence[float] | None = None,
        return_logits: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        shift_labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> UltraFuserOutput:
        """Run all specialists, weigh them with the gate, fuse.

        Generation form: `input_ids` (B, Q). Alone, every specialist reads it: a plain causal LM. With `prompt_ids` and
        `prompt_mask` (B, N, P), left-padded, specialist j reads `prompt_ids[:, j]` in place of the first P columns, at
        positions counted by its own mask. `labels` (B, Q) are shifted inside, `shift_labels` are not.

        Training form: `sequence_ids`, `sequence_mask` (B, N, T), right-padded: each specialist's own sequence;
        `response_index` (B, N, R): where in it the token before response token r stands; `labels` or `shift_labels`
        (B, R), the response tokens, -100 where padded. Logits only with `return_logits=True`. Where tokenizers differ
        it is the only form: labels are canonical, `response_index` is -1 where a specialist takes no part.

        `gate_weights` (N,), (B, N) or (B, K, N) replaces the gate's; top-k does not apply to it. The loss is the mean
        over labels that are not -100 in nats, or their sum over `num_items_in_batch`.
        Raises ValueError on inputs of neither or both forms and on wrong shapes, TypeError on unknown arguments.
        """
        for name in kwargs:
            if name not in _HARMLESS:
                raise TypeError(f"forward: unknown argument {name!r}")
        if (input_ids is None) == (sequence_ids is None):
            raise ValueError("forward: pass either input_ids (generation form) or sequence_ids (training form)")
        wants_hidden = bool(output_hidden_states)
        if sequence_ids is not None:
            targets = labels if shift_labels is None else shift_labels
            shared = not self.config.vocabularies
            form = check_responses(
                sequence_ids, sequence_mask, response_index, targets, self.n_specialists, shared=shared
            )
            return self._respond(form, targets, gate_weights, bool(return_logits), num_items_in_batch, wants_hidden)
        assert input_ids is not None
        if self.config.vocabularies:
            raise ValueError(
                "input_ids: the specialists' tokenizers differ, so that no ids are common to all; generate with "
                "ultrafuser.generation (stream, generate_batch), or pass sequence_ids (training form)"
            )
        check_prompts(input_ids, prompt_ids, prompt_mask, self.n_specialists)
        learning = labels is not None or shift_labels is not None
        cache = self._cache(past_key_values, use_cache, learning)
        past = 0 if cache is None else cache.get_seq_length()
        if prompt_ids is None or prompt_mask is None:
            views = [Columns(input_ids, attention_mask, position_ids)] * self.n_specialists
        else:
            views = own_columns(input_ids, attention_mask, prompt_ids, prompt_mask, past)
        hidden = read_all(self, views, cache)
        gate_weights = self.prompt_weights(gate_weights, hidden, prompt_ids, past, cache)
        if not learning:
            gate_weights = keep_columns(gate_weights, logits_to_keep, input_ids.shape[1])
            hidden = [slice_logits_to_keep(states, logits_to_keep) for states in hidden]
        output = self._fuse(hidden, gate_weights, return_logits is not False)
        output.past_key_values = cache
        output.hidden_states = tuple(hidden) if wants_hidden else None
        if labels is not None and shift_labels is None:
            shift_labels = nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
        if shift_labels is not None:
            self._add_loss(output, hidden, shift_labels, num_items_in_batch)
        return output

    def _cache(self, given: Any, use_cache: bool | None, learning: bool) -> SpecialistCache | None:
        if given is not None:
            if not isinstance(given, SpecialistCache):
                raise ValueError(f"past_key_values: {type(given).__name__} given; pass a SpecialistCache or nothing")
            return given
        wanted = use_cache if use_cache is not None else self.config.use_cache and not learning and not self.training
        return self.new_cache() if wanted else None

    def _fuse(self, hidden: Sequence[torch.Tensor], given: Any, with_logits: bool) -> UltraFuserOutput:
        """Weights (B, K, N) and fused logits (B, K, V) of hidden states (B, K, D_j)."""
        if given is None:
            weights = self._weigh(hidden)
        else:
            weights = forced_weights(given, hidden[0].shape[:-1], self.n_specialists, hidden[0].device)
        logits = fused_logits(weights, hidden, self.heads, self.config.fusion["rule"]) if with_logits else None
        return UltraFuserOutput(logits=logits, gate_weights=weights)

    def _add_loss(
        self, output: UltraFuserOutput, hidden: Sequence[torch.Tensor], labels: torch.Tensor, items: Any
    ) -> None:
        """Loss at every column whose label is not -100, from the logits where they exist already."""
        keep = labels != IGNORED
        labels_M, heads = labels[keep], self.heads
        check_labels(labels_M, heads[0].vocab_size)
        assert output.gate_weights is not None
        if output.logits is not None:
            logits = output.logits[keep.to(output.logits.device)]
            loss_M = nn.functional.cross_entropy(logits, labels_M.to(logits.device), reduction="none")
        else:
            rows = [states[keep.to(states.device)] for states in hidden]
            weights = output.gate_weights[keep.to(output.gate_weights.device)]
            loss_M = response_loss(weights, rows, heads, self.config.fusion["rule"], labels_M)
        output.token_loss = spread(loss_M, keep)
        output.loss = mean_loss(loss_M, items)

    def _respond(
        self,
        form: Responses,
        labels: torch.Tensor | None,
        given: Any,
        with_logits: bool,
        items: Any,
        wants_hidden: bool,
    ) -> UltraFuserOutput:
        """The training form: everything after the specialists happens at response positions only."""
        states = read_all(self, [form.columns(j) for j in range(self.n_specialists)])
        hidden = [form.gather(states_BTD, j) for j, states_BTD in enumerate(states)]
        given = self.answer_weights(given, hidden, form)
        weights, loss_M = self.respond(hidden, None if labels is None else labels[form.keep], form.available, given)
        output = UltraFuserOutput(gate_weights=form.spread(weights))
        if loss_M is not None:
            output.loss, output.token_loss = mean_loss(loss_M, items), form.spread(loss_M)
        if with_logits:
            output.logits = form.spread(self.response_logits(weights, hidden))
        if wants_hidden:
            output.hidden_states = tuple(form.spread(states) for states in hidden)
        return output

    # ---- making, keeping, publishing ----

    @classmethod
    def from_specialists(
        cls,
        sources: Mapping[str, Source],
        *,
        templates: Mapping[str, str | None] | Sequence[str | None] | None = None,
        gate: str | Mapping[str, Any] = "token",
        fusion: str | Mapping[str, Any] = "logits",
        seed: int = 0,
        dtype: torch.dtype | str | Mapping[str, Any] | None = None,
        device: str | torch.device | None = None,
        vocab_size: int | None = None,
        revisions: Mapping[str, str] | None = None,
        bases: Mapping[str, Source] | None = None,
        base_revisions: Mapping[str, str] | None = None,
        devices: Mapping[str, Any] | None = None,
        quantisation: Mapping[str, str | None] | None = None,
    ) -> "UltraFuserForCausalLM":
        """Fuse specialists given as {name: folder, Hub id, or model in memory}; the gate, from `seed`, is untrained.

        A source may be a low-rank adapter (PEFT): specialists on one base, and the base itself, share it and run in one
        pass. `bases`: {name: base} where it is not the one that the adapter names, `base_revisions` for those on a Hub.

        `templates`: per specialist a template's name, .jinja path or source, or None for its tokenizer's own.
        `gate`: a row of GATES, or {"type": ..., "hidden_size": ...}. `fusion`: a row of FUSION_RULES, or {"rule": ...,
        "top_k": ...}. `dtype`: default the widest of the specialists'; {name: dtype} opens each in its own, all are
        held in the widest. `vocab_size`: tokens of the shared tokenizer, where heads are padded. `revisions`: {name:
        revision} for Hub ids. `devices`: {name: device} for specialists that do not lie on `device`; the gate lies with
        the first. `quantisation`: {name: "int8" | "int4"}, see `quantise`. Models in memory are used, not copied.
        Raises ValueError naming the specialist or field, the value and the fix.
        """
        return assemble.assemble(
            cls, sources, templates=templates, gate=gate, fusion=fusion, seed=seed,
            manner=Manner(dtype, device, devices or {}, quantisation or {}),
            vocab_size=vocab_size, revisions=revisions, bases=bases, base_revisions=base_revisions,
        )  # fmt: skip

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike | None,
        *args: Any,
        specialist_paths: Mapping[str, str | os.PathLike] | None = None,
        quantisation: Mapping[str, str | None] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Load either form of checkpoint, see `checkpoint.load`; keyword arguments as in Transformers.

        `quantisation`: {name: "int8" | "int4"}; specialists of a gate-only checkpoint are quantised as they were saved
        where nothing else is said here (None: not at all).
        """
        return checkpoint.load(
            cls, super().from_pretrained, pretrained_model_name_or_path, specialist_paths, quantisation, args, kwargs
        )

    def save_pretrained(self, save_directory: str | os.PathLike, *, gate_only: bool = False, **kwargs: Any) -> None:
        """Save weights, configuration and model card, see `checkpoint.save`; keyword arguments as in Transformers."""
        checkpoint.save(self, super().save_pretrained, save_directory, gate_only, kwargs)

    def push_to_hub(self, repo_id: str, *, gate_only: bool = False, **kwargs: Any) -> Any:
        """Save to a temporary folder and upload it with its model card, see `checkpoint.push_folder`."""
        return checkpoint.push_folder(self, repo_id, gate_only, kwargs)


register()  # where this module was itself what imported the Auto classes
