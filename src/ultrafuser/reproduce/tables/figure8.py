"""Figure 8: answers token by token, coloured by the specialist that has the largest weight."""

from __future__ import annotations

from ultrafuser.analysis.colours import colour
from ultrafuser.analysis.token_lines import Piece, token_lines
from ultrafuser.reproduce.plan import Plan
from ultrafuser.reproduce.readings import reading_run
from ultrafuser.reproduce.runs import Results, Run
from ultrafuser.reproduce.tables.drawing import UNKNOWN
from ultrafuser.reproduce.tables.table import Picture, Table, TableSpec

TITLE = "Figure 8: who speaks at each token"


def needs(plan: Plan) -> list[Run]:
    """The fused model of the first seed, read token by token."""
    return [reading_run(plan, plan.seeds[0])]


def make(plan: Plan, results: Results) -> Table:
    """The first held-out answer of middling length in each column."""
    result = results.get(needs(plan)[0])
    pictures = []
    if result is not None and result["examples"]:
        names = result["specialists"]
        texts = [
            (f"{column}: {identity}", [Piece(text, weights) for text, weights in pieces])
            for column, identity, pieces in result["examples"]
        ]
        caption = "The deeper the colour, the further the first specialist leads. The pointer shows the weights."
        legend = [(name, colour(j)) for j, name in enumerate(names)]
        pictures.append(Picture("Given answers, as the gate reads them.", token_lines(texts, names), caption, legend))
    text = (
        "Held-out answers, not the model's own: the weights with which each token would have been spoken, of the "
        f"first seed. Of each column it is the first answer that is neither very short nor long. {UNKNOWN}"
    )
    return Table(TITLE, text, pictures=pictures)


TABLE = TableSpec(TITLE, needs, make)
