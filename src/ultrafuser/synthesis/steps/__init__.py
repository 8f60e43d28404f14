"""The steps, in the order in which they are run (METHOD section 4 of the paper's data: UltraChat 2)."""

from ultrafuser.synthesis.steps.answering import COMPLICATION, FURTHER_TURNS, RESPONSES, conversations
from ultrafuser.synthesis.steps.instructions import EXPANSION, INSTRUCTIONS
from ultrafuser.synthesis.steps.step import Pool, Step
from ultrafuser.synthesis.steps.topics import META_TOPICS, SUB_TOPICS

__all__ = ["STEPS", "Pool", "Step", "conversations"]

_ROWS = (META_TOPICS, SUB_TOPICS, INSTRUCTIONS, EXPANSION, COMPLICATION, RESPONSES, FURTHER_TURNS)

STEPS: dict[str, Step] = {step.name: step for step in _ROWS}
