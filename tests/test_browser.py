"""What a browser makes of the comparison page and of MLflow's UI: Debian's Chromium, headless.

Screenshots go to `VTR_RAY_ARTEFACTS`, by default `test-artefacts/` in the repository.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from chromium import CHROMIUM, CONTRASTS, DRIVER, NARROW, WIDER, Browser, contrast, luminance
from commands import run_here
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

sys.path += [str(Path(__file__).parent / name) for name in ("report", "tuning")]
import page_files
import tuning_toys as toys

from vtr_ray.report.page import read_runs, write_page
from vtr_ray.report.page.evaluations import read_samples
from vtr_ray.store import default_uri

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromium-driver"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    default = Path(__file__).parents[1] / "test-artefacts"
    artefacts = Path(os.environ.get("VTR_RAY_ARTEFACTS", default))
    artefacts.mkdir(parents=True, exist_ok=True)
    found = Browser(artefacts)
    yield found
    found.driver.quit()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A page, and the evaluation's run directory that it shows."""
    folder = tmp_path_factory.mktemp("page")
    _, evaluation = page_files.write_all(folder)
    (folder / "page").mkdir()
    return write_page(read_runs([evaluation]), folder / "page"), evaluation


@pytest.fixture
def page(browser: Browser, made: tuple[Path, Path]) -> Iterator[Browser]:
    """The page, freshly opened in light colours; nothing is fetched, nothing complains."""
    browser.emulate()
    browser.driver.get(made[0].as_uri())
    yield browser
    fetched = browser.script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert [name for name in fetched if not name.startswith("data:")] == []
    assert browser.driver.get_log("browser") == []


def test_the_slider_lights_the_tokens_that_are_alive_at_its_layer(
    page: Browser, made: tuple[Path, Path]
) -> None:
    sample = read_samples(made[1])[0]
    kept = sample.strategies["G-Search"].kept
    slider, picture = page.one(".viewer input[type=range]"), ".picture svg"

    def check(layer: int) -> None:
        assert page.one(".depth .layer").text == f"layer {layer}"
        assert page.one(picture).get_attribute("data-lit") == str(len(kept[layer - 1]))
        veil = page.one(".picture .veil").get_attribute("d")
        assert veil.count("M") == sample.tokens - len(kept[layer - 1])
        assert all(f"M{token % 12} {token // 12}h" not in veil for token in kept[layer - 1])
        assert page.one(".viewer .kept").text.startswith(f"{len(kept[layer - 1])} of {sample.tokens}")

    check(3)
    slider.send_keys(Keys.HOME)
    check(1)
    for layer in (2, 3, 4, 5, 6):
        slider.send_keys(Keys.ARROW_RIGHT)
        check(layer)
    page.save("sample", whole=False)
    slider.send_keys(Keys.END)
    check(12)


def test_the_viewer_shows_each_sample_and_strategy(page: Browser, made: tuple[Path, Path]) -> None:
    samples = read_samples(made[1])
    choice = Select(page.one(".viewer select"))
    assert [option.get_attribute("value") for option in choice.options] == list(samples[0].strategies)
    choice.select_by_value("FastV")
    assert page.one(".answer").text == "blue" and page.one(".verdict").text == "✓ right"
    page.one(".next").send_keys(Keys.ENTER)
    assert page.one(".which").text == "sample 2 of 3 (text 10)"
    assert page.one(".question").text == samples[1].question
    assert choice.first_selected_option.get_attribute("value") == "FastV"  # stays chosen
    assert page.one(".answer").text == "red" and page.one(".verdict").text == "✗ wrong"
    for _ in range(2):
        page.one(".previous").send_keys(Keys.SPACE)
    assert page.one(".which").text.startswith("sample 3 of 3")
    assert [row.text.split()[-1] for row in page.all(".answers-table tbody tr")] == list("✓✓✓✓✓✓✗")


