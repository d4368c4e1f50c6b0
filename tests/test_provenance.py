"""Where a schedule was found: kept by files, no part of its value, and what commands refuse by it."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
from commands import run_here

from vtr_ray import Schedule, embedded, strategies
from vtr_ray.cli import main
from vtr_ray.errors import InputError
from vtr_ray.evaluation.samples import Sample, SampleSet
from vtr_ray.evaluation.statistics import wilson_interval
from vtr_ray.models import revision_of
from vtr_ray.provenance import check_model, provenance, with_provenance

PLAIN = Schedule.from_rates([1, 1, *[0.5] * 10])


def found(**changes):
    samples = SampleSet((Sample("a", ".", b"", "?", ("yes",)), Sample("b", ".", b"", "?", ("no",))))
    source = provenance("gsearch", "embedded", 144, samples)
    return with_provenance(PLAIN, {**source, **changes}, 0.5, 1.0)


def test_it_is_kept_and_is_no_part_of_the_value(tmp_path):
    schedule = found()
    schedule.save(tmp_path / "s.json")
    for same in (
        Schedule.load(tmp_path / "s.json"),
        Schedule.from_dict(schedule.to_dict()),
        pickle.loads(pickle.dumps(schedule)),
    ):
        assert same == schedule == PLAIN and hash(same) == hash(PLAIN) and same.found == schedule.found
    said = json.loads((tmp_path / "s.json").read_text())["found"]
    assert (said["command"], said["model"], said["vision_tokens"], said["labels"]) == (
        "gsearch",
        "embedded",
        144,
        "given",
    )
    assert said["revision"] == revision_of(str(embedded.MODEL)) and said["samples"]["count"] == 2
    assert (said["E"], said["E_no_reduction"]) == (0.5, 1.0)
    assert said["E_interval"] == list(wilson_interval(0.5, 2))
    assert said["versions"].keys() == {"vtr-ray", "transformers", "torch"}


def test_files_of_earlier_versions_load_and_unknown_keys_are_refused():
    old = PLAIN.to_dict()
    assert "found" not in old and Schedule.from_dict(old).found is None
    with pytest.raises(InputError, match="has no 'origin'"):
        Schedule.from_dict({**old, "origin": {}})
    with pytest.raises(InputError, match="found is 'here'"):
        Schedule.from_dict({**old, "found": "here"})


@pytest.mark.parametrize("derived", [strategies.random, strategies.one_cut])
def test_what_is_derived_was_not_found(derived):
    assert derived(found()).found is None


@pytest.mark.parametrize("hits", [0, 1, 37, 80])
def test_interval_of_a_proportion(hits):
    from scipy.stats import binomtest

    theirs = binomtest(hits, 80).proportion_ci(method="wilson")
    assert wilson_interval(hits / 80, 80) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


@pytest.fixture
def elsewhere(tmp_path):
    """The embedded model's files in another place."""
    return str(shutil.copytree(embedded.MODEL, tmp_path / "copied"))


def test_the_same_weights_are_the_same_model_wherever_they_lie(elsewhere):
    for schedule in (found(), found(model=elsewhere, revision=revision_of(elsewhere)), PLAIN):
        check_model(schedule, "s.json", "embedded")
    check_model(found(revision=revision_of(elsewhere)), "s.json", elsewhere)


def test_other_weights_under_the_same_name(elsewhere):
    schedule = found(model=elsewhere, revision=revision_of(elsewhere))
    config = Path(elsewhere) / "config.json"
    config.write_text(config.read_text() + "\n")
    with pytest.raises(
        InputError, match=r"s\.json was found on .*copied before its weights changed .*--force"
    ):
        check_model(schedule, "s.json", elsewhere)
    check_model(schedule, "s.json", elsewhere, force=True)


@pytest.mark.parametrize("variant", ["embedded:deco", "embedded:internvl"])
def test_variants_are_other_models(variant):
    with pytest.raises(InputError, match=f"s.json was found on embedded, not on {variant}; .*--force"):
        check_model(found(), "s.json", variant)


def test_names_decide_where_a_revision_is_missing(monkeypatch):
    monkeypatch.setattr("vtr_ray.provenance.revision_of", lambda path: "")  # a hub's model not yet fetched
    check_model(found(model="org/model", revision="abc"), "s.json", "org/model")
    with pytest.raises(InputError, match="found on org/model, not on org/other"):
        check_model(found(model="org/model", revision="abc"), "s.json", "org/other")


def test_a_snapshot_of_the_hubs_cache_is_the_hubs_model(monkeypatch):
    states = {"org/model": "c0ffee", "/cache/models--org--model/snapshots/c0ffee": "digest"}
    monkeypatch.setattr("vtr_ray.provenance.revision_of", states.get)
    for here, there in (states, reversed(states)):
        check_model(found(model=there, revision=states[there]), "s.json", here)


COMMANDS = {
    "evaluate": ["evaluate", "s.json"],
    "suite": ["evaluate", "s.json", "--suite", "embedded"],
    "bench": ["bench", "s.json"],
    "plan": ["plan", "s.json", "--gpu", "h100"],
    "show": ["show", "s.json"],
    "psigmoid": ["psigmoid", "--match", "s.json"],
    "study": ["study", "efficiency", "s.json"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_refuse_what_was_found_on_another_model(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    found().save("s.json")
    with pytest.raises(SystemExit) as stopped:
        main([*COMMANDS[command], "--model", "embedded:deco"])
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert stopped.value.code == 2
    assert line == (
        "vtr-ray: s.json was found on embedded, not on embedded:deco; search one for it, or use it all the "
        "same with --force"
    )


def test_commands_obey_force_and_show_where_it_was_found(tmp_path):
    found(labels="self").save(tmp_path / "s.json")
    run_here(tmp_path, "plan", "s.json", "--gpu", "h100", "--model", "embedded:deco", "--force")
    said = run_here(tmp_path, "show", "s.json", "--model", "embedded")
    assert "Found by gsearch on embedded (revision " in said
    assert "E 0.5000 [0.0945, 0.9055] (no reduction: 1.0000), agreement with the model's own answers" in said
