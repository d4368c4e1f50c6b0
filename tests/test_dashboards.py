"""The dashboard's queries against a real Prometheus that scrapes a real search; its files are valid."""

from __future__ import annotations

import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet
import pytest
import ray
import yaml
from PIL import Image

sys.path.append(str(Path(__file__).parent / "tuning"))
import tuning_toys as toys

from vtr_ray import embedded
from vtr_ray.metrics import METRICS
from vtr_ray.tuning.cluster import connected

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "dashboards"
RAY = str(Path(sys.executable).with_name("ray"))
SEARCH = "watched"
RATE_INTERVAL = "10s"  # of a Prometheus that scrapes every second
_NAME = re.compile(r"\bray_[a-z0-9_]+")


def board() -> dict[str, Any]:
    return json.loads((FOLDER / "grafana" / "dashboard.json").read_text())


def rows() -> dict[str, list[dict[str, Any]]]:
    """The panels by the title of the row that they stand in."""
    found: dict[str, list[dict[str, Any]]] = {}
    for panel in board()["panels"]:
        if panel["type"] == "row":
            found[panel["title"]] = []
        else:
            found[list(found)[-1]].append(panel)
    return found


def queries(row: str) -> list[str]:
    return [target["expr"] for panel in rows()[row] for target in panel["targets"]]


def variables() -> dict[str, tuple[str, str]]:
    """Of each variable that is a query: the metric and the label whose values it takes."""
    asked = [one for one in board()["templating"]["list"] if one["type"] == "query"]
    shape = re.compile(r"label_values\((\w+), (\w+)\)")
    return {one["name"]: shape.fullmatch(one["query"]["query"]).groups() for one in asked}  # type: ignore[union-attr,misc]


def program(name: str) -> str:
    found = shutil.which(name)
    assert found is not None, f"{name} is missing: apt-get install prometheus"
    return found


def test_the_dashboard_shows_every_metric_and_no_other() -> None:
    shown = {name for row in rows() for expr in queries(row) for name in _NAME.findall(expr)}
    assert {name for name in shown if "vtr_ray" in name} == {f"ray_{name}" for name in METRICS}


def test_names_and_tags_follow_the_conventions() -> None:
    for name, metric in METRICS.items():
        assert re.fullmatch(r"vtr_ray_[a-z]+(_[a-z]+)*", name) and metric.tags[0] == "search"
        assert metric.help.endswith(".") and metric.counts == name.endswith("_total")


def test_gpu_metrics_are_among_rays_own() -> None:
    from ray.dashboard.modules.reporter.reporter_agent import GPU_TAG_KEYS, METRICS_GAUGES

    exprs = queries("GPUs")
    names = {name.removeprefix("ray_") for expr in exprs for name in _NAME.findall(expr)}
    assert names <= set(METRICS_GAUGES) and any(name.startswith("node_gpu") for name in names)
    grouped = {tag for expr in exprs for by in re.findall(r"by \(([^)]*)\)", expr) for tag in by.split(", ")}
    assert grouped and grouped <= set(GPU_TAG_KEYS)


