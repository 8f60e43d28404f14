"""A reward model as the judge: the answer with the higher reward wins. Sequence classifiers with one output."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from ultrafuser.evaluation.judges.judge import Choice, Chosen, Comparison, Pair, Rated, Rating

__all__ = ["RewardJudge"]

SAME = 1e-6  # rewards closer than this are a tie
CHAT, TEXT_PAIR = "chat template", "text pair"


class RewardJudge:
    """Judges with a Transformers sequence-classification model whose single output is a reward.

    Conversations go through the model's own chat template; one without (as the DeBERTa reward models) reads question
    and answer as a pair of texts. What is longer than its context is cut at the start, and said in the detail.
    `device` None is the fastest there is. Raises ValueError, before weights are read where that can be known, for a
    folder that holds no reward model.
    """

    rates = False

    def __init__(self, folder: str | Path, *, device: str | None = None, batch_size: int = 8) -> None:
        self._folder = Path(folder).expanduser()
        self.name = self._folder.name
        _check(self._folder)
        from transformers import AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(self._folder)
        self._model = _load(self._folder).to(device or _fastest()).eval()
        self._format = CHAT if self._tokenizer.chat_template else TEXT_PAIR
        self._batch_size = batch_size

    def compare(self, cases: Sequence[tuple[str, str, str]]) -> list[Comparison]:
        """One comparison per (instruction, answer, reference), in their order."""
        pairs = [Pair(*case) for case in cases]
        texts = [(pair.instruction, text) for pair in pairs for text in (pair.answer, pair.reference)]
        scored = self._score(texts)
        return [_compared(scored[2 * number], scored[2 * number + 1]) for number in range(len(pairs))]

    def rate(self, cases: Sequence[Rated]) -> list[Rating]:
        """Never: a reward has no scale from 1 to 10."""
        raise ValueError(
            f"--reward-model: {self.name} compares answers and cannot rate them from 1 to 10; "
            "for ratings give a language model, --judge URL --judge-model NAME"
        )

    def choose(self, cases: Sequence[Choice]) -> list[Chosen]:
        """The candidate with the highest mean reward over its answers, each after the conversation up to it."""
        spoken = [
            ("\n\n".join([*sum(zip(case.questions[:turn], texts[:turn], strict=True), ()), case.questions[turn]]), text)
            for case in cases
            for texts in case.candidates
            for turn, text in enumerate(texts)
        ]
        rewards = iter(reward for reward, _ in self._score(spoken))
        found = []
        for case in cases:
            means = [fmean([next(rewards) for _ in texts]) for texts in case.candidates]
            found.append(Chosen(means.index(max(means)), {"rewards": means}))
        return found

    def describe(self) -> dict[str, Any]:
        """Folder, architecture and number format."""
        return {
            "kind": "reward model",
            "folder": str(self._folder.absolute()),
            "architecture": type(self._model).__name__,
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "format": self._format,
        }

    def close(self) -> None:
        """Let go of the weights."""
        self._model = None

    def _score(self, texts: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """(reward, whether it was cut) of each (question, answer), in their order."""
        encoded = [self._encode(question, answer) for question, answer in texts]
        longest = _context(self._model.config)
        rewards: dict[int, float] = {}
        for batch in self._batches([len(ids["input_ids"]) for ids in encoded]):
            rewards |= zip(batch, self._rewards([_cut(encoded[number], longest) for number in batch]), strict=True)
        return [(rewards[number], len(ids["input_ids"]) > longest) for number, ids in enumerate(encoded)]

    def _encode(self, question: str, answer: str) -> dict[str, list[int]]:
        if self._format == TEXT_PAIR:
            encoded = self._tokenizer(question, answer)
        else:
            messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            text = self._tokenizer.apply_chat_template(messages, tokenize=False)
            encoded = self._tokenizer(text, add_special_tokens=False)
        return {name: list(values) for name, values in encoded.items() if name in ("input_ids", "token_type_ids")}

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Numbers of like length together, the longest first.

        A model that knows no padding token finds its last token only in a row of its own.
        """
        size = self._batch_size if self._model.config.pad_token_id is not None else 1
        order = sorted(range(len(lengths)), key=lambda number: -lengths[number])
        for start in range(0, len(order), size):
            yield order[start : start + size]

    def _rewards(self, rows: Sequence[dict[str, list[int]]]) -> list[float]:
        import torch

        width = max(len(row["input_ids"]) for row in rows)
        padding = {"input_ids": self._model.config.pad_token_id or 0, "token_type_ids": 0, "attention_mask": 0}
        columns = {
            name: torch.tensor([row[name] + [padding[name]] * (width - len(row[name])) for row in rows])
            for name in rows[0]
        }
        with torch.inference_mode():
            logits = self._model(**{name: values.to(self._model.device) for name, values in columns.items()}).logits
        return logits[:, 0].float().tolist()


def _check(folder: Path) -> None:
    """Refuse, before weights are read, what can be seen to be no reward model."""
    if not (folder / "config.json").is_file():
        kind = "has no config.json" if folder.is_dir() else "does not exist"
        raise ValueError(f"--reward-model: folder {str(folder)!r} {kind}; name the folder of a reward model")
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder)
    if config.num_labels != 1:
        raise ValueError(
            f"--reward-model: {str(folder)!r} has {config.num_labels} outputs; a reward model has one (num_labels: 1)"
        )


def _load(folder: Path) -> Any:
    """The model; a head that the folder has no weights for would judge at random, so it is refused."""
    from transformers import AutoModelForSequenceClassification

    model, info = AutoModelForSequenceClassification.from_pretrained(folder, dtype="auto", output_loading_info=True)
    missing = sorted(info["missing_keys"])
    if missing:
        raise ValueError(
            f"--reward-model: {str(folder)!r} has no weights for {', '.join(missing[:3])}, so it is not a trained "
            "reward model; name the folder of one"
        )
    return model


def _fastest() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def _context(config: Any) -> int:
    return int(getattr(config, "max_position_embeddings", None) or 1 << 30)


def _cut(row: dict[str, list[int]], longest: int) -> dict[str, list[int]]:
    """The row's end, at most `longest` tokens, with its attention mask."""
    kept = {name: values[-longest:] for name, values in row.items()}
    return kept | {"attention_mask": [1] * len(kept["input_ids"])}


def _compared(answer: tuple[float, bool], reference: tuple[float, bool]) -> Comparison:
    (reward, cut), (other, other_cut) = answer, reference
    win = 0.5 if abs(reward - other) <= SAME else float(reward > other)
    detail: dict[str, Any] = {"reward": reward, "reference_reward": other}
    if cut or other_cut:
        detail["cut"] = {"answer": cut, "reference": other_cut}
    return Comparison(win, f"reward {reward:.3f} against {other:.3f}", detail)
