"""Suites by name; what needs a judge, a server or data says so before anything runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image
from quiz_files import EXACT, write_task
from shards import Shards

from vtr_ray import strategies
from vtr_ray.errors import InputError
from vtr_ray.evaluation.benchmarks import judges
from vtr_ray.evaluation.benchmarks.answering import collect_answers
from vtr_ray.evaluation.benchmarks.catalogue import PAPER, SUITES, Benchmark, benchmarks_of
from vtr_ray.evaluation.benchmarks.content import content_digest
from vtr_ray.evaluation.benchmarks.loading import choose, load_samples
from vtr_ray.evaluation.benchmarks.responses import Responses
from vtr_ray.evaluation.benchmarks.results import figures_of
from vtr_ray.evaluation.samples import Video
from vtr_ray.evaluation.suites import task_names

FILES = EXACT.replace("doc_to_visual: image", "doc_to_visual: !function files.opened")
OPENED = (
    "from PIL import Image\n\n\ndef opened(doc):\n    return [Image.open(doc['answer']).convert('RGB')]\n"
)


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(judges.KEY, raising=False)


def named(title: str) -> Benchmark:
    return next(one for one in PAPER if one.name == title)


def answered(network, chosen, tmp_path: Path, text: str):
    """Figures where every answer is `text`."""
    answers = {(name, number): text for name, own in chosen.documents.items() for number in own.numbers}
    return figures_of(chosen, answers, tmp_path)


def test_suites_hold_the_papers_twelve_in_four_groups_and_every_task_exists() -> None:
    groups = [one.group for one in benchmarks_of(["paper"])]
    assert [groups.count(name) for name in dict.fromkeys(groups)] == [3, 3, 3, 3]
    known = set(task_names(None, groups=True))
    assert {one.task for name in ("paper", "video") for one in SUITES[name]} <= known
    names = [one.task for one in benchmarks_of(["vtr_text", "embedded", "mme", "paper"])]
    assert names[0] == "vtr_text" and len(names) == len(set(names)) == 18
    assert benchmarks_of(["mme"]) == (named("MME"),)


def test_mme_sums_over_categories_and_keeps_pairs_whole(own: Path, network, tmp_path: Path) -> None:
    chosen, missing = choose([named("MME")], own)
    assert not missing
    found = answered(network, chosen[0], tmp_path, "yes")
    # One of each pair right: accuracy 50 and accuracy+ 0 in each of three categories.
    assert found.figures == {"mme_perception_score": 100.0, "mme_cognition_score": 50.0}
    assert found.value == pytest.approx(150 / 2800)
    assert len(found.replicates) == 1000 and found.replicates.std() == pytest.approx(0)
    limited, _ = choose([named("MME")], own, limit=7)
    numbers = limited[0].documents["mme"].numbers
    assert len(numbers) == 6 and all(number ^ 1 in numbers for number in numbers)
    assert answered(network, limited[0], tmp_path, "yes").value is not None


def test_hallusion_bench_is_judged_by_rule_without_a_key(own: Path, network, tmp_path: Path) -> None:
    chosen, missing = choose([named("HallusionBench")], own)
    assert not missing and "rule" in chosen[0].note
    found = answered(network, chosen[0], tmp_path, "Yes, it is.")
    assert found.value == 0.5 and found.figures == {"aAcc": 0.5, "qAcc": 0.5}
    assert len(found.replicates) == 1000
    limited, _ = choose([named("HallusionBench")], own, limit=9)
    assert len(limited[0].documents["hallusion_bench_image"].numbers) == 8  # two figures of four questions


def test_mathvista_without_a_key_reports_its_multiple_choice_part(own: Path, network, tmp_path: Path) -> None:
    chosen, missing = choose([named("MathVista")], own)
    assert not missing and "multiple-choice" in chosen[0].note
    assert judges.KEY not in os.environ
    assert chosen[0].documents["mathvista_testmini_format"].numbers == (1, 3, 5, 7, 9)
    assert answered(network, chosen[0], tmp_path, "(B) two").value == 1.0
    wrong = answered(network, chosen[0], tmp_path, "one")  # lmms-eval reports nothing where all is wrong
    assert set(wrong.scores.values()) == {0.0}


def test_a_group_without_an_aggregate_of_its_own_is_the_mean_of_its_tasks(own: Path, tmp_path: Path) -> None:
    chosen, missing = choose([Benchmark("pair")], own)
    assert not missing
    answers = {("colours", number): "red" for number in range(12)} | {
        ("shapes", number): "circle" for number in range(5)
    }
    found = figures_of(chosen[0], answers, tmp_path)
    assert found.value == pytest.approx((3 / 12 + 5 / 5) / 2)
    assert found.replicates.mean() == pytest.approx(found.value, abs=0.02)
    assert found.replicates.std() == pytest.approx((0.25 * 0.75 / 12) ** 0.5 / 2, rel=0.15)


def test_what_cannot_be_judged_or_is_absent_is_named_and_the_rest_runs(own: Path) -> None:
    asked = [Benchmark("gqa"), Benchmark("colours"), Benchmark("nonsense"), Benchmark("docvqa_test")]
    chosen, missing = choose(asked, own)
    assert [one.benchmark.task for one in chosen] == ["colours"]
    assert "hf download --repo-type dataset lmms-lab" in missing["gqa"]
    assert "unknown task 'nonsense'" in missing["nonsense"]


def test_tasks_that_write_for_a_server_ask_gpt_or_sample_are_refused(tmp_path: Path, own: Path) -> None:
    submission = EXACT.replace(
        "metric_list:\n  - metric: exact_match\n    aggregation: mean",
        "process_results: !function lmms_eval.tasks.textvqa.utils.textvqa_process_results\nmetric_list:\n"
        "  - metric: submission\n"
        "    aggregation: !function lmms_eval.tasks.textvqa.utils.textvqa_aggregate_submissions",
    )
    sampled = EXACT.replace("do_sample: false", "do_sample: true")
    beams = EXACT.replace("do_sample: false", "num_beams: 4")
    for name, yaml in (
        ("served", submission),
        ("sampled", sampled),
        ("beams", beams),
        ("mmbench_en_dev", EXACT),
    ):
        write_task(tmp_path, yaml, name, [("What is it?", "red")])
    _, missing = choose(
        [Benchmark(name) for name in ("served", "sampled", "beams", "mmbench_en_dev")], tmp_path
    )
    for name, text in (
        ("served", "submission server"), ("sampled", "sampled answers"), ("beams", "beam search"),
        ("mmbench_en_dev", "asks GPT"),
    ):  # fmt: skip
        assert text in missing[name]
    with pytest.raises(InputError, match="does not exist"):
        choose([Benchmark("served")], tmp_path / "nowhere")


def test_known_answers_are_not_asked_for_again(own: Path, network, tmp_path: Path) -> None:
    chosen, _ = choose([Benchmark("colours"), Benchmark("shapes")], own)
    samples = load_samples(chosen)
    schedules = {"no reduction": strategies.none(12), "FastV": strategies.fastv(12)}

    def run(path: str, names: list[str], **identity: str) -> tuple[int, dict]:
        pool = Shards(*network, samples, 2, batch=4)
        with Responses(tmp_path / path) as responses:
            picked = {name: schedules[name] for name in names}
            answers, _ = collect_answers(pool, chosen, picked, responses, identity)
        return pool.asked, answers

    first, answers = run("a.sqlite", ["no reduction"])
    assert first == 5  # 3 batches of colours, 2 of shapes: none holds both
    assert run("a.sqlite", ["no reduction"]) == (0, answers)
    again, both = run("a.sqlite", list(schedules))
    assert again == 5 and both["no reduction"] == answers["no reduction"]
    assert run("a.sqlite", ["no reduction"], revision="other")[0] == 5


def test_other_pictures_under_the_same_names_are_asked_about(network, tmp_path: Path) -> None:
    """The task and its data stay as they are; of three files written anew one has the pixels it had."""
    (tmp_path / "files.py").write_text(OPENED)
    write_task(tmp_path, FILES, "files", [(f"what is it {i} ?", f"{tmp_path}/{i}.png") for i in range(5)])
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0), (90, 90, 90)]

    def asked(changed: int) -> int:
        """Documents whose answer was not known."""
        for place, colour in enumerate(colours):
            Image.new("RGB", (64, 64), colour[::-1] if place < changed else colour).save(
                tmp_path / f"{place}.png"
            )
        chosen, missing = choose([Benchmark("files")], tmp_path)
        assert not missing
        pool = Shards(*network, load_samples(chosen), 2, batch=1)
        with Responses(tmp_path / "r.sqlite") as responses:
            answers, _ = collect_answers(pool, chosen, {"all": strategies.none(12)}, responses, {})
        assert len(answers["all"]) == 5
        return pool.asked

    assert [asked(0), asked(0), asked(3), asked(3), asked(0)] == [5, 0, 2, 0, 0]


@pytest.mark.parametrize("kind", ["file", "bytes", "frames"])
def test_a_digest_is_of_the_content(kind: str, tmp_path: Path) -> None:
    found = []
    for place, colour in enumerate(("red", "red", "blue")):
        file = tmp_path / str(place) / "x.png"
        file.parent.mkdir()
        Image.new("RGB", (8, 8), colour).save(file)
        found.append(
            content_digest({"file": file, "bytes": file.read_bytes(), "frames": Video((file, file))}[kind])
        )
    assert found[0] == found[1] != found[2]
    assert content_digest(tmp_path / "gone.png").startswith("FileNotFoundError")


def test_a_killed_evaluation_goes_on_where_it_stopped(own: Path, network, tmp_path: Path) -> None:
    chosen, _ = choose([Benchmark("colours")], own)
    samples = load_samples(chosen)

    class Dying(Shards):
        def evaluate(self, schedule, batches, on_outcomes) -> None:
            super().evaluate(schedule, batches[:2], on_outcomes)
            raise KeyboardInterrupt

    schedules = {"FastV": strategies.fastv(12)}
    with Responses(tmp_path / "r.sqlite") as responses, pytest.raises(KeyboardInterrupt):
        collect_answers(Dying(*network, samples, 1, batch=4), chosen, schedules, responses, {})
    pool = Shards(*network, samples, 1, batch=4)
    with Responses(tmp_path / "r.sqlite") as responses:
        resumed, _ = collect_answers(pool, chosen, schedules, responses, {})
    assert pool.asked == 1
    fresh = Shards(*network, samples, 1, batch=4)
    with Responses(tmp_path / "new.sqlite") as responses:
        assert collect_answers(fresh, chosen, schedules, responses, {})[0] == resumed


def test_a_damaged_file_of_answers_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "r.sqlite").write_text("not a database, certainly not one of answers" * 30)
    with pytest.raises(InputError, match="delete it or name another"):
        Responses(tmp_path / "r.sqlite")
