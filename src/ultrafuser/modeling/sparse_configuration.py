"""Configuration of a causal LM with experts at every linear layer of its blocks: see `sparse`."""

from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from ultrafuser.modeling.registration import SPARSE, register

__all__ = ["SparseConfig"]


class SparseConfig(PreTrainedConfig):
    """`text_config`: the architecture without experts; `num_local_experts` N, of which a token uses
    `num_experts_per_tok`."""

    model_type = SPARSE
    sub_configs = {"text_config": AutoConfig}  # noqa: RUF012 - as in Transformers
    text_config: dict | PreTrainedConfig | None = None
    num_local_experts: int = 2
    num_experts_per_tok: int = 2
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        """Make `text_config` a configuration. Raises ValueError where the numbers of experts do not fit."""
        if isinstance(self.text_config, dict):
            fields = dict(self.text_config)
            self.text_config = AutoConfig.for_model(fields.pop("model_type"), **fields)
        if not 1 <= self.num_experts_per_tok <= self.num_local_experts:
            raise ValueError(
                f"num_experts_per_tok: {self.num_experts_per_tok} of {self.num_local_experts} experts; it must be "
                "from 1 to num_local_experts"
            )
        super().__post_init__(**kwargs)
        register()
