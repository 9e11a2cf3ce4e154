"""Makes the database of the FAB auth manager, and runs commands of Airflow's own command line one after another.

A JSON list of commands, each a list of words, is the one argument; every `airflow` of its own would take seconds.
"""

import json
import sys

from airflow.cli.cli_parser import get_parser


def run(words):
    options = get_parser().parse_args(words)
    options.func(options)


run(["fab-db", "migrate"])
for command in json.loads(sys.argv[1]):
    run(command)
print("DONE")
