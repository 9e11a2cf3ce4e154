"""The label contract of KubernetesPodOperator, both ways: from an id to its label, and from a label back to ids.

A label is lossy. What Kubernetes does not allow is removed, and an id that was changed or is longer than 63 characters
gets the first nine hex digits of its MD5 as a tail. So a label is compared by computing the label of an id that Airflow
itself gave, tail included, and never by guessing; where more than one id fits, nothing is known.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from hashlib import md5
from string import ascii_letters, digits

from healer.model import LabelKey, Labels, RawIds

MAX_LABEL = 63
MAX_ID = 250
"""Characters that Airflow's columns for ids hold."""

HASH_LENGTH = 9
MAX_PREFIX = MAX_LABEL - HASH_LENGTH - 1
"""How much of an id stands before the hash: 53 characters."""

_UNSAFE = re.compile(r"^[^a-z0-9A-Z]*|[^a-zA-Z0-9_\-\.]|[^a-z0-9A-Z]*$")
_HASHED = re.compile(r"-[0-9a-f]{9}\Z")
_LABEL = re.compile(r"[A-Za-z0-9_.\-]{1,63}")
_KEY = re.compile(r"[\w.\-]+")
_COUNT = re.compile(r"0|[1-9][0-9]{0,8}")
_ISO_TIME = re.compile(r"(.*?[0-9]{4}-[0-9]{2}-[0-9]{2}T)([0-9]{2})([0-9]{2})([0-9]{2})(.*)")
_FRACTIONS = (re.compile(r"\.[0-9]{6}"), re.compile(r"\.[0-9]{3}"), re.compile(""))
_OFFSET = re.compile(r"(-?)([0-9]{2})([0-9]{2})")


