"""A causal LM with experts at every linear layer of its blocks, of any architecture, as a Transformers model."""

from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, GenerationMixin, PreTrainedModel

from ultrafuser.modeling.experts import put_experts
from ultrafuser.modeling.registration import register
from ultrafuser.modeling.sparse_configuration import SparseConfig

__all__ = ["SparseForCausalLM"]


class SparseForCausalLM(PreTrainedModel, GenerationMixin):
    """The architecture of `text_config` with an `ExpertLinear` in place of every linear layer of its blocks.

    Everything else, the cache included, is the architecture's own.
    """

    config_class = SparseConfig
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _skip_keys_device_placement = ("past_key_values",)

    def __init__(self, config: SparseConfig) -> None:
        """Build from the configuration; the experts' weights are zeros until they are filled or loaded."""
        requested = config._attn_implementation
        super().__init__(config)
        options = {} if requested is None else {"attn_implementation": requested}
        inner = AutoModelForCausalLM.from_config(config.text_config, dtype=torch.get_default_dtype(), **options)
        put_experts(inner, config.num_local_experts, config.num_experts_per_tok)
        self.language_model = inner
        self.post_init()

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        return True  # handed on to the architecture, which checks for itself

    @property
    def base_model(self) -> nn.Module:
        """What gives hidden states: the architecture's own."""
        return self.language_model.base_model

    def get_output_embeddings(self) -> nn.Module:
        """The architecture's head."""
        return self.language_model.get_output_embeddings()

    def prepare_inputs_for_generation(self, input_ids: torch.Tensor, **kwargs: Any) -> dict[str, Any]:
        """The architecture's own way."""
        return self.language_model.prepare_inputs_for_generation(input_ids, **kwargs)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> Any:
        """As the architecture's: `input_ids` (B, T) to logits (B, T, V), with a loss where there are `labels`."""
        return self.language_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            labels=labels,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )


register()  # where this module was itself what imported the Auto classes
