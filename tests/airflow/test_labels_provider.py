"""Our label function against the provider's own, run in Airflow's environment."""

from __future__ import annotations

import json
import random
import string
import subprocess
from pathlib import Path
from typing import Any

import pytest

from healer.decision.labels import invert_run_id, parse, safe_label
from healer.model import LabelKey, Labels
from tests.lab.airflow_env import prepare
from tests.unit.decision.test_labels import EXAMPLES, some_run_id

SCRIPT = Path(__file__).parents[1] / "lab" / "inside" / "labels.py"
COUNT = 60_000
SAFE = string.ascii_letters + string.digits + "_-."
UNSAFE = ":+/ ~@#äßжあ🙂\n\r\t\0\x85\u2028\u202e%'\"\\"
EDGES = ("", "_", "-", ".", "__", "-.-", "\n", "ü")
LENGTHS = (0, 1, 2, 52, 53, 54, 55, 62, 63, 64, 65, 250)
TI_IDS = ("x" * 64, "group_a.sub-task.", "scheduled__2026-01-01T00:00:00+00:00")


def some_id(rng: random.Random) -> str:
    """Return an id that is safe, a little unsafe or quite unsafe, of a length around the limits, with odd edges."""
    alphabet = rng.choice((SAFE, SAFE + UNSAFE, UNSAFE + "a", string.ascii_lowercase))
    length = rng.choice((*LENGTHS, rng.randint(0, 80)))
    body = "".join(rng.choices(alphabet, k=length))
    return rng.choice(EDGES) + body + rng.choice(EDGES) if rng.random() < 0.5 else body


def anywhere_in_unicode(rng: random.Random) -> str:
    """Return text of any characters but lone surrogates, which no UTF-8 text can hold."""
    codes = [rng.choice((rng.randint(0, 0xD7FF), rng.randint(0xE000, 0x10FFFF))) for _ in range(rng.randint(0, 70))]
    return "".join(map(chr, codes))


def generated() -> list[str]:
    """The same ids on every run: first those of a task instance, then the examples, then many of each kind."""
    rng = random.Random(3)
    kinds = (some_id, anywhere_in_unicode, some_run_id)
    return [*TI_IDS, *EXAMPLES, *(kinds[n % 3](rng) for n in range(COUNT))]


@pytest.fixture(scope="module")
def ids() -> list[str]:
    return generated()


@pytest.fixture(scope="module")
def provider(ids: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the provider makes of all ids, in one call."""
    python = prepare().python
    home = tmp_path_factory.mktemp("airflow")
    result = subprocess.run(
        [python, SCRIPT],
        input=json.dumps(ids),
        capture_output=True,
        text=True,
        check=False,
        env={"AIRFLOW_HOME": str(home), "AIRFLOW__CORE__LOAD_EXAMPLES": "False", "PATH": "/usr/bin:/bin"},
    )
    assert result.returncode == 0, result.stderr
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def test_our_labels_are_the_providers(ids: list[str], provider: dict[str, Any]) -> None:
    assert len(set(ids)) >= 50_000
    assert len(provider["labels"]) == len(ids)
    differing = [(raw, label) for raw, label in zip(ids, provider["labels"], strict=True) if safe_label(raw) != label]
    assert differing == []


def test_the_examples_are_the_providers(ids: list[str], provider: dict[str, Any]) -> None:
    labels = dict(zip(ids, provider["labels"], strict=True))
    assert {raw: labels[raw] for raw in EXAMPLES} == EXAMPLES


def test_the_generated_ids_cover_what_the_label_function_decides(ids: list[str]) -> None:
    lengths = {len(raw) for raw in ids}
    assert {0, 53, 54, 63, 64, 250} <= lengths
    assert sum(safe_label(raw) == raw for raw in ids) > 1_000
    assert sum(raw[:1] in EDGES[1:4] or raw[-1:] in EDGES[1:4] for raw in ids) > 1_000
    assert sum("\n" in raw for raw in ids) > 1_000
    assert sum(not raw.isascii() for raw in ids) > 10_000


def test_the_labels_of_a_pod_point_back_at_its_task_instance(provider: dict[str, Any]) -> None:
    dag_id, task_id, run_id = TI_IDS
    for map_index, written in zip((-1, 0, 17), provider["pods"], strict=True):
        assert written["kubernetes_pod_operator"] == "True"
        key = parse(Labels(**{name: written.get(name) for name in Labels.__struct_fields__}))
        assert key == LabelKey(safe_label(dag_id), safe_label(task_id), safe_label(run_id), map_index, 2)
        assert invert_run_id(written["run_id"]) == run_id
