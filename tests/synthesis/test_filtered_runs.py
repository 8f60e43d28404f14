"""Runs with filters at different speeds: the same records are kept, for the same reasons."""

from author import author

from ultrafuser.synthesis import Journal
from ultrafuser.synthesis.pipeline import Pipeline
from ultrafuser.synthesis.steps import STEPS


def test_what_is_kept_does_not_depend_on_time(serve, make_spec, tmp_path):
    server = serve(author)
    names = ["length", "refusal", "truncation", "self_contained", "duplicates", {"name": "near_duplicates"}]
    names[-1]["options"] = {"threshold": 0.4}
    kept = []
    for concurrency in (1, 8):
        endpoint = {"base_url": server.url, "concurrency": concurrency}
        spec = make_spec("", filters=names, endpoints=[endpoint], output=str(tmp_path / str(concurrency)))
        with Journal(spec.output_folder) as journal:
            assert Pipeline(spec, journal).run(review=False) is None
            kept.append([(r.id, r.state, r.reason) for step in STEPS for r in journal.records(step, rejected=True)])
    assert kept[0] == kept[1]
    assert {state for _, state, _ in kept[0]} == {"kept", "rejected"}
