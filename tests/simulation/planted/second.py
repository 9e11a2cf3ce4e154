"""Bugs in how Airflow 2 is asked, each with the test that must fail with it."""

from __future__ import annotations

from typing import Final

from tests.simulation.planted.bugs import Bug, bug

_TWO: Final = "tests/unit/airflow/test_airflow_two.py"
_LOGIN: Final = "tests/unit/airflow/test_login2.py"
_BELIEVED: Final = f"{_LOGIN}::test_a_403_is_only_believed_where_a_right_is_missing"

BUGS: Final[tuple[tuple[Bug, str], ...]] = (
    (
        bug(
            "2: 403 read as a right",
            "a 403 counts as a missing right although the login may have ended",
            ("airflow.api.login2", "        if self._probe(credential) != 200:\n            return False\n", ""),
        ),
        _BELIEVED,
    ),
    (
        bug(
            "2: 401 read as a right",
            "what 2.10 answers to a session that has ended counts as an answer",
            ("airflow.api.login2", "        if answer.status == 401:\n            return False\n", ""),
        ),
        _BELIEVED,
    ),
    (
        bug(
            "2: visitors forgotten",
            "a login counts as alive because it may read what visitors may",
            (
                "airflow.api.login2",
                "            self._open = self._probe(None) == 200\n",
                "            self._open = False\n",
            ),
        ),
        f"{_TWO}::test_where_visitors_may_read_no_403_is_believed",
    ),
    (
        bug(
            "2: old XCom believed",
            "the XCom of the try before names the Pod of the one that runs",
            ("airflow.api.dialect2", "    return found.pushed >= task.start_date\n", "    return True\n"),
        ),
        f"{_TWO}::test_an_xcom_of_the_try_before_names_nobody",
    ),
    (
        bug(
            "2: what an ended try has named is forgotten",
            "the XCom of a try that has ended counts only if it is younger than its start",
            ("airflow.api.dialect2", '    if task.state not in {"running", "deferred"}:\n        return True\n', ""),
        ),
        f"{_TWO}::test_an_xcom_of_a_try_that_has_ended_counts_whenever_it_was_pushed",
    ),
    (
        bug(
            "2: XCom of anybody",
            "an XCom of another task instance is taken for this one's",
            (
                "airflow.api.dialect2",
                '            raise msgspec.ValidationError("it is an XCom of another task instance")\n',
                "            pass\n",
            ),
        ),
        f"{_TWO}::test_an_xcom_of_another_task_instance_is_no_answer",
    ),
    (
        bug(
            "2: start left out",
            "a try that was run again by force is the same case",
            (
                "airflow.api.dialect2",
                '    return f"{found.try_number}/{found.max_tries}@{started}"\n',
                '    return f"{found.try_number}/{found.max_tries}"\n',
            ),
        ),
        f"{_TWO}::test_each_part_of_what_identifies_a_try_begins_the_patience_anew",
    ),
    (
        bug(
            "2: max_tries left out",
            "a task instance that was cleared is the same case",
            (
                "airflow.api.dialect2",
                '    return f"{found.try_number}/{found.max_tries}@{started}"\n',
                '    return f"{found.try_number}@{started}"\n',
            ),
        ),
        f"{_TWO}::test_each_part_of_what_identifies_a_try_begins_the_patience_anew",
    ),
    (
        bug(
            "2: 404 without ids as proof",
            "a 404 that names another run, or none, proves that this one is deleted",
            (
                "airflow.api.dialect2",
                "status == 404 and said == Problem(title, detail, of_airflow=True)",
                "status == 404 and said.title == title",
            ),
        ),
        f"{_TWO}::test_a_404_without_the_ids_proves_no_run_deleted",
    ),
    (
        bug(
            "2: refused list not split",
            "where a role may read single DAGs nothing is known of any",
            (
                "airflow.queries.session",
                'return failed.code == "403" and not self.dialect.LISTS_UNKNOWN and self.may_list()',
                "return False",
            ),
        ),
        f"{_TWO}::test_a_list_that_is_refused_is_split_and_readable_dags_are_answered",
    ),
    (
        bug(
            "2: a label's text asked for as a DAG",
            "a DAG with a long id is never known to a role for it alone",
            (
                "airflow.queries.resolver",
                "        own_text = asking.round_.dialect.LISTS_UNKNOWN\n",
                "        own_text = True\n",
            ),
        ),
        f"{_TWO}::test_a_dag_whose_id_is_hashed_is_found_by_a_role_for_it_alone",
    ),
    (
        bug(
            "2: login after login",
            "a session that is refused is renewed at once, each time: Airflow answers 429 to all logins",
            ("airflow.api.login2", "and boottime() < self._tried + RENEW_EVERY", "and boottime() < self._tried"),
        ),
        f"{_TWO}::test_a_session_that_has_ended_is_renewed_at_most_once_a_minute",
    ),
    (
        bug(
            "2: a row is quoted",
            "a row that can't be read is repeated in the message, and with it the cluster's credentials",
            (
                "airflow.api.dialect2",
                '        raise msgspec.ValidationError("the row has no readable ids")\n',
                '        raise msgspec.ValidationError(f"the row has no readable ids: {content!r}")\n',
            ),
        ),
        f"{_TWO}::test_the_clusters_credentials_in_a_trigger_are_told_nowhere",
    ),
    (
        bug(
            "2: 2.9 believed",
            "an Airflow is believed whose try numbers depend on the state",
            ("airflow.api.dialects", "KNOWN = (((2, 10), (2, 11))", "KNOWN = (((2, 1), (2, 11))"),
        ),
        "tests/unit/airflow/test_airflow_questions.py::test_an_airflow_whose_try_numbers_lie_is_refused_with_the_reason",
    ),
)
