"""Ids that don't fit into a label as they are: too long, or with signs that a label must not begin or end with."""

from __future__ import annotations

from _kpo import kpo, kpo_dag

LONG = "a_very_long_name_that_somebody_generated_from_a_table_of_contents"

with kpo_dag(f"kpo_{LONG}"):
    kpo(f"load_{LONG}")

# The same first 53 characters as above: only the hash at the end tells the two apart.
with kpo_dag(f"kpo_{LONG}_2"):
    kpo(f"load_{LONG}_2")

with kpo_dag("_kpo.signs-"):
    kpo("__work.of-today__")

with kpo_dag("kpo_looks_hashed-0123456789abcdef"):
    kpo("work-0123456789abcdef0")
    kpo("work-012345678")
