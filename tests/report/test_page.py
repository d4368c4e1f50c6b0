"""The comparison page without a browser: what it holds, what it escapes, that its data are its figures'."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import page_files
import pytest
from page_reader import Made, Reader
from PIL import Image

from vtr_ray.errors import InputError
from vtr_ray.report.page.drawing import GRID, INK, PAPER, SERIES
from vtr_ray.report.page.evaluations import Evaluation, read_samples
from vtr_ray.report.page.progress import draw_layers
from vtr_ray.report.page.searches import read_search_run
from vtr_ray.report.page.viewer import viewer
from vtr_ray.schedule import Schedule
from vtr_ray.search import GSearch
from vtr_ray.search.fit import fit_p_sigmoid

EVIL = "</script><script>alert('x')</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("page")
    _, evaluation = page_files.write_all(folder)
    return Made([evaluation], folder / "page")


def made_of(tmp_path: Path, content: dict[str, Any], chosen: dict[str, Any] | None) -> Made:
    return Made([page_files.write_evaluation(tmp_path / "evaluate-x", content, chosen)], tmp_path / "page")


SCHEDULE = Schedule.from_rates([1, 1, *[0.25] * 5, *[0.1] * 5])


def test_the_search_that_an_evaluation_names_is_shown_without_being_asked_for(made: Made) -> None:
    (search,) = made.inputs.searches
    assert search.found == made.inputs.schedules["G-Search"]
    heads = [text for text in made.html.texts["h2"] if text.strip()]
    assert heads == [
        *("Keeping rates", "Benchmarks", "Accuracy against TFLOPs", "Samples", "Search progress"),
    ]
    assert [link["href"] for link in made.html.all("a") if (link["href"] or "").startswith("#")][1:] == [
        "#keeping-rates", "#benchmarks", "#accuracy-against-tflops", "#samples", "#search-progress",
    ]  # fmt: skip


def test_the_page_is_whole_by_itself_and_small(made: Made) -> None:
    assert len(made.text) < 3_000_000
    addresses = [
        value
        for _, found in made.html.elements
        for name, value in found.items()
        if name in ("src", "href", "xlink:href", "action", "poster", "srcset") and value
    ]
    assert addresses and all(address.startswith(("#", "data:")) for address in addresses)
    assert "http://" not in made.text and "https://" not in made.text and "@import" not in made.text
    assert not [url for url in re.findall(r"url\((.)", made.text) if url != "#"]


def test_ids_are_unique_and_what_refers_to_them_finds_them(made: Made) -> None:
    ids = [found["id"] for _, found in made.html.elements if "id" in found]
    assert len(ids) == len(set(ids))
    named = re.findall(r"url\(#([^)]+)\)", made.text)
    named += [
        v[1:]
        for _, found in made.html.elements
        for k, v in found.items()
        if k.endswith("href") and v[0] == "#"
    ]
    for _, found in made.html.elements:
        named += (found.get("aria-labelledby") or "").split()
    assert named and not set(named) - set(ids)


def test_figures_take_the_colours_of_the_page_and_say_what_they_show(made: Made) -> None:
    charts = re.findall(r'<figure class="chart">(<svg .*?</svg>)', made.text, flags=re.S)
    assert len(charts) == 2 + 4 + 1
    for chart in charts:
        assert not [colour for colour in (INK, GRID, PAPER, *SERIES) if colour in chart]
        assert not re.findall(r"#[0-9a-f]{6}\b", chart)
        assert "currentColor" in chart and "var(--series-" in chart
        assert re.search(r"<title [^>]*>[^<]+</title><desc [^>]*>[^<]+</desc>", chart)
    for name, schedule in made.inputs.schedules.items():  # words are not shortened as paths are
        assert f">{name} ({schedule.memory_cost:.3f})</text>" in charts[0]
    assert INK in (made.folder / "figures" / "accuracy.svg").read_text()


def test_each_figure_lies_beside_the_page_and_in_it_as_png_svg_and_csv(made: Made) -> None:
    links = {link["download"]: link["href"] for link in made.html.all("a") if "download" in link}
    names = {path.stem for path in (made.folder / "figures").iterdir()}
    assert names >= {"keeping-rates", "accuracy", "gsearch-20261125-101500-layer-12"}
    for name in names:
        for folder, ending in (("figures", "png"), ("figures", "svg"), ("data", "csv")):
            inside = base64.b64decode((links[f"{name}.{ending}"] or "").partition("base64,")[2])
            beside = (made.folder / folder / f"{name}.{ending}").read_bytes()
            assert inside == beside
        Image.open(made.folder / "figures" / f"{name}.png").verify()
    sheets = {path.stem for path in (made.folder / "data").iterdir()} - names
    assert sheets == {"benchmarks", "differences", "p-sigmoid-fits"}
    assert {f"{sheet}.csv" for sheet in sheets} <= links.keys()


def test_the_curves_data_are_the_schedules_and_their_fits(made: Made) -> None:
    rows = made.data("keeping-rates")
    for name, schedule in made.inputs.schedules.items():
        own = [row for row in rows if row["strategy"] == name]
        assert tuple(float(row["keeping_rate"]) for row in own) == schedule.rates
        if schedule.reduces:
            fit = fit_p_sigmoid(schedule)
            assert [float(row["p_sigmoid"]) for row in own[2:]] == list(fit.schedule.rates[2:])
            (shown,) = (row for row in made.data("p-sigmoid-fits") if row["strategy"] == name)
            assert [float(shown[key]) for key in ("b", "k", "alpha", "r2")] == [
                *(fit.b, fit.k, fit.alpha, fit.r2)
            ]
    assert "FastV, random tokens" not in {row["strategy"] for row in rows}


def test_the_accuracy_figure_draws_its_data(made: Made) -> None:
    strategies = made.inputs.evaluations[0].results.strategies
    rows = {row["strategy"]: row for row in made.data("accuracy")}
    for name, strategy in strategies.items():
        mean = strategy.average
        assert [float(rows[name][key]) for key in ("tflops", "average", "low", "high")] == [
            *(strategy.tflops, mean.value, mean.low, mean.high)
        ]
    front = {name for name, row in rows.items() if row["on_front"] == "1"}
    for name in front:
        assert not [
            other
            for other, row in rows.items()
            if row["control"] == ""
            and float(row["tflops"]) < float(rows[name]["tflops"])
            and float(row["average"]) >= float(rows[name]["average"])
        ]
    assert {"no reduction", "G-Search", "VTW"} <= front and "FastV" not in front
    assert {name: row["control"] for name, row in rows.items() if row["control"]} == {
        "FastV, random tokens": "random tokens", "P-Sigmoid, one cut": "one cut"
    }  # fmt: skip
    assert "P-Sigmoid, one cut" not in front and "Accuracy against TFLOPs, with 95 % intervals" in made.text


def test_the_layers_data_are_the_searches_trials_and_beliefs(made: Made) -> None:
    search = made.inputs.searches[0].gsearch
    assert isinstance(search, GSearch) and search.finished
    for layer in search.layers:
        rows = {
            float(row["keeping_rate"]): row
            for row in made.data(f"gsearch-20261125-101500-layer-{layer.layer}")
        }
        belief = search.belief(layer.layer)
        assert belief is not None and tuple(rows) == belief.rates
        assert tuple(float(row["mean"]) for row in rows.values()) == belief.mean
        for trial in layer.trials:
            assert float(rows[trial.rate or 0.0]["observed"]) == trial.score
        assert [rate for rate, row in rows.items() if row["chosen"] == "1"] == [layer.rate]
    trials = made.data("gsearch-20261125-101500-trials")
    assert [float(row["E"]) for row in trials] == [result.score for result in search.results]


def test_the_table_marks_significance_in_words_and_signs(made: Made) -> None:
    results = made.inputs.evaluations[0].results
    cells = re.findall(
        r'<span class="difference (\w+)" title="([^"]+)">(.)&nbsp;([^<]+)<[^>]*> ([^<]+)<', made.text
    )
    assert {kind for kind, *_ in cells} == {"worse", "same"}
    for kind, title, sign, number, word in cells:
        assert (word == "significant") == (kind != "same")
        assert sign == {"worse": "▼", "same": "≈"}[kind] and title.startswith(word)
        low, high = re.findall(r"[−+][\d.]+", title)
        assert re.fullmatch(r"[−+]\d+\.\d", number) and len({low, number, high}) == 3
    rows = made.data("benchmarks")
    assert len(rows) == len(results.strategies) * (1 + len(results.benchmarks))
    for row in rows:
        pair = results.difference(row["strategy"], row["benchmark"])
        if row["strategy"] == "no reduction":
            assert pair is None and row["difference_to_no_reduction"] == ""
        else:
            assert pair is not None and float(row["difference_to_no_reduction"]) == pair.difference
            assert row["significant"] == str(int(pair.significant))
    assert all(
        head.get("aria-sort") == "none" for head in made.html.all("th", scope="col") if head.get("aria-sort")
    )


def test_a_pair_is_found_whichever_way_round_it_was_recorded() -> None:
    content = page_files.evaluation(SCHEDULE)
    for pair in content["pairs"]:
        if pair["first"] == "FastV":
            pair.update(first="no reduction", second="FastV", difference=0.063, low=0.05, high=0.08)
    pair = Evaluation.model_validate(content).difference("FastV")
    assert pair is not None
    assert (pair.first, pair.difference, pair.low, pair.high) == ("FastV", -0.063, -0.08, -0.05)


def test_what_models_and_data_sets_wrote_is_escaped(tmp_path: Path) -> None:
    content = page_files.evaluation(SCHEDULE)
    chosen = page_files.samples(content, 1)
    (sample,) = chosen["samples"]
    sample |= {"question": EVIL, "target": EVIL, "task": EVIL}
    for answer in sample["strategies"].values():
        answer["answer"] = EVIL
    for places in (content["strategies"], sample["strategies"]):
        places[EVIL + " $x_1$"] = places.pop("FastV")
    content |= {"model": EVIL, "suite": EVIL, "missing": {EVIL: EVIL}}
    content["benchmarks"]["text"] |= {"title": EVIL, "note": EVIL, "group": EVIL}
    page = made_of(tmp_path, content, chosen)
    assert len(page.html.all("script")) == 2 and not page.html.all("img")
    assert "alert('x')</script>" not in page.text
    (data,) = (text for text in page.html.texts["script"] if text.startswith("[{"))
    assert json.loads(data)[0]["question"] == EVIL  # and the viewer still gets it


def test_samples_are_given_as_the_layer_that_each_token_reaches(made: Made) -> None:
    (text,) = (text for text in made.html.texts["script"] if text.startswith("[{"))
    shown = json.loads(text)
    read = read_samples(made.inputs.evaluations[0].path)
    for sample, one in zip(read, shown, strict=True):
        assert (one["rows"], one["columns"], one["size"]) == (12, 12, [96, 96])
        for name, answer in sample.strategies.items():
            last = one["strategies"][name]["last"]
            for layer, kept in enumerate(answer.kept, start=1):
                assert [token for token, end in enumerate(last) if end >= layer] == kept


def test_paper_shows_a_few_layers_of_each_sample(made: Made) -> None:
    paper = made.text[made.text.index('<div class="paper">') :]
    sample = made.inputs.evaluations[0].samples[0]
    kept = sample.strategies["G-Search"].kept
    layers = [
        int(number) for number in re.findall(r"<figcaption>layer (\d+):", paper.partition("</article>")[0])
    ]
    assert layers[0] == 1 and 3 in layers and len(layers) <= 4
    veiled = re.findall(r'<path class="veil" [^>]*d="([^"]*)"', paper.partition("</article>")[0])
    assert [path.count("M") for path in veiled] == [144 - len(kept[layer - 1]) for layer in layers]


def viewer_of(tmp_path: Path, chosen: dict[str, Any]) -> Reader:
    run = page_files.write_evaluation(tmp_path / "run", {}, chosen)
    return Reader(viewer(read_samples(run), "image"))


def test_tokens_without_a_grid_are_a_strip_below_the_image(tmp_path: Path) -> None:
    html = viewer_of(tmp_path, page_files.samples(page_files.evaluation(SCHEDULE), 1, grid=None))
    (one,) = json.loads(html.texts["script"][0])
    assert (one["overlaid"], one["rows"] * one["columns"] >= 40) == (False, True)
    strips = html.all("svg", **{"class": "strip"})
    assert strips and strips[0]["viewbox"] == "0 0 32 2"


def test_large_images_are_shrunk(tmp_path: Path) -> None:
    chosen = page_files.samples(page_files.evaluation(SCHEDULE), 1)
    chosen["samples"][0]["image"] = page_files.picture(size=(3000, 1500))
    (image,) = viewer_of(tmp_path, chosen).all("image")
    assert (image["width"], image["height"]) == ("640", "320")
    assert (image["href"] or "").startswith("data:image/jpeg;base64,")


def test_an_image_that_is_none_is_refused_by_its_name(tmp_path: Path) -> None:
    chosen = page_files.samples(page_files.evaluation(SCHEDULE), 1)
    chosen["samples"][0]["image"] = "data:image/png;base64,AAAA"
    with pytest.raises(InputError, match=r"^the image of scenes 0 cannot be read \([^\n]*evaluation again$"):
        viewer_of(tmp_path, chosen)


def test_runs_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    found = [page_files.write_search(tmp_path / f"gsearch-{n}", seed=1003 + n, iterations=0) for n in (0, 1)]
    page = Made([tmp_path / "gsearch-0", tmp_path / "gsearch-1"], tmp_path / "page")
    assert page.inputs.schedules == {"G-Search": found[0], "G-Search, gsearch-1": found[1]}
    assert list(page.html.texts["h3"]) == ["gsearch-0", "gsearch-1"]
    assert not page.html.all("div", **{"class": "viewer"})


def test_a_search_that_was_cut_is_shown_as_far_as_it_came(tmp_path: Path) -> None:
    page_files.write_search(tmp_path / "cut", trials=12, initial=8, iterations=0)
    page = Made([tmp_path / "cut"], tmp_path / "page")
    assert page.inputs.schedules == {} and "It has not ended." in page.text
    assert len(page.data("cut-trials")) == 12
    assert {row["chosen"] for row in page.data("cut-layer-6")} == {"0"}


def test_a_search_that_keeps_accuracy_shows_the_bounds_that_it_models(tmp_path: Path) -> None:
    page_files.write_search(tmp_path / "kept", objective="keep-accuracy:1", iterations=1)
    run = read_search_run(tmp_path / "kept")
    assert run.gsearch is not None
    drawing = draw_layers(run)[0]
    assert "at least" in drawing.title
    observed = {row[0]: row[4] for row in drawing.rows}
    for trial in run.gsearch.layers[0].trials:
        assert observed[trial.rate] == trial.bound


def test_series_look_the_same_in_figures_and_in_the_style_sheet(made: Made) -> None:
    light = re.findall(r"--series-\d: light-dark\((#\w{6}), #\w{6}\);", made.text)
    assert tuple(light) == SERIES
