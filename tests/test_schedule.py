from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vtr_ray.errors import InputError
from vtr_ray.schedule import Ranking, Schedule


def test_a_schedule_is_a_value() -> None:
    one = Schedule.from_rates([1, 1, 0.5, 0.5])
    assert one == Schedule.from_rates((1.0, 1.0, 0.5, 0.5)) and hash(one) == hash(
        Schedule.from_rates([1, 1, 0.5, 0.5])
    )
    assert one != Schedule.from_rates([1, 1, 0.5, 0.5], ranking="random")
    assert one.rates == (1.0, 1.0, 0.5, 0.5) and one.num_layers == 4 and one.memory_cost == 0.75
    assert one.ranking is Ranking.INSTRUCTION and one.reduces and not Schedule.from_rates([1, 1]).reduces
    with pytest.raises(AttributeError):
        one.rates = (1.0,)  # type: ignore[misc]


def test_counts_round_half_up_or_down_as_pdrop_does_or_to_the_even_as_fastv_does() -> None:
    assert Schedule.from_rates([1, 0.5, 0.5, 0.1, 0]).counts(5) == [5, 3, 3, 1, 0]
    assert Schedule.from_rates([1, 0.5, 0.1, 0], rounding="down").counts(9) == [9, 4, 0, 0]
    assert Schedule.from_rates([1, 0.5, 0.3, 0.1], rounding="half_even").counts(5) == [5, 2, 2, 0]
    assert Schedule.from_rates([1, 0.5], rounding="half_even").counts(7) == [7, 4]
    for n in (1, 7, 144, 576, 1024):  # a grid rate gives exactly its count
        assert all(Schedule.from_rates([1, kept / n]).counts(n)[1] == kept for kept in range(n + 1))


def test_json_round_trip(tmp_path: Path) -> None:
    one = Schedule.from_rates(
        [1, 1 / 3, 0.1], ranking="next_layer", positions="renumber", seed=7, rounding="down"
    )
    assert Schedule.from_dict(json.loads(json.dumps(one.to_dict()))) == one
    path = tmp_path / "s.json"
    one.save(path)
    assert Schedule.load(path) == one
    assert [file.name for file in tmp_path.iterdir()] == ["s.json"]  # no temporary name left
    assert Schedule.from_dict({"rates": [1, 0.5]}) == Schedule.from_rates([1, 0.5])


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ([], "none were given"),
        ([0.5, 0.5], "keeping rate of layer 1 is 0.5; it must be 1"),
        ([1, 0.5, 0.6], r"increase at layer 3 \(0.5 to 0.6\)"),
        ([1, -0.1], "layer 2 is -0.1"),
        ([1.5], "layer 1 is 1.5"),
        ([1, float("nan")], "layer 2 is nan"),
        ([1, float("inf")], "layer 2 is inf"),
        ([1, "0.5"], "layer 2 is '0.5'"),
        ([1, None], "layer 2 is None"),
        ([True], "layer 1 is True"),
        (3, "give a list"),
    ],
)
def test_bad_rates_are_one_line(rates: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Schedule.from_rates(rates)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("nonsense {", "is not JSON"),
        ("[1, 2]", "not list"),
        ("{}", 'needs "rates"'),
        ('{"rates": [1, 2]}', "layer 2 is 2"),
        ('{"rates": [1, NaN]}', "layer 2 is nan"),
        ('{"rates": 1}', "give a list"),
        ('{"rates": [1], "ranking": "best"}', "ranking is 'best'; use one of: instruction,"),
        ('{"rates": [1], "positions": "new"}', "positions is 'new'"),
        ('{"rates": [1], "rounding": "up"}', "rounding is 'up'"),
        ('{"rates": [1], "seed": -1}', "seed is -1"),
        ('{"rates": [1], "seed": 1.5}', "seed is 1.5"),
        ('{"rates": [1], "layers": 3}', "no 'layers'"),
    ],
)
def test_bad_files_name_the_file(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        Schedule.load(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_paths_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Cannot read the schedule"):
        Schedule.load(tmp_path / "none.json")
    with pytest.raises(InputError, match="Cannot read the schedule"):
        Schedule.load(tmp_path)
    with pytest.raises(InputError, match="Cannot write the schedule"):
        Schedule.from_rates([1]).save(tmp_path / "no" / "such" / "s.json")


def test_importing_it_does_not_import_torch() -> None:
    code = "import sys, vtr_ray.schedule, vtr_ray.strategies; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