def safe_label(value: str) -> str:
    """Return the label value that KubernetesPodOperator writes for an id.

    The same as the provider's `make_safe_label_value`, which has not changed from 7.4 to 10.25 (nor has the copy in
    Airflow's core that older ones use).
    """
    safe = _UNSAFE.sub("", value)
    if len(safe) <= MAX_LABEL and safe == value:
        return safe
    digest = md5(value.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()
    return f"{safe[:MAX_PREFIX]}-{digest[:HASH_LENGTH]}"


def may_be_hashed(label: str) -> bool:
    """Whether the label may stand for another id than itself. Where it may not, it certainly is the id."""
    return _HASHED.search(label) is not None


def matching(label: str, ids: Iterable[str]) -> list[str]:
    """Return the distinct ids whose label this is, in the order given."""
    return [raw for raw in dict.fromkeys(ids) if safe_label(raw) == label]


def invert_run_id(label: str) -> str | None:
    """Return the run id with an ISO time in it that this label was made from, or None.

    Airflow's own run ids (`scheduled__2026-01-01T00:00:00+00:00`) lose only `:` and `+`, so they can be written back
    and proven by the hash, also when one character was cut off. Whatever can't be proven, or is proven twice, is None.
    """
    if not may_be_hashed(label):
        return None
    stripped = label[: -HASH_LENGTH - 1]
    found = matching(label, _iso_candidates(stripped))
    if not found and len(stripped) == MAX_PREFIX:
        found = matching(label, (c for last in ascii_letters + digits for c in _iso_candidates(stripped + last)))
    return found[0] if len(found) == 1 else None


def _iso_candidates(stripped: str) -> Iterator[str]:
    """Yield the run ids with an ISO time that would be stripped to this."""
    parts = _ISO_TIME.fullmatch(stripped)
    if parts is None:
        return
    date, hour, minute, second, rest = parts.groups()
    for fraction in filter(None, (pattern.match(rest) for pattern in _FRACTIONS)):
        for zone in _zones(rest[fraction.end() :]):
            yield f"{date}{hour}:{minute}:{second}{fraction[0]}{zone}"


def _zones(rest: str) -> Iterator[str]:
    """Yield what may have stood after the seconds: with `+HH:MM`, with `-HH:MM`, or unchanged (`Z`, nothing)."""
    yield rest
    offset = _OFFSET.match(rest)
    if offset is not None:
        sign, hours, minutes = offset.groups()
        yield f"{sign or '+'}{hours}:{minutes}{rest[offset.end() :]}"


@lru_cache(maxsize=64)  # of one Pod it is asked several times in a row
def parse(labels: Labels) -> LabelKey | str:
    """Return the task instance and try that the labels point at, or a sentence that says what is wrong with them."""
    for name in ("dag_id", "task_id", "run_id", "try_number"):
        value = getattr(labels, name)
        if not value:
            return f"label {name} is missing"
        if _LABEL.fullmatch(value) is None:
            return f"label {name} is {_shown(value)}, which no label in Kubernetes can be"
    if not _is_count(labels.try_number) or int(labels.try_number or 0) < 1:
        return f"label try_number is {_shown(labels.try_number)}, not a number from 1"
    if labels.map_index is not None and not _is_count(labels.map_index):
        return f"label map_index is {_shown(labels.map_index)}, not a number from 0"
    return LabelKey(
        dag_id=labels.dag_id or "",
        task_id=labels.task_id or "",
        run_id=labels.run_id or "",
        map_index=-1 if labels.map_index is None else int(labels.map_index),
        try_number=int(labels.try_number or 0),
    )


def believed(key: LabelKey, raw: RawIds | None) -> RawIds:
    """Return those raw ids of a Pod that its labels prove; none where any of them contradicts the labels.

    An id is proven by the hash in its label. Where it is the very text of a label that looks hashed, nothing proves
    that the label is not another id's. An id that Airflow can't have is not believed either, nor any beside it: whoever
    may annotate Pods would have a say in what its database is asked.
    """
    if raw is None or not _is_possible(raw) or not _agrees(key, raw):
        return RawIds()
    return RawIds(_proven(key.dag_id, raw.dag_id), _proven(key.task_id, raw.task_id), _proven(key.run_id, raw.run_id))


def is_key(text: str) -> bool:
    """Whether Airflow could have a DAG or task of this id: letters and digits of any script, `_`, `-` and `.`.

    As its `validate_key` has it, but for a line break at the end; and within the Basic Multilingual Plane, as columns
    of MySQL hold no more and refuse to be compared with it.
    """
    return len(text) <= MAX_ID and _KEY.fullmatch(text) is not None and _is_plain(text)


def is_run_id(text: str) -> bool:
    """Whether Airflow could have a run of this id.

    `[scheduler] allowed_run_id_pattern` may let anything pass, `/` and blanks included. What can't be printed (NUL,
    breaks, directions of writing, half a surrogate), begins or ends blank, or is beyond the Basic Multilingual Plane is
    refused or changed by one database or another.
    """
    return 0 < len(text) <= MAX_ID and _is_plain(text) and text == text.strip()


def _is_plain(text: str) -> bool:
    return text.isprintable() and max(text) <= "\uffff"


def _is_possible(raw: RawIds) -> bool:
    keys = all(text is None or is_key(text) for text in (raw.dag_id, raw.task_id))
    return keys and (raw.run_id is None or is_run_id(raw.run_id))


def _shown(value: str | None) -> str:
    """Return a value that may be hostile as a message holds it: in quotes, short, with escapes for all but ASCII."""
    text = str(value)
    return ascii(text) if len(text) <= MAX_LABEL else f"{text[:MAX_LABEL]!a}…"


def _agrees(key: LabelKey, raw: RawIds) -> bool:
    pairs = ((key.dag_id, raw.dag_id), (key.task_id, raw.task_id), (key.run_id, raw.run_id))
    same_map_index = raw.map_index in {None, str(key.map_index)}
    return same_map_index and all(given is None or safe_label(given) == label for label, given in pairs)


def _proven(label: str, given: str | None) -> str | None:
    return None if given == label and may_be_hashed(label) else given


def _is_count(text: str | None) -> bool:
    return text is not None and _COUNT.fullmatch(text) is not None
