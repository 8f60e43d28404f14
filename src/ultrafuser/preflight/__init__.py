"""The check of a recipe before anything large is loaded: configurations, tokenizers and safetensors headers only."""

from ultrafuser.preflight.check import check, check_file
from ultrafuser.preflight.findings import Finding, PreflightError, Report
from ultrafuser.preflight.memory import gib
from ultrafuser.preflight.output import held_model

__all__ = ["Finding", "PreflightError", "Report", "check", "check_file", "gib", "held_model"]
