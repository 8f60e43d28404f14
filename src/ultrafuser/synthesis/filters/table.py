"""The table of filters. A new one is one more row."""

from ultrafuser.synthesis.filters.code import CODE
from ultrafuser.synthesis.filters.decontamination import DECONTAMINATION
from ultrafuser.synthesis.filters.duplicates import DUPLICATES, NEAR_DUPLICATES
from ultrafuser.synthesis.filters.filter import Filter
from ultrafuser.synthesis.filters.judging import JUDGE
from ultrafuser.synthesis.filters.language import LANGUAGE
from ultrafuser.synthesis.filters.math import MATH
from ultrafuser.synthesis.filters.wording import LENGTH, REFUSAL, SELF_CONTAINED, TRUNCATION

__all__ = ["FILTERS"]

_ROWS = (
    LENGTH, REFUSAL, TRUNCATION, SELF_CONTAINED, LANGUAGE, DUPLICATES, NEAR_DUPLICATES, DECONTAMINATION, CODE, MATH,
    JUDGE,
)  # fmt: skip

FILTERS: dict[str, Filter] = {row.name: row for row in _ROWS}
