"""The fused model: n complete causal LMs, one gate, one next-token distribution (Ding et al., ACL 2025, section 3.1).

Legend: B batch, T visible columns, Q columns of this call, P prompt columns, R response positions, K positions kept,
M response positions of a batch laid end to end, N specialists, D hidden, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers.modeling_utils import slice_logits_to_keep

from ultrafuser.modeling.cache import SpecialistCache
from ultrafuser.modeling.configuration import UltraFuserConfig
from ultrafuser.modeling.gate import Gate, build_gate, normalise
from ultrafuser.modeling.head import Head, build_head, fused_logits, response_loss
from ultrafuser.modeling.inputs import Columns, own_columns, pad_prompts
from ultrafuser.modeling.output import UltraFuserOutput

IGNORED = -100
_HARMLESS = frozenset({"return_dict", "output_attentions", "category", "inputs_embeds", "token_type_ids"})


class UltraFuserForCausalLM(PreTrainedModel, GenerationMixin):
    """n specialists and a gate as one Transformers causal LM."""

    config_class = UltraFuserConfig
    main_input_name = "input_ids"
    base_model_prefix = ""
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _skip_keys_device_placement = ("past_key_values",)
    _keep_in_fp32_modules_strict = (r"^gate\.",)

    def __init__(self, config: UltraFuserConfig, specialists: Sequence[PreTrainedModel] | None = None) -> None:
        requested = config._attn_implementation
        super().__init__(config)
        for j, sub_config in enumerate(config.specialist_configs):
            if specialists is None:
                options = {} if requested is None else {"attn_implementation": requested}
                built = AutoModelForCausalLM.from_config(sub_config, dtype=torch.get_default_dtype(), **options)
            else:
                built = specialists[j]
            # Attributes, not a ModuleList: tied weights and no-split modules are gathered from direct children only.
            setattr(self, f"specialist{j}", built)
        self.gate = build_gate(config.gate, config.hidden_sizes)
        self.gate.float()
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Draw an untrained gate from its seed; parts of it are left alone, and so is whatever was loaded."""
        if isinstance(module, Gate) and not all(getattr(p, "_is_hf_initialized", False) for p in module.parameters()):
            module.reset_parameters(int(self.config.gate["seed"]))

    # ---- parts ----

    @property
    def n_specialists(self) -> int:
        """How many specialists there are."""
        return self.config.n_specialists

    @property
    def gate_is_trained(self) -> bool:
        """False while the gate still holds the random weights drawn from its seed."""
        return bool(self.config.gate_training.get("trained"))

    def specialist(self, which: int | str) -> PreTrainedModel:
        """The specialist at an index or of a name."""
        if isinstance(which, str):
            if which not in self.config.specialist_names:
                raise ValueError(f"specialist: {which!r} is not one of {', '.join(self.config.specialist_names)}")
            which = self.config.specialist_names.index(which)
        if not -self.n_specialists <= which < self.n_specialists:
            raise ValueError(f"specialist: {which} is out of range, there are {self.n_specialists}")
        return getattr(self, f"specialist{which % self.n_specialists}")

    @property
    def specialists(self) -> list[PreTrainedModel]:
        """All specialists in order."""
        return [self.specialist(j) for j in range(self.n_specialists)]

    @property
    def heads(self) -> list[Head]:
        """Each specialist's output head."""
        return [build_head(specialist, self.config.vocab_size) for specialist in self.specialists]

    def get_input_embeddings(self) -> nn.Module:
        """The first specialist's input embeddings: the fused model has none of its own."""
        return self.specialist(0).get_input_embeddings()

    def get_output_embeddings(self) -> None:
        """None: the fused head is made of the specialists' heads."""
        return None

    def prepare_prompts(self, examples: Sequence[Sequence[Sequence[int]]]) -> dict[str, torch.Tensor]:
        """Left-pad prompts given as [example][specialist][ids]: keyword arguments for `forward` and `generate`."""
        for i, example in enumerate(examples):
            if len(example) != self.n_specialists:
                raise ValueError(f"prompts[{i}]: {len(example)} prompts for {self.n_specialists} specialists")
        pad = self.config.pad_token_id
        padded = pad_prompts(examples, 0 if pad is None else pad)
        return {name: tensor.to(self.device) for name, tensor in padded.items()}

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
        `prompt_mask` (B, N, P), left-padded, specialist j reads `prompt_ids[:, j]` in place of the first P columns.
        `labels` (B, Q) are shifted inside, `shift_labels` are not.

        Training form: `sequence_ids`, `sequence_mask` (B, N, T), right-padded, each specialist's own sequence;
        `response_index` (B, N, R), where in it response token r is predicted; `labels` or `shift_labels` (B, R), already
        aligned, -100 where padded. Logits only with `return_logits=True`.

        `gate_weights` (N,), (B, N) or (B, K, N) replaces the gate; top-k does not apply to it.
        Raises ValueError on inputs of neither or both forms.
        """
        unknown = set(kwargs) - _HARMLESS
        if unknown:
            raise TypeError(f"forward: unknown argument {sorted(unknown)[0]!r}")
        if (input_ids is None) == (sequence_ids is None):
            raise ValueError("forward: pass either input_ids (generation form) or sequence_ids (training form)")
        if sequence_ids is not None:
            labels = shift_labels if shift_labels is not None else labels
            return self._forward_training(
                sequence_ids, sequence_mask, response_index, labels, gate_weights, bool(return_logits),
                num_items_in_batch, bool(output_hidden_states),
            )  # fmt: skip
        cache = past_key_values
        if cache is None and use_cache and not self.training:
            cache = SpecialistCache.for_configs([specialist.config for specialist in self.specialists])
        hidden = []
        past = 0 if cache is None else cache.get_seq_length()  # once: it moves as soon as the first specialist has read
        for j in range(self.n_specialists):
            columns = self._columns(j, input_ids, attention_mask, position_ids, prompt_ids, prompt_mask, past)
            hidden.append(self._read(j, columns, None if cache is None else cache.caches[j]))
        hidden = [slice_logits_to_keep(h, logits_to_keep) for h in hidden] if labels is None else hidden
        weights = self._weights(hidden, gate_weights)
        loss = None
        logits = (
            None if return_logits is False else fused_logits(weights, hidden, self.heads, self.config.fusion["rule"])
        )
        token_loss = None
        if labels is not None or shift_labels is not None:
            targets = (
                shift_labels if shift_labels is not None else nn.functional.pad(labels, (0, 1), value=IGNORED)[:, 1:]
            )
            loss, token_loss = self._loss(weights, hidden, targets, num_items_in_batch)
        return UltraFuserOutput(
            loss=loss,
            logits=logits,
            gate_weights=weights,
            token_loss=token_loss,
            past_key_values=cache,
            hidden_states=tuple(hidden) if output_hidden_states else None,
        )

    def _columns(self, j, input_ids, attention_mask, position_ids, prompt_ids, prompt_mask, past) -> Columns:  # type: ignore[no-untyped-def]
        if prompt_ids is None:
            return Columns(input_ids, attention_mask, position_ids)
        return own_columns(input_ids, attention_mask, prompt_ids[:, j], prompt_mask[:, j], past)

    def _read(self, j: int, columns: Columns, cache: Any) -> torch.Tensor:
        """Specialist j's last hidden states (B, Q, D_j); without a graph where nothing in it learns."""
        specialist = self.specialist(j)
        learns = any(parameter.requires_grad for parameter in specialist.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and learns):
            output = specialist.base_model(
                input_ids=columns.input_ids,
                attention_mask=columns.attention_mask,
                position_ids=columns.position_ids,
                past_key_values=cache,
                use_cache=cache is not None,
            )
        return output.last_hidden_state

    def _weights(self, hidden: Sequence[torch.Tensor], forced: torch.Tensor | Sequence[float] | None) -> torch.Tensor:
        """Gate weights (..., N) float32: the gate's own, or the forced ones broadcast to every position."""
        if forced is None:
            device = hidden[0].device.type
            with torch.autocast(device_type=device, enabled=False):
                return normalise(self.gate(hidden), self.config.fusion["top_k"])
        weights = torch.as_tensor(forced, dtype=torch.float32, device=hidden[0].device)
        if weights.ndim == 2:
            weights = weights[:, None, :]
        return weights.expand(*hidden[0].shape[:-1], self.n_specialists)

    def _loss(self, weights, hidden, labels, num_items_in_batch):  # type: ignore[no-untyped-def]
        keep = labels != IGNORED
        rows = response_loss(
            weights[keep], [h[keep] for h in hidden], self.heads, self.config.fusion["rule"], labels[keep]
        )
        token_loss = rows.new_zeros(labels.shape).masked_scatter(keep, rows)
        count = keep.sum().clamp_min(1) if num_items_in_batch is None else num_items_in_batch
        return rows.sum() / count, token_loss

    def _forward_training(  # type: ignore[no-untyped-def]
        self, sequence_ids, sequence_mask, response_index, labels, gate_weights, return_logits, num_items_in_batch,
        output_hidden_states,
    ) -> UltraFuserOutput:  # fmt: skip
        hidden = []
        for j in range(self.n_specialists):
            length = int(sequence_mask[:, j].sum(-1).max())
            columns = Columns(sequence_ids[:, j, :length], None, None)
            states = self._read(j, columns, None)
            hidden.append(torch.take_along_dim(states, response_index[:, j, :, None], dim=1))
        weights = self._weights(hidden, gate_weights)
        loss = token_loss = None
        if labels is not None:
            loss, token_loss = self._loss(weights, hidden, labels, num_items_in_batch)
        logits = fused_logits(weights, hidden, self.heads, self.config.fusion["rule"]) if return_logits else None
        return UltraFuserOutput(
            loss=loss,
            logits=logits,
            gate_weights=weights,
            token_loss=token_loss,
            hidden_states=tuple(hidden) if output_hidden_states else None,
        )

    # ---- generate ----

    def _prepare_cache_for_generation(  # type: ignore[no-untyped-def]
        self, generation_config, model_kwargs, generation_mode, batch_size, max_cache_length
    ) -> None:
        if model_kwargs.get("past_key_values") is not None or generation_config.use_cache is False:
            return
        options = {"offloading": True} if generation_config.cache_implementation == "offloaded" else {}
        configs = [specialist.config for specialist in self.specialists]
        model_kwargs["past_key_values"] = SpecialistCache.for_configs(configs, **options)

    # ---- making one ----

    @classmethod
    def from_specialists(
        cls,
        sources: Mapping[str, str | Path | PreTrainedModel],
        *,
        templates: Mapping[str, str | None] | None = None,
        gate: str | Mapping[str, Any] = "token",
        fusion: str | Mapping[str, Any] = "logits",
        seed: int = 0,
        dtype: torch.dtype | str | None = None,
        device: str | torch.device | None = None,
        vocab_size: int | None = None,
        revisions: Mapping[str, str] | None = None,
    ) -> "UltraFuserForCausalLM":
        """Fuse specialists given as {name: folder, Hub id or loaded model}; the gate is drawn from `seed`, untrained."""
        from ultrafuser.modeling.assemble import assemble

        return assemble(cls, sources, templates, gate, fusion, seed, dtype, device, vocab_size, revisions)
