from collections.abc import Callable

from ultrafuser.preflight import check
from ultrafuser.recipe import Recipe


def test_a_good_recipe_passes_without_a_warning(make_recipe: Callable[..., Recipe]) -> None:
    report = check(make_recipe())
    print("\n".join(f"{f.level:8} {f}" for f in report.findings))
    assert [str(f) for f in report.findings if f.level != "ok"] == []
    assert report.ok
