"""What `generate` needs to know about n prompts and n caches."""

from typing import Any

import torch
from transformers.generation.configuration_utils import GenerationConfig

from ultrafuser.modeling.cache import SpecialistCache
from ultrafuser.modeling.parts import FusedParts

CACHES = (None, "dynamic", "offloaded")


class FusedGenerationMixin(FusedParts):
    """Overrides of `GenerationMixin`: the specialists' own prompts, their caches, and forced gate weights."""

    def generate(self, inputs: torch.Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """As in Transformers; with `prompt_ids` and `prompt_mask` each specialist starts from its own prompt.

        Without `input_ids` the first specialist's prompt is the visible one.
        """
        prompt_ids, prompt_mask = kwargs.get("prompt_ids"), kwargs.get("prompt_mask")
        if prompt_ids is not None and prompt_mask is not None and inputs is None and kwargs.get("input_ids") is None:
            kwargs["input_ids"], kwargs["attention_mask"] = prompt_ids[:, 0], prompt_mask[:, 0]
        return super().generate(inputs, *args, **kwargs)  # type: ignore[misc]

    def _prepare_cache_for_generation(
        self,
        generation_config: GenerationConfig,
        model_kwargs: dict[str, Any],
        generation_mode: Any,
        batch_size: int,
        max_cache_length: int,
    ) -> None:
        """Put a `SpecialistCache` into `model_kwargs`. Raises ValueError for kinds of cache that cannot move as one."""
        kind = generation_config.cache_implementation
        given = model_kwargs.get("past_key_values")
        if given is not None:
            if not isinstance(given, SpecialistCache):
                raise ValueError(f"past_key_values: {type(given).__name__} given; pass a SpecialistCache or nothing")
            given._is_user_defined = True
            return
        if generation_config.use_cache is False:
            return
        if kind not in CACHES:
            raise ValueError(
                f"cache_implementation: {kind!r} is not supported by a fused model; use 'dynamic' or leave it"
            )
        options = {"offloading": True} if kind == "offloaded" else {}
        cache = self.new_cache(**options)
        if generation_config.is_assistant:
            cache.activate_past_recording()
        model_kwargs["past_key_values"] = cache

    def _expand_inputs_for_generation(
        self, expand_size: int = 1, is_encoder_decoder: bool = False, input_ids: Any = None, **model_kwargs: Any
    ) -> tuple[Any, dict[str, Any]]:
        """As in Transformers, except that one weight per specialist is not one weight per example."""
        forced = model_kwargs.pop("gate_weights", None)
        per_example = isinstance(forced, torch.Tensor) and forced.ndim > 1 and forced.shape[0] > 1
        if per_example:
            model_kwargs["gate_weights"] = forced
        input_ids, model_kwargs = super()._expand_inputs_for_generation(  # type: ignore[misc]
            expand_size, is_encoder_decoder, input_ids, **model_kwargs
        )
        if forced is not None and not per_example:
            model_kwargs["gate_weights"] = forced
        return input_ids, model_kwargs
