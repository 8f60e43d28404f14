"""Runs generated Python programs so that they can harm nothing but themselves."""

from ultrafuser.evaluation.sandbox.limits import Limits, Outcome, Program
from ultrafuser.evaluation.sandbox.pool import Sandbox

__all__ = ["Limits", "Outcome", "Program", "Sandbox"]
