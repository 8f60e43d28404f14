"""What must hold of records: the table of filters, and applying a spec's to what a step made."""

from ultrafuser.synthesis.filters.applying import apply_filter, check_filters, chosen_filters, content_print, restore
from ultrafuser.synthesis.filters.filter import Filter, FilterOptions, Verdicts, Work
from ultrafuser.synthesis.filters.report import removed, write_report
from ultrafuser.synthesis.filters.table import FILTERS

__all__ = [
    "FILTERS",
    "Filter",
    "FilterOptions",
    "Verdicts",
    "Work",
    "apply_filter",
    "check_filters",
    "chosen_filters",
    "content_print",
    "removed",
    "restore",
    "write_report",
]
