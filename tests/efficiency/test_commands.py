from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tiny_families import LAYERS, tiny_config

from vtr_ray import Schedule, strategies
from vtr_ray.cli import main
from vtr_ray.efficiency import count_flops, count_parameters, read_config

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(*arguments: Any) -> None:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    assert stop.value.code == 0


def refused(capsys: Any, *arguments: Any) -> str:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return str(lines[0])


@pytest.fixture
def schedule(tmp_path: Path) -> Path:
    strategies.fastv(32, drop=0.875).save(tmp_path / "s.json")
    return tmp_path / "s.json"


def test_plan_of_a_shape(capsys: Any, tmp_path: Path, schedule: Path) -> None:
    options = ["--gpu", "h100", "--gpus", 8, "--samples", 3600, "--layers", "--json", tmp_path / "p.json"]
    run("plan", schedule, "--model", "llava-1.5-7b", *options)
    printed = capsys.readouterr().out
    content = json.loads((tmp_path / "p.json").read_text())
    config = read_config("llava-1.5-7b")
    row = content["schedules"]["s"]
    assert row["tflops"] == count_flops(config, Schedule.load(schedule), 576, 75).total / 1e12
    assert row["tmacs"] * 2 == row["tflops"]
    assert row["memory_cost"] == pytest.approx(0.180, abs=0.0005)
    assert row["kv_bytes"] == sum(row["layer_kv_bytes"]) == 2 * 2 * 4096 * (2 * 651 + 30 * 147)
    assert content["weight_bytes"] == 2 * count_parameters(config)
    assert content["estimate"]["trials"] == 141
    hours = content["estimate"]["seconds"] * 8 / 3600
    assert content["estimate"]["device_hours"] == pytest.approx(hours)
    for words in ("2.748", "0.180", "141 trials on 8 GPUs", "GPU-hours", "989 TFLOP/s peak of h100 x 0.4"):
        assert words in printed
    assert "   32 " in printed  # by layer


def test_plan_of_a_directory_measures_this_device(capsys: Any, tmp_path: Path) -> None:
    tiny_config("qwen2_5_vl", "qwen2_5_vl_text").save_pretrained(tmp_path)
    run("plan", "--model", tmp_path, "--image", "32x40", "--text-tokens", 9, "--expect", 0.7, "--batch", 2)
    printed = capsys.readouterr().out
    assert "a sample has 20 vision and 9 text tokens" in printed
    assert "measured on this" in printed
    assert "ends at memory cost 0.7" in printed


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", "no/such/thing/at/all"], "no/such/thing"),
        (["--gpu", "abacus"], "abacus"),
        (["--tflops-per-gpu", "0"], "--tflops-per-gpu"),
        (["--dtype", "int8"], "int8"),
        (["--stride", "0"], "stride"),
        (["--expect", "0.01"], "0.01"),
        (["--vision-tokens", "100"], "no whole images of 144"),
        (["--image", "wide"], "HEIGHTxWIDTH"),
        (["--json", "no/such/folder/p.json"], "no/such/folder"),
        (["--samples", "0"], "--samples"),
    ],
)
def test_plans_mistakes_are_one_line(capsys: Any, options: list[str], words: str) -> None:
    assert words in refused(capsys, "plan", "--gpu", "h100", *options)


def test_plan_refuses_a_schedule_of_another_length(capsys: Any, schedule: Path) -> None:
    assert "32 layers, the model 12" in refused(capsys, "plan", schedule)


def test_bench_of_random_weights(capsys: Any, tmp_path: Path) -> None:
    tiny_config("llava", "llama", "sdpa").save_pretrained(tmp_path)
    strategies.fastv(LAYERS).save(tmp_path / "half.json")
    sizes = ["--text-tokens", 11, "--new-tokens", 2, "--batch", 2, "--warmup", 1, "--repeats", 3]
    out = tmp_path / "b.json"
    run(
        "bench",
        tmp_path / "half.json",
        "--model",
        tmp_path,
        "--random-weights",
        *sizes,
        "--device",
        "cpu",
        "--json",
        out,
    )
    printed = " ".join(capsys.readouterr().out.split())
    content = json.loads(out.read_text())
    none, half = content["schedules"]["no reduction"], content["schedules"]["half"]
    assert (none["speedup"], none["flops_ratio"], none["achieved"]) == (1, 1, 1)
    assert half["flops_ratio"] == pytest.approx(none["tflops_executed"] / half["tflops_executed"])
    assert half["flops_ratio"] > 1
    assert half["achieved"] == half["speedup"] / half["flops_ratio"]
    assert half["kv_bytes"] < none["kv_bytes"]
    assert len(half["prefill"]["seconds"]) == 3 and len(half["decode"]["seconds"]) == 3
    assert content["environment"]["attention"] == "sdpa" and content["environment"]["dtype"] == "float32"
    assert set(content["environment"]["versions"]) == {"vtr-ray", "torch", "transformers"}
    for words in ("random weights", "16 vision and 11 text tokens in, 2 out", "encoder included", "batch 2"):
        assert words in printed


def test_bench_without_the_encoder_says_so(capsys: Any, tmp_path: Path) -> None:
    tiny_config("llava", "llama", "sdpa").save_pretrained(tmp_path)
    small = ["--new-tokens", 1, "--warmup", 0, "--repeats", 1, "--device", "cpu", "--text-tokens", 11]
    out = tmp_path / "b.json"
    strategies.vtw(LAYERS).save(tmp_path / "s.json")
    run(
        "bench",
        tmp_path / "s.json",
        "--model",
        tmp_path,
        "--random-weights",
        "--no-encoder",
        *small,
        "--json",
        out,
    )
    assert "encoder not timed" in capsys.readouterr().out
    content = json.loads(out.read_text())
    config = tiny_config("llava", "llama", "sdpa")
    decoder = count_flops(config, strategies.none(LAYERS), 16, 11, "executed", logits_to_keep=1).decoder
    assert content["schedules"]["no reduction"]["tflops_executed"] == decoder / 1e12
    assert content["schedules"]["no reduction"]["decode"] is None


def test_bench_refuses_what_cannot_run(capsys: Any) -> None:
    shape = ["bench", "--model", "llava-1.5-7b"]
    assert "add --random-weights" in refused(capsys, *shape)
    if importlib.util.find_spec("flash_attn") is None:
        line = refused(capsys, *shape, "--random-weights", "--attn", "flash_attention_2")
        assert "sdpa-flash" in line


def test_show_on_a_model(capsys: Any, schedule: Path) -> None:
    run("show", schedule, "--model", "llava-1.5-7b")
    printed = capsys.readouterr().out
    assert "memory cost 0.180" in printed
    assert "2.748 TFLOPs (9.198)" in printed
    assert "89.25 MiB of KV cache (325.5)" in printed


def load_benchmark(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_committed_table_is_what_the_command_writes() -> None:
    tables = load_benchmark("paper_tables")
    assert (BENCHMARKS / "paper" / "paper_vs_ours.md").read_text() == tables.markdown()


def test_every_published_number_follows() -> None:
    """Slips aside; the rule's TFLOPs are within 0.36 %, TMACs and memory costs within their rounding too."""
    tables = load_benchmark("paper_tables")
    for cell in tables.cells():
        if cell.note.startswith(("slip", "the paper's is without", "the same sums")):
            continue
        bar = 0.0036 if cell.quantity in ("tflops", "tmacs") else 0.0
        assert abs(cell.difference) <= bar + cell.digit, cell
