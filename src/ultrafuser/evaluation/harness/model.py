"""lm-eval's `hf` model with a fused model inside, whose specialists read conversations in their own templates.

Requests, caches, sorting, batching, truncation and stop strings are lm-eval's. A text without a chat template, and a
conversation that all specialists read in one template, are handled by `hf` as they are: a model of one specialist
scores exactly as `hf` does. Where templates differ, prompt and answer are tokenised apart, as in training.

Legend: B batch, L columns, V vocabulary.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
from collections.abc import Mapping
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils_hf import get_dtype
from torch import Tensor

from ultrafuser.evaluation.harness.chat import Chat, pack, unpack
from ultrafuser.evaluation.harness.opening import Place, choose_device, locate, open_model
from ultrafuser.evaluation.harness.stand_ins import StandIns
from ultrafuser.generation.engine import chat_templates, stop_ids
from ultrafuser.lookup import did_you_mean
from ultrafuser.modeling import UltraFuserForCausalLM
from ultrafuser.templates import encode_prompt

__all__ = ["UltraFuserLM"]

logger = logging.getLogger(__name__)

# Options of `hf` that say how to make or split another kind of model.
NOT_OURS = (
    "autogptq", "backend", "delta", "gguf_file", "gptqmodel", "max_cpu_memory", "max_memory_per_gpu", "offload_folder",
    "parallelize", "peft", "subfolder", "tp_plan",
)  # fmt: skip


class UltraFuserLM(HFLM):
    """A fused model for lm-eval, registered as "ultrafuser".

    `pretrained` is a folder (fused, gate-only, or any causal LM as a single specialist), a .gguf file, a Hub id (with
    `revision`), or an `UltraFuserForCausalLM` in memory, which needs `tokenizer`. `only` lets one specialist answer
    alone; `specialist_paths` maps names to folders, for a gate-only model; `quantise` keeps weights as int8 or int4;
    `tokenise_apart` treats conversations as
    if templates differed, to compare one specialist with several on equal terms. The rest as for `hf`: tokenizer,
    dtype, device (left out: the fastest there is), batch_size, max_length, truncation, add_bos_token, ...
    Raises ValueError for options that do not exist or have no meaning here.
    """

    def __init__(
        self,
        pretrained: str | UltraFuserForCausalLM,
        *,
        only: str | None = None,
        specialist_paths: Mapping[str, str] | None = None,
        quantise: str | None = None,
        tokenise_apart: bool = False,
        **options: Any,
    ) -> None:
        _check_options(options)
        self._only, self._specialist_paths, self._quantise = only, specialist_paths, quantise
        self._place: Place | None = None
        if not isinstance(pretrained, UltraFuserForCausalLM):
            self._place = locate(str(pretrained), options.get("revision"), only)
            pretrained = self._place.origin.hub_id or str(self._place.origin.path)
            options["device"] = choose_device(options.get("device"))
        elif options.get("tokenizer") is None or any(one is not None for one in (only, specialist_paths, quantise)):
            raise ValueError(
                "pretrained: a model in memory goes with tokenizer=..., and without only, specialist_paths, quantise"
            )
        super().__init__(pretrained, **options)
        self.model.to(self.device)
        self._templates = [source or "" for source in self.model.config.templates]
        self._packs = bool(tokenise_apart) or len(set(self._templates)) > 1
        if self._packs and self.chat_template_args:
            raise ValueError(
                "chat_template_args, enable_thinking: not supported where prompts and answers are tokenised apart"
            )
        if not self._packs and self._templates[0] and (self._place is None or self._place.fused):
            self.tokenizer.chat_template = self._templates[0]
        self._stand_ins = StandIns(self.model.n_specialists)

    # ---- opening ----

    def _get_config(self, pretrained: str, **options: Any) -> None:
        """Nothing to do: the model brings its configuration, and it is known to be causal."""
        self._config: Any = None

    def _get_backend(self, *args: Any, **options: Any) -> None:
        self.backend = "causal"

    def _create_tokenizer(self, pretrained: Any, *args: Any, **options: Any) -> None:
        if self._place is not None:
            pretrained = str(self._place.origin.folder)
            options |= {"revision": "main", "gguf_file": self._place.origin.file}
        super()._create_tokenizer(pretrained, *args, **options)

    def _create_model(self, pretrained: str, *, dtype: Any = "auto", **options: Any) -> None:
        assert self._place is not None
        self._model = open_model(
            self._place,
            only=self._only,
            dtype=None if dtype in (None, "auto") else get_dtype(dtype),
            specialist_paths=self._specialist_paths,
            quantise=self._quantise,
        )
        self._config = self._model.config

    # ---- conversations ----

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation as text in the one template that all read, else packed, for each to read in its own."""
        if self._packs:
            return pack(chat_history)
        if not getattr(self.tokenizer, "chat_template", None):
            chat_templates(self.model)  # says which specialist has none
        return str(super().apply_chat_template(chat_history, add_generation_prompt))

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """What lm-eval records about the template: with different ones, all of them, under their names."""
        if not self._packs or not chat_template:
            return super().chat_template(chat_template)
        if isinstance(chat_template, str):
            raise ValueError(
                f"--apply_chat_template: {chat_template!r} given, but every specialist has a template of its own; "
                "leave the name out"
            )
        names = self.model.config.specialist_names
        return "\n".join(f"{name}: {source}" for name, source in zip(names, chat_templates(self.model), strict=True))

    @property
    def tokenizer_name(self) -> str:
        """Tokenizer and templates, by which lm-eval tells its caches of prompts apart."""
        digest = hashlib.sha256("\0".join(self._templates).encode()).hexdigest()[:16]
        return f"{super().tokenizer_name}__{digest}"

    def _prompt_ids(self, chat: Chat) -> list[int]:
        """The stand-ins for a conversation and the beginning of its answer, if it has one."""
        key = pack(chat.messages) + chat.beginning
        if key not in self._stand_ins:
            prompts = encode_prompt(chat.messages, chat_templates(self.model), self.tokenizer)
            beginning = super().tok_encode(chat.beginning, add_special_tokens=False)
            self._stand_ins.add(key, [[*ids, *beginning] for ids in prompts])
        return self._stand_ins.ids(key)

    # ---- text to ids ----

    def tok_encode(
        self,
        string: str,
        add_special_tokens: bool | None = None,
        left_truncate_len: int | None = None,
        **options: Any,
    ) -> list[int]:
        """Ids of a text; stand-ins for a packed conversation."""
        chat = unpack(string)
        if chat is None:
            return list(super().tok_encode(string, add_special_tokens, left_truncate_len, **options))
        return self._prompt_ids(chat)[-left_truncate_len if left_truncate_len else 0 :]

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """As `hf`, except that the answer to a packed conversation is tokenised apart from its prompts."""
        chat = unpack(context)
        if chat is None:
            pair: tuple[list[int], list[int]] = super()._encode_pair(context, continuation)
            return pair
        begun = chat.beginning.rstrip()
        whole = super().tok_encode(chat.beginning + continuation, add_special_tokens=False)
        known = len(super().tok_encode(begun, add_special_tokens=False))
        return self._prompt_ids(Chat(chat.messages, begun)), whole[known:]

    def tok_batch_encode(
        self,
        strings: list[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Ids and mask (B, L) of a batch; packed conversations become left-padded stand-ins."""
        if all(unpack(string) is None for string in strings):
            ids, mask = super().tok_batch_encode(strings, padding_side, left_truncate_len, truncation)
            return ids, mask
        rows = [self.tok_encode(string) for string in strings]
        longest = max(map(len, rows))
        if left_truncate_len and longest > left_truncate_len:
            logger.warning("prompts of %d tokens lose all but the last %d", longest, left_truncate_len)
            rows, longest = [row[-left_truncate_len:] for row in rows], left_truncate_len
        ids = torch.full((len(rows), longest), self.tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for b, row in enumerate(rows):
            ids[b, longest - len(row) :] = torch.tensor(row)
            mask[b, longest - len(row) :] = 1
        return ids, mask

    # ---- running the model ----

    def _model_call(self, inps: Tensor, *args: Any, **options: Any) -> Tensor:
        """Fused logits (B, L, V); with stand-ins the columns before the first answer may be missing.

        `hf` allows for that: it counts from the right. A single specialist's logits come in its own number format, as
        `hf` has them, and are rounded alike in what follows.
        """
        precision = self.mixed_precision_dtype
        if not bool((inps < 0).any()):
            logits: Tensor = super()._model_call(inps, *args, **options)
            return logits if self.model.n_specialists > 1 else logits.to(precision or self.model.specialist(0).dtype)
        with torch.no_grad(), torch.autocast(self.device.type, dtype=precision, enabled=precision is not None):
            return self.model(**self._stand_ins.scoring_form(inps), return_logits=True).logits

    def _model_generate(self, context: Tensor, max_length: int, stop: list[str], **options: Any) -> Tensor:
        """Ids (B, L + new) that continue `context` (B, L); rows with stand-ins start from the specialists' prompts."""
        if bool((context < 0).any()):
            mask = options.pop("attention_mask").bool()
            rows = [ids[keep].tolist() for ids, keep in zip(context, mask, strict=True)]
            inputs = self.model.prepare_prompts([self._stand_ins.prompts(row) for row in rows])
            context = inputs.pop("input_ids")
            options |= inputs | {"eos_token_id": stop_ids(self.model, self.tokenizer)}
        ids: Tensor = super()._model_generate(context, max_length, stop, **options)
        return ids

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval writes about the model, with its specialists and whether its gate is trained."""
        config = self.model.config
        return super().get_model_info() | {
            "specialists": list(config.specialist_names),
            "gate": config.gate["type"],
            "gate_trained": self.model.gate_is_trained,
            "fusion": dict(config.fusion),
        }


def _check_options(options: Mapping[str, Any]) -> None:
    theirs = [name for name in inspect.signature(HFLM.__init__).parameters if name not in ("self", "kwargs")]
    known = ["only", "specialist_paths", "quantise", "tokenise_apart", *theirs]
    for name, value in options.items():
        if name not in known:
            choices = ", ".join(sorted(set(known) - set(NOT_OURS)))
            raise ValueError(f"model_args: {name!r} is not one of {choices}{did_you_mean(name, known)}")
        if name in NOT_OURS and value not in (None, False, "", "default", "causal"):
            raise ValueError(f"model_args: {name}={value!r} is for other kinds of model; leave it out")
        if name.endswith("dtype") and not _is_dtype(value):
            raise ValueError(f"model_args: {name}={value!r} is no number format; try float32, bfloat16 or float16")


def _is_dtype(value: Any) -> bool:
    return value in (None, "auto") or isinstance(getattr(torch, str(value).removeprefix("torch."), None), torch.dtype)
