"""The tables and figures that can be reproduced: a new one is a module with a `TABLE`, and a row here."""

from __future__ import annotations

from ultrafuser.lookup import lookup
from ultrafuser.reproduce.plan import Plan
from ultrafuser.reproduce.runs import Run
from ultrafuser.reproduce.scales import SCALES
from ultrafuser.reproduce.tables import (
    beyond,
    domains,
    figure1,
    figure4,
    figure5,
    figure6,
    figure7,
    figure8,
    figure9,
    saturation,
    table1,
    table2,
    table3,
    table4,
    table5,
    table6,
    table7,
    table8,
    table9,
    table10,
    table11,
)
from ultrafuser.reproduce.tables.table import TableSpec

TABLES: dict[str, TableSpec] = {
    "table1": table1.TABLE,
    "table2": table2.TABLE,
    "table3": table3.TABLE,
    "table4": table4.TABLE,
    "table5": table5.TABLE,
    "table6": table6.TABLE,
    "table7": table7.TABLE,
    "table8": table8.TABLE,
    "table9": table9.TABLE,
    "table10": table10.TABLE,
    "table11": table11.TABLE,
    "figure1": figure1.TABLE,
    "figure4": figure4.TABLE,
    "figure5": figure5.TABLE,
    "figure6": figure6.TABLE,
    "figure7": figure7.TABLE,
    "figure8": figure8.TABLE,
    "figure9": figure9.TABLE,
    "saturation": saturation.TABLE,
    "beyond": beyond.TABLE,
    "domains": domains.TABLE,
}


def chosen_tables(scale: str, only: str | None) -> list[str]:
    """The names to make, in the order of TABLES: those of `only` ("table1,table3"), else those of the scale.

    Raises ValueError for a name that does not exist.
    """
    if only is not None:
        names = [name.strip() for name in only.split(",") if name.strip()]
        for name in names:
            lookup(TABLES, name, "--only")
        if not names:
            raise ValueError(f"--only: {only!r} names no table; choose from {', '.join(TABLES)}")
    else:
        own = lookup(SCALES, scale, "--scale").tables
        names = list(TABLES if own is None else own)
    return [name for name in TABLES if name in names]


def wanted_runs(plan: Plan) -> list[Run]:
    """What the plan's tables need, table by table."""
    return [run for name in plan.tables for run in TABLES[name].needs(plan)]
