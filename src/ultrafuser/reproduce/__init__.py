"""Reproduces the paper's tables and figures at a chosen scale: named runs, cells, report. Imports no torch itself."""

from ultrafuser.reproduce.plan import Plan, make_plan
from ultrafuser.reproduce.run import report_so_far, reproduce
from ultrafuser.reproduce.scales import SCALES
from ultrafuser.reproduce.tables import TABLES, chosen_tables

__all__ = ["SCALES", "TABLES", "Plan", "chosen_tables", "make_plan", "report_so_far", "reproduce"]