def test_every_panel_says_what_it_shows() -> None:
    panels = [panel for row in rows().values() for panel in row]
    assert list(rows()) == ["Search", "Evaluators", "Prefix cache", "Ray nodes", "GPUs"]
    known = {one["name"] for one in board()["templating"]["list"]} | {"__rate_interval"}
    for panel in panels:
        assert panel["description"] and panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        for one in (panel, *panel["targets"]):
            assert one["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        for target in panel["targets"]:
            assert target["legendFormat"] and set(re.findall(r"\$(\w+)", target["expr"])) <= known
            assert "vector(" not in target["expr"]  # would give data where there is none
    titles = [panel["title"] for panel in panels]
    identities = [panel["id"] for panel in board()["panels"]]
    assert len(set(titles)) == len(titles) and len(set(identities)) == len(identities)


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in board()["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert at["x"] + at["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells


def test_provisioning_names_what_there_is() -> None:
    folder = FOLDER / "grafana" / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yml").read_text())["datasources"]
    scraping = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    assert source["type"] == "prometheus" and source["url"] == "http://127.0.0.1:9090"
    assert source["jsonData"]["timeInterval"] == scraping["global"]["scrape_interval"]
    (provider,) = yaml.safe_load((folder / "dashboards" / "vtr_ray.yml").read_text())["providers"]
    variable = provider["options"]["path"].removeprefix("$")
    assert provider["type"] == "file" and f"{variable}=" in (FOLDER / "README.md").read_text()


def test_prometheus_accepts_its_configuration() -> None:
    check = [program("promtool"), "check", "config", str(FOLDER / "prometheus.yml")]
    checked = subprocess.run(check, capture_output=True, text=True, timeout=60)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@dataclass
class Watched:
    """A Ray head, a search on it, and the Prometheus that scrapes both."""

    address: str
    head: subprocess.Popen[bytes]
    search: subprocess.Popen[str]
    run: Path

    def get(self, path: str, **parameters: str) -> Any:
        """The data of an answer of Prometheus' HTTP API."""
        url = f"{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            content = json.load(answer)
        assert content["status"] == "success", content
        return content["data"]

    def values(self, query: str) -> list[float]:
        """What a query gives now, as the dashboard asks it: all searches, all nodes."""
        for name, value in {"__rate_interval": RATE_INTERVAL, "search": ".+", "node": ".+"}.items():
            query = query.replace(f"${name}", value)
        return [float(one["value"][1]) for one in self.get("query", query=query)["result"]]

    def wait_for_data(self, queries: Iterable[str], timeout: float = 180.0) -> None:
        """Until each has given a number, while the search runs."""
        left, end = set(queries), time.monotonic() + timeout
        while left:
            assert self.search.poll() is None, (self.run.parent / "output").read_text()
            assert time.monotonic() < end, f"no data: {left}"
            left = {query for query in left if not any(map(math.isfinite, self.values(query)))}
            time.sleep(0.5)

    def kill_an_actor(self) -> None:
        """The first evaluator of the head's processes."""
        processes = psutil.Process(self.head.pid).children(recursive=True)
        named = [process for process in processes if "ray::Holder" in "".join(process.cmdline())]
        assert named
        named[0].kill()


def write_samples(folder: Path, count: int) -> list[str]:
    """The embedded model's questions as LLaVA-format JSON, and one whose image is none."""
    table = pyarrow.parquet.read_table(embedded.TASKS_FOLDER / "data" / "scenes_search.parquet")
    entries = []
    for number, row in enumerate(table.slice(0, count).to_pylist()):
        Image.open(io.BytesIO(row["image"]["bytes"])).save(folder / f"{number}.png")
        turns = [("human", f"<image>\n{row['question']}"), ("gpt", row["answer"])]
        conversations = [{"from": who, "value": said} for who, said in turns]
        entries.append({"id": f"q{number}", "image": f"{number}.png", "conversations": conversations})
    (folder / "0.png").write_text("no image")
    (folder / "samples.json").write_text(json.dumps(entries))
    return ["--samples", str(folder / "samples.json"), "--images", str(folder)]


def ended(process: subprocess.Popen[Any], signum: signal.Signals) -> None:
    process.send_signal(signum)
    try:
        process.wait(60)
    finally:
        process.kill()


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    prometheus = program("prometheus")
    token, temporary = tmp_path / "token", Path(f"/tmp/vtrw{os.getpid()}")
    token.write_text("0" * 64)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_"))}
    port, dashboard, agent, listening = (toys.free_port() for _ in range(4))
    environment = kept | {
        "OMP_NUM_THREADS": "1",
        "HOME": str(tmp_path),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_metrics_report_interval_ms": "1000",
        "AUTOSCALER_METRIC_PORT": str(toys.free_port()),  # their defaults are another Ray's, too
        "DASHBOARD_METRIC_PORT": str(toys.free_port()),
    }
    configuration = (FOLDER / "prometheus.yml").read_text()
    assert "/tmp/ray/" in configuration and "10s" in configuration
    (tmp_path / "prometheus.yml").write_text(
        configuration.replace("/tmp/ray/", f"{temporary}/").replace("10s", "1s")
    )
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
    processes: list[tuple[subprocess.Popen[Any], signal.Signals]] = []
    try:
        head = subprocess.Popen(
            [RAY, "start", "--head", "--block", f"--port={port}", f"--dashboard-port={dashboard}",
             f"--dashboard-agent-listen-port={agent}", "--num-cpus=2", f"--temp-dir={temporary}",
             "--disable-usage-stats"], **quiet,
        )  # fmt: skip
        processes.append((head, signal.SIGTERM))
        scraper = subprocess.Popen(
            [prometheus, f"--config.file={tmp_path / 'prometheus.yml'}",
             f"--web.listen-address=127.0.0.1:{listening}", f"--storage.tsdb.path={tmp_path / 'data'}"],
            **quiet,
        )  # fmt: skip
        processes.append((scraper, signal.SIGTERM))
        toys.wait_for_port(agent)
        toys.wait_for_port(listening)
        with (tmp_path / "output").open("w") as output:
            search = subprocess.Popen(
                [sys.executable, "-m", "vtr_ray.cli", "gsearch", *write_samples(tmp_path, 48), "--batch", "8",
                 "--actors", "2", "--iterations", "90", "--no-compare", "--out", str(tmp_path / SEARCH)],
                env=environment | {"RAY_ADDRESS": f"127.0.0.1:{port}"},
                cwd=tmp_path, stdout=output, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
        processes.append((search, signal.SIGINT))
        yield Watched(f"http://127.0.0.1:{listening}", head, search, tmp_path / SEARCH)
    finally:
        for process, signum in reversed(processes):
            ended(process, signum)
        shutil.rmtree(temporary, ignore_errors=True)


@pytest.mark.slow
def test_every_query_gives_data_while_a_search_runs(watched: Watched) -> None:
    ledger = watched.run / "ledger.jsonl"
    toys.wait_for_lines(ledger, 5, watched.search)
    watched.kill_an_actor()
    of_ours = f'{{search="{SEARCH}"}}'
    left = {expr for row in rows() if row != "GPUs" for expr in queries(row)}
    left |= {  # comparisons give data once they hold
        f"sum(ray_vtr_ray_samples_evaluated_total{of_ours}) >= {10 * 47}",
        " > ".join(f"sum(ray_vtr_ray_prefix_cache_{kind}_total{of_ours})" for kind in ("hits", "misses")),
    }
    watched.wait_for_data(left)
    # One actor's since it began, the other's since its restart.
    watched.wait_for_data({f"count(ray_vtr_ray_skipped_samples{of_ours} == 1) == 2"})

    assert watched.values(f"ray_vtr_ray_no_such_metric{of_ours}") == []
    assert watched.values(f"sum(ray_vtr_ray_actor_restarts_total{of_ours})") == [1.0]
    (finished,) = watched.values(f"sum(ray_vtr_ray_trials_finished_total{of_ours})")
    (layer,) = watched.values(f"ray_vtr_ray_current_layer{of_ours}")
    (progress,) = watched.values(f"ray_vtr_ray_progress_ratio{of_ours}")
    (evaluated,) = watched.values(f"sum(ray_vtr_ray_samples_evaluated_total{of_ours})")
    entries = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert 5 <= finished <= len(entries) and 0 < progress < 1
    assert layer in {entry["layer"] for entry in entries} | {entries[-1]["layer"] + 3}
    assert evaluated <= 1.5 * 47 * (len(entries) + 1)  # a batch that is late is evaluated twice

    for name, (metric, label) in variables().items():
        found = watched.get(f"label/{label}/values", **{"match[]": metric})
        assert found == [SEARCH] if name == "search" else len(found) == 1
    for name, metric in METRICS.items():
        # A counter's family has the ending or not, by the format that the Prometheus asks for.
        families = (f"ray_{name}", f"ray_{name.removesuffix('_total')}")
        (said,) = next(
            said for family in families for said in watched.get("metadata", metric=family).values()
        )
        assert said["type"] == ("counter" if metric.counts else "gauge")
        assert said["help"].rstrip(".") == metric.help.rstrip(".")


@pytest.mark.slow
def test_a_search_without_a_cluster_can_be_scraped(monkeypatch: pytest.MonkeyPatch, no_ray: None) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with connected(1):
        session = Path(ray._private.worker.global_worker.node.get_session_dir_path())
        # What the configuration's second file is, while this Ray is the machine's latest.
        (group,) = json.loads((session / "prom_metrics_service_discovery.json").read_text())
        (target,) = group["targets"]
        assert target.startswith("127.0.0.1:")
        with urllib.request.urlopen(f"http://{target}/metrics", timeout=30) as answer:
            assert answer.status == 200 and b"ray_" in answer.read()
