"""`preloaded.py scheduler …`: an airflow command that has imported KubernetesPodOperator already.

Tasks run in processes forked from the scheduler's, so each of them is spared a second of imports.
"""

from __future__ import annotations

import sys

import airflow.providers.cncf.kubernetes.operators.pod  # noqa: F401
from airflow.__main__ import main

if __name__ == "__main__":
    sys.argv[0] = "airflow"
    main()
