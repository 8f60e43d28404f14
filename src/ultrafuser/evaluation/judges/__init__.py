"""Judges of free text: a language model behind an endpoint, or a reward model. Light to import."""

from ultrafuser.evaluation.judges.judge import Choice, Chosen, Comparison, Judge, Pair, Rated, Rating
from ultrafuser.evaluation.judges.llm import LLMJudge
from ultrafuser.evaluation.judges.opening import default_cache, open_judge
from ultrafuser.evaluation.judges.reward import RewardJudge

__all__ = [
    "Choice",
    "Chosen",
    "Comparison",
    "Judge",
    "LLMJudge",
    "Pair",
    "Rated",
    "Rating",
    "RewardJudge",
    "default_cache",
    "open_judge",
]
