"""The demo: fuses the shipped trio live and compares the result with all it should beat. Imports no torch itself."""

from ultrafuser.demo.plan import DemoPlan, DemoSources, make_plan, shipped_sources
from ultrafuser.demo.results import DemoDetails, DemoResult
from ultrafuser.demo.run import Progress, load_result, run_demo

__all__ = [
    "DemoDetails",
    "DemoPlan",
    "DemoResult",
    "DemoSources",
    "Progress",
    "load_result",
    "make_plan",
    "run_demo",
    "shipped_sources",
]