def test_a_table_is_sorted_by_keyboard(page: Browser) -> None:
    table = page.one("#benchmarks table.sortable")
    heads = table.find_elements(By.CSS_SELECTOR, "thead th")
    average = next(head for head in heads if head.text.startswith("average"))
    column = heads.index(average)

    def values() -> list[str]:
        rows = table.find_elements(By.CSS_SELECTOR, "tbody tr")
        cells = [row.find_elements(By.CSS_SELECTOR, "th, td")[column] for row in rows]
        return [cell.get_attribute("data-value") for cell in cells]

    before = [float(value) for value in values()]
    button = average.find_element(By.TAG_NAME, "button")
    for key, state, reverse in ((Keys.ENTER, "descending", True), (Keys.SPACE, "ascending", False)):
        button.send_keys(key)
        assert average.get_attribute("aria-sort") == state
        assert [float(value) for value in values()] == sorted(before, reverse=reverse) != before
    column = 0
    heads[0].find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
    assert heads[0].get_attribute("aria-sort") == "ascending"
    assert average.get_attribute("aria-sort") == "none"
    assert values() == sorted(values(), key=str.casefold)


def test_everything_can_be_reached_by_tab_and_is_seen_to_have_the_focus(page: Browser) -> None:
    reached = set()
    for _ in range(120):
        page.script("return document.activeElement").send_keys(Keys.TAB)
        active = page.script(
            "const e = document.activeElement;"
            "return [e.className || e.tagName, getComputedStyle(e).outlineStyle, e.closest('th') !== null]"
        )
        assert active[0] == "BODY" or active[1] != "none", active
        reached |= {active[0]} | ({"sort"} if active[2] else set())
    assert {
        "skip",
        "theme",
        "scroll",
        "sort",
        "previous",
        "next",
        "strategy",
        "INPUT",
        "SUMMARY",
        "A",
    } <= reached


def test_nothing_is_wider_than_a_small_window(page: Browser) -> None:
    page.emulate(NARROW)
    assert page.script("return [innerWidth, document.documentElement.scrollWidth]") == [NARROW, NARROW]
    assert page.script(WIDER) == []
    for folded in page.all("summary"):
        folded.click()
    assert page.script(WIDER) == []
    small = page.script(
        "return Math.min(...[...document.querySelectorAll('.chart text')]"
        ".map((e) => parseFloat(getComputedStyle(e).fontSize) * e.ownerSVGElement.getScreenCTM().a))"
    )
    assert small >= 8  # pixels
    page.save("narrow")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_and_lines_stand_out_in_light_and_dark(page: Browser, scheme: str) -> None:
    page.emulate(scheme=scheme)
    for folded in page.all("summary"):
        folded.click()
    contrasts = page.script(CONTRASTS)
    assert len(contrasts) > 300
    assert [(text, value) for text, value in contrasts if value < 4.5] == []
    lines = page.script(
        "const drawn = [...document.querySelectorAll('.mark path[stroke]')];"
        "const c = drawn.map((e) => getComputedStyle(e).stroke);"
        "return [[...new Set(c)], getComputedStyle(document.querySelector('section')).backgroundColor]"
    )
    assert len(lines[0]) == 5
    for colour in lines[0]:
        assert contrast(colour, lines[1]) >= 3, colour
    assert (luminance(lines[1]) < 0.05) == (scheme == "dark")
    page.save(scheme)


def test_the_button_changes_the_colours(page: Browser) -> None:
    def paper() -> float:
        return luminance(page.script("return getComputedStyle(document.body).backgroundColor"))

    assert paper() > 0.8
    page.one(".theme").click()
    assert paper() < 0.05
    page.one(".theme").click()
    assert paper() > 0.8


