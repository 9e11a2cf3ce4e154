"""A generated client is used without its models, a logger without rich, and whoever wants those still gets them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from healer.import_stubs import block_import, stub_packages


def told(program: str) -> str:
    """Run it in a process of its own, as modules are loaded but once, and return what it prints."""
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


def test_the_client_of_airflow_comes_without_its_models() -> None:
    program = (
        "import sys, healer.airflow.api.client_import"
        "\nprint(sum('airflow_client.client.models' in m for m in sys.modules))"
    )
    assert told(program) == "0"


def test_whoever_wants_the_whole_client_gets_it_and_the_same_transport() -> None:
    program = (
        "from healer.airflow.api.client_import import ApiClient; import airflow_client.client as whole; "
        "print(whole.ApiClient is ApiClient, whole.DAGApi.__name__, whole.models.DAGResponse.__name__)"
    )
    assert told(program) == "True DAGApi DAGResponse"


def test_a_client_that_is_loaded_already_is_taken_as_it_is() -> None:
    program = (
        "import airflow_client.client as whole; from healer.airflow.api.client_import import ApiClient; import sys; "
        "print(whole.ApiClient is ApiClient, sys.modules['airflow_client.client'] is whole)"
    )
    assert told(program) == "True True"


def test_neither_client_is_loaded_before_there_is_something_to_ask() -> None:
    program = "import sys, healer.cli.commands, healer.controller; print('airflow_client' in sys.modules)"
    assert told(program) == "False"


def test_a_package_that_is_not_there_is_told() -> None:
    with pytest.raises(ModuleNotFoundError), stub_packages("no_such_package.client"):
        pass


def test_the_controller_does_without_colours_and_whoever_draws_a_table_gets_them() -> None:
    program = (
        "import sys, healer.cli.commands, healer.controller; before = 'rich' in sys.modules; "
        "from healer.cli.output import write_table; write_table(['a'], [['b']]); print(before, 'rich' in sys.modules)"
    )
    assert told(program).splitlines()[-1] == "False True"


def test_what_is_loaded_is_not_hidden() -> None:
    with block_import("subprocess"):
        import subprocess as same
    assert same is subprocess
