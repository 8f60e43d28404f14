"""Review by a person: the file, what its edits do, what it says when they make no sense."""

import pytest
import yaml
from author import author

from ultrafuser.synthesis import Journal
from ultrafuser.synthesis.pipeline import Pipeline
from ultrafuser.synthesis.review import file_of


@pytest.fixture
def stopped(serve, make_spec):
    """Spec, journal and server of a run that waits for the review of its meta-topics."""
    server = serve(author)
    spec = make_spec(server.url, domains=["text", "math"])
    with Journal(spec.output_folder) as journal:
        assert Pipeline(spec, journal).run().kind == "review"
        yield spec, journal, server


def edit(journal, change, step="meta_topics"):
    file = file_of(journal, step)
    data = yaml.safe_load(file.read_text(encoding="utf-8"))
    change(data)
    file.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")


def topics(journal, domain="text", step="meta_topics"):
    return [record.data["name"] for record in journal.records(step, domain)]


def test_an_untouched_file_is_consent(stopped):
    spec, journal, server = stopped
    asked = len(server.bodies)
    assert file_of(journal, "meta_topics").read_text(encoding="utf-8").startswith("# Broad topics of the domain")
    assert Pipeline(spec, journal).run() is None
    assert len(server.bodies) > asked


def test_removed_edited_and_added_topics_decide_what_follows(stopped):
    spec, journal, server = stopped
    first, second = topics(journal)

    def change(data):
        data["text"] = [data["text"][1] | {"name": "Lighthouses"}, {"name": "Ferries"}]

    edit(journal, change)
    assert Pipeline(spec, journal).run() is None
    assert topics(journal) == ["Lighthouses", "Ferries"]
    removed, edited = list(journal.records("meta_topics", "text", rejected=True))[:2]
    assert (removed.data["name"], removed.state, removed.reason) == (first, "rejected", "removed in review")
    assert edited.state == "edited"
    assert second in edited.reason
    prompts = [body["messages"][-1]["content"] for body in server.bodies]
    assert any('topic "Ferries"' in prompt for prompt in prompts)
    assert not any(f'topic "{second}"' in prompt or f'topic "{first}"' in prompt for prompt in prompts)
    assert len(topics(journal, step="sub_topics")) == 4


def test_an_edit_after_the_end_remakes_only_what_depends_on_it(stopped):
    spec, journal, server = stopped
    assert Pipeline(spec, journal).run() is None
    before, asked = topics(journal, "math"), len(server.bodies)
    kept = {record.id for record in journal.records("responses", "math")}
    edit(journal, lambda data: data["text"][0].update(name="Lighthouses"))
    assert Pipeline(spec, journal).run() is None
    assert topics(journal, "math") == before
    assert {record.id for record in journal.records("responses", "math")} == kept
    assert all(" math" not in body["messages"][-1]["content"] for body in server.bodies[asked:])
    assert 0 < len(server.bodies) - asked < asked
    edit(journal, lambda data: data["text"].append({"name": "Ferries"}))
    assert Pipeline(spec, journal).run() is None
    assert Pipeline(spec, journal).run() is None  # the entry has no id in the file: it is still the same one
    assert topics(journal)[-1] == "Ferries"


def test_sub_topics_can_be_reviewed_too(serve, make_spec):
    spec = make_spec(serve(author).url, domains=["code"], review=["sub_topics"])
    with Journal(spec.output_folder) as journal:
        assert Pipeline(spec, journal).run().kind == "review"
        topic = topics(journal, "code")[1]
        new = {"meta_topic": topic, "name": "Sorting maps", "relevance": "It matters.", "use_case": "One needs it."}
        edit(journal, lambda data: data["code"].append(new), "sub_topics")
        assert Pipeline(spec, journal).run() is None
        added = [record for record in journal.records("sub_topics") if record.data["name"] == "Sorting maps"]
        assert [record.reason for record in added] == ["added by hand"]
        assert journal.record(added[0].parents[0]).data["name"] == topic
        assert len(list(journal.children(added[0].id, "instructions"))) == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data["text"].append("Ferries"), "'Ferries' is no entry; write `- name: Ferries`"),
        (lambda data: data["text"][0].update(id="x.0"), "id 'x.0' is not one that was written here"),
        (lambda data: data["text"][0].update(nam="x"), "no such field 'nam'; the fields are name"),
        (lambda data: data["text"][0].update(name=3), "name: 3 is no text"),
    ],
)
def test_what_makes_no_sense_is_said_with_its_line(stopped, change, words):
    spec, journal, _ = stopped
    edit(journal, change)
    with pytest.raises(ValueError, match=r"meta_topics\.yaml: line \d+: text: ") as caught:
        Pipeline(spec, journal).run()
    assert words in str(caught.value)


def test_without_review_it_goes_straight_on(serve, make_spec):
    spec = make_spec(serve(author).url, domains=["code"])
    with Journal(spec.output_folder) as journal:
        assert Pipeline(spec, journal).run(review=False) is None
        assert not file_of(journal, "meta_topics").exists()