def test_paper_has_samples_as_pictures_and_light_colours(
    page: Browser, browser: Browser, made: tuple[Path, Path]
) -> None:
    page.emulate(media="print", scheme="dark")
    seen = "return document.querySelector(arguments[0]).checkVisibility()"
    for selector, visible in ((".viewer", False), ("nav", False), (".paper", True), ("#benchmarks", True)):
        assert page.script(seen, selector) == visible, selector
    assert luminance(page.script("return getComputedStyle(document.body).backgroundColor")) > 0.9
    assert page.script("return document.querySelectorAll('.paper .panels svg').length") >= 3 * 3
    page.save("print")
    printed = page.devtools("Page.printToPDF", paperWidth=8.27, paperHeight=11.69)
    pdf = base64.b64decode(printed["data"])
    assert pdf.startswith(b"%PDF") and 3 <= pdf.count(b"/Type /Page\n") <= 8


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, ray_here: None) -> Iterator[dict[str, Any]]:
    """MLflow's UI over a store with three searches and the page that compares them."""
    folder = tmp_path_factory.mktemp("mlflow")
    uri = default_uri(folder)
    strategies = ("--strategy", "fastv", "--strategy", "vtw", "--no-random")
    few = ("--suite", "vtr_text", "--limit", "6", "--cpus-per-actor", "1")
    run_here(folder, "evaluate", *strategies, *few, "--out", "one")
    logged = (
        run_here(folder, "compare", "one", "--out", "page").partition("MLflow run: ")[2].partition(",")[0]
    )
    link = json.loads((folder / "one" / "mlflow.json").read_text())
    content = json.loads((folder / "one" / "evaluation.json").read_text())
    curves = {f"{name} on vtr_text": row["schedule"]["rates"] for name, row in content["strategies"].items()}
    port = toys.free_port()
    with toys.mlflow_ui(uri, port):
        yield {
            "address": f"http://127.0.0.1:{port}/#",
            "experiment": link["experiment_id"],
            "runs": list(link["runs"].values()),
            "curves": curves,
            "page": logged,
        }


@pytest.fixture
def ui(browser: Browser, store: dict[str, Any]) -> Browser:
    browser.emulate()
    quiet = "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"
    browser.driver.get(
        store["address"].removesuffix("#") + "ajax-api/2.0/mlflow/experiments/search?max_results=1"
    )
    browser.script(quiet)  # else a chat covers a quarter of the window
    return browser


def test_mlflow_opens_on_the_runs(ui: Browser, store: dict[str, Any]) -> None:
    ui.driver.get(f"{store['address']}/experiments/{store['experiment']}/runs")
    for name in (*store["curves"], "compare"):
        ui.until(lambda name=name: name in ui.one("body").text, f"run {name}")
    ui.save("mlflow-runs", whole=False)


def test_mlflow_shows_the_keeping_rates_of_three_strategies_in_one_chart(
    ui: Browser, store: dict[str, Any]
) -> None:
    asked = {
        "runs": store["runs"],
        "metric": "keeping_rate",
        "experiments": [store["experiment"]],
        "plot_metric_keys": ["keeping_rate"],
        "plot_layout": {"autosize": True},
        "deselected_curves": [],
        "last_linear_y_axis_range": [],
    }
    words = "&".join(f"{name}={quote(json.dumps(value))}" for name, value in asked.items())
    plain = "x_axis=step&y_axis_scale=linear&line_smoothness=1&show_point=true"
    ui.driver.get(f"{store['address']}/metric?{words}&{plain}")
    ui.until(lambda: ui.all(".scatterlayer .trace"), "chart")
    charts = ui.script(
        "return [...document.querySelectorAll('.js-plotly-plot')].map((chart) =>"
        " chart.data.map((line) => [line.name, Array.from(line.x), Array.from(line.y)]))"
    )
    assert len(charts) == 1
    shown = {name: dict(zip(x, y, strict=True)) for name, x, y in charts[0]}
    assert shown == {name: dict(enumerate(rates, start=1)) for name, rates in store["curves"].items()}
    ui.save("mlflow-keeping-rates", whole=False)


def test_mlflow_shows_the_page_in_place(ui: Browser, store: dict[str, Any]) -> None:
    where = f"/experiments/{store['experiment']}/runs/{store['page']}/artifacts/index.html"
    ui.driver.get(store["address"] + where)
    frame = ui.until(lambda: ui.all("iframe.mlflow-html-iframe"), "page")[0]
    ui.driver.switch_to.frame(frame)
    try:
        ui.until(lambda: ui.all(".picture svg"), "viewer")
        assert ui.one("h1").text == "Strategies compared"
        slider = ui.one(".viewer input[type=range]")
        slider.send_keys(Keys.HOME)  # scripts run in MLflow's sandbox
        assert ui.one(".depth .layer").text == "layer 1"
        ui.script("scrollTo(0, 0)")
    finally:
        ui.driver.switch_to.default_content()
    ui.save("mlflow-page", whole=False)
