"""What the recorder's triggers write down, in tables like those of either Airflow."""

from __future__ import annotations

import contextlib
import sqlite3

import pytest

from tests.chaos.recorder import Record, of_row, schema

TABLES = """
create table dag_run (dag_id text, run_id text, state text);
create table xcom (dag_id text, run_id text, task_id text, map_index integer, key text, value);
create table task_instance (
    dag_id text, run_id text, task_id text, map_index integer, state text, try_number integer, {ident}
);
"""
STORE = "create table task_state_store (dag_id text, run_id text, task_id text, map_index integer, key text, value);"
COLUMNS = "seq, at, kind, dag_id, run_id, task_id, map_index, ti_id, state, try_number, value"


def recorded(statements: str, *, two: bool) -> list[Record]:
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(TABLES.format(ident="start_date text" if two else "id text") + ("" if two else STORE))
        connection.executescript(schema(two=two))
        connection.executescript(statements)
        return [of_row(row) for row in connection.execute(f"select {COLUMNS} from chaos_record order by seq")]


@pytest.mark.parametrize("two", [False, True])
def test_each_try_and_what_it_names(two: bool) -> None:
    rows = recorded(
        """
        insert into task_instance values ('d', 'r', 't', -1, 'running', 1, 'first');
        insert into xcom values ('d', 'r', 't', -1, 'pod_name', cast('"p"' as blob));
        update task_instance set state = 'failed';
        update task_instance set state = 'failed';
        delete from xcom;
        delete from task_instance;
        """,
        two=two,
    )
    told = [(row.kind, row.state, row.tried, row.ti, row.value) for row in rows]
    assert told == [
        ("ti", "running", 1, "first", None),
        ("named", None, 0, None, "p"),
        ("ti", "failed", 1, "first", None),
        ("unnamed", None, 0, None, "p"),
        ("ti-gone", "failed", 1, "first", None),
    ]


def test_an_airflow_2_runs_the_same_try_again_by_force() -> None:
    rows = recorded(
        """
        insert into task_instance values ('d', 'r', 't', -1, 'running', 1, 'first');
        update task_instance set start_date = 'second';
        """,
        two=True,
    )
    assert [(row.state, row.tried, row.ti) for row in rows] == [("running", 1, "first"), ("running", 1, "second")]
