"""Saturation: fewer and more steps of the fused model and its rivals, on a micro trio."""

import pytest

from ultrafuser.reproduce import make_plan, reproduce
from ultrafuser.reproduce.cells import MEAN
from ultrafuser.reproduce.runs import Store
from ultrafuser.reproduce.tables import saturation


@pytest.fixture(scope="module")
def made(micro_recipe, tmp_path_factory):
    """The finished table with one rival that needs no common base."""
    patch = pytest.MonkeyPatch()
    patch.setattr(saturation, "RIVALS", ("uniform-trained",))
    plan = make_plan("smoke", ["saturation"], recipe=micro_recipe)
    folder = tmp_path_factory.mktemp("saturation") / "run"
    yield plan, reproduce(folder, plan, workers=0), Store(folder, plan)
    patch.undo()


def test_each_row_took_its_share_of_the_steps(made) -> None:
    plan, report, store = made
    assert not report.failures
    taken = {}
    for method in (saturation.FUSED, "uniform-trained"):
        for share in saturation.SHARES:
            (run,) = saturation.runs_of(plan, method, share)
            cost = store.read(run)["made"]
            taken[method, share] = cost.get("all", cost)["steps"]
    assert list(taken.values()) == [2, 4, 8] * 2  # 2 + 2 steps, of which a stage keeps one at least


def test_differences_are_against_as_many_steps(made) -> None:
    _, report, _ = made
    rows = {row.key: row for row in report.tables["saturation"].rows}
    for share in ("0.25", "1", "2"):
        ours, rival = rows[f"fused@{share}"], rows[f"uniform-trained@{share}"]
        assert ours.group == rival.group
        assert rival.differences[MEAN].mean == pytest.approx(rival.cells[MEAN].mean - ours.cells[MEAN].mean)
    (finding,) = report.tables["saturation"].findings
    signs = [rows[f"uniform-trained@{share}"].differences[MEAN].sign for share in ("0.25", "1", "2")]
    assert finding.verdict == ("yes" if min(signs) > 0 else "no" if min(signs) < 0 else "even")
    (picture,) = report.tables["saturation"].pictures
    assert "uniform-trained" in picture.svg
