"""All mistakes of a configuration at once: what is wrong is put right in a copy, which is then checked again.

The models look at what spans several keys only when each key is right; checking stops at the first of such mistakes.
So each round puts something harmless in the place of what the last one found. A mistake that only follows from this
repair is not told.
"""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.alias_generators import to_camel, to_snake
from pydantic_core import ErrorDetails

from healer.config.models import AirflowConfig, Config

KeyPath = tuple[str | int, ...]
"""Where a value stands: keys and list indexes."""

ROUNDS = 12
"""Checks of one configuration: more than it has layers of mistakes."""

ANY_TEXT = frozenset({"password", "token", "exec"})
"""Keys whose values may be any text: secrets, and words of a program that may fill them in itself."""

_VARIABLE = re.compile(r"\$\{[^}]*\}|\$\([^)]*\)|\{\{.*?\}\}")


class Mistakes:
    """What is wrong with a configuration, and the configuration as it would be without these mistakes."""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        """Find them all; `raw` is left as it is."""
        self.details: list[ErrorDetails] = []
        self.config: Config | None = None
        self._raw = copy.deepcopy(dict(raw))
        self._repaired: set[KeyPath] = set()
        self._logins: dict[int, dict[str, Path]] = {}
        for _ in range(ROUNDS):
            if not self._check():
                break

    def files(self) -> Sequence[AirflowConfig]:
        """Return the Airflows with the files that they name, of a login that is wrong too."""
        airflows = self.config.airflows if self.config is not None else ()
        return [a.model_copy(update=self._logins.get(number)) for number, a in enumerate(airflows)]

    def _check(self) -> bool:
        """Check once; return whether to check again."""
        try:
            self.config = Config.model_validate(self._raw, by_alias=True, by_name=False)
        except ValidationError as error:
            # A list whose entries are all wrong is empty for pydantic, not for the user.
            found = [d for d in error.errors(include_url=False) if d["type"] != "too_short" or not d["input"]]
        else:
            return False
        new = [detail for detail in found if not self._follows(detail)]
        self.details += new
        before = len(self._repaired)
        for detail in found:
            self._repair(detail)
        return len(self._repaired) > before

    def _follows(self, detail: ErrorDetails) -> bool:
        """Whether a mistake may come of a repair: it names a key of its section that was put right before."""
        text, place = str(detail.get("ctx", {}).get("error", "")), detail["loc"]
        repaired = [path[-1] for path in self._repaired if path and path[:-1] == place]
        return place in self._repaired or any(str(key) in re.findall(r"\w+", text) for key in repaired)

    def _repair(self, detail: ErrorDetails) -> None:
        place = self._where(detail["loc"])
        if place and place[0] == "airflows" and len(place) == 2 and detail["type"] == "value_error":
            self._log_in(place[1], str(detail["ctx"]["error"]))
            return
        self._repaired.add(place)
        if detail["type"] == "extra_forbidden":
            self._remove_unknown(place)
        elif place:
            self._replace(place)
        else:
            self._part()

    def _where(self, loc: KeyPath) -> KeyPath:
        """Return the place of the value that can be replaced: a check within one tells more than its place."""
        for end in range(len(loc), 0, -1):
            parent = _at(self._raw, loc[: end - 1])
            if isinstance(parent, dict) or (isinstance(parent, list) and isinstance(loc[end - 1], int)):
                return loc[:end]
        return ()

    def _remove_unknown(self, place: KeyPath) -> None:
        parent = _at(self._raw, place[:-1])
        if not isinstance(parent, dict) or place[-1] not in parent:
            return
        del parent[place[-1]]
        meant = difflib.get_close_matches(str(place[-1]), [*_KEYS_OF_AN_AIRFLOW], n=1)
        self._repaired.update((*place[:-1], key) for key in meant)
        if meant and meant[0] not in parent and meant[0] in _HARMLESS:
            parent[meant[0]] = _HARMLESS[meant[0]]

    def _log_in(self, index: str | int, text: str) -> None:
        """Put a token in the place of a login that is none, and remember the files that it names.

        A key without its certificate, the other thing of which only the whole Airflow tells, is taken away.
        """
        self._repaired.add(("airflows", index, text))
        airflow = _at(self._raw, ("airflows", index))
        if not isinstance(airflow, dict):
            return
        alone = re.match(r"keyFile\b", text) is not None
        for key in [key for key in airflow if key == "keyFile" or key in _LOGIN_KEYS]:
            if (key == "keyFile") is not alone:
                continue
            value = airflow.pop(key)
            if key.endswith("File") and isinstance(value, str):
                self._logins.setdefault(int(index), {})[to_snake(key)] = Path(value)
        if not alone:
            airflow["token"] = "-"  # noqa: S105 - of nobody

    def _part(self) -> None:
        """Let no two Airflows have to do with each other."""
        airflows = self._raw.get("airflows")
        for index, airflow in enumerate(airflows if isinstance(airflows, list) else ()):
            if isinstance(airflow, dict):
                airflow |= {key: value for key, value in _airflow(index).items() if key in _SHARED}

    def _replace(self, place: KeyPath) -> None:
        parent, key = _at(self._raw, place[:-1]), place[-1]
        if place == ("airflows",):
            self._raw["airflows"] = [_airflow(0)]
        elif isinstance(parent, list) and isinstance(key, int) and key < len(parent):
            parent[key] = _airflow(key) if place[:-1] == ("airflows",) else f"placeholder-{key}"
        elif isinstance(parent, dict):
            parent.pop(key, None)
            if place[2:] == ("exec", "command"):
                parent[key] = ["placeholder"]
            elif key in _HARMLESS and len(place) == 3:
                parent[key] = [f"placeholder-{place[1]}"] if key == "namespaces" else _HARMLESS[str(key)]
                if key == "name":
                    parent[key] = f"placeholder-{place[1]}"


_HARMLESS: Mapping[str, Any] = {
    "name": "placeholder",
    "namespaces": ["placeholder"],
    "url": "http://placeholder",
    "ownership": "stamped",
    "mode": "report",
}
"""What stands for a wrong value of an Airflow where leaving the key away would be another mistake."""

_SHARED = ("name", "namespaces", "ownership")
"""What several Airflows may contradict each other in."""

_KEYS_OF_AN_AIRFLOW = tuple(to_camel(name) for name in AirflowConfig.model_fields)

_LOGIN_KEYS = frozenset(
    key for key in _KEYS_OF_AN_AIRFLOW if re.match(r"username|password|token|cookie|client|exec", key)
)


def _airflow(index: int) -> dict[str, Any]:
    """Return an Airflow with which nothing is wrong."""
    return {
        "name": f"placeholder-{index}",
        "namespaces": [f"placeholder-{index}"],
        "url": "http://placeholder",
        "ownership": "stamped",
        "token": "-",
    }


def _at(raw: Any, place: KeyPath) -> Any:
    for part in place:
        try:
            raw = raw[part]
        except (KeyError, IndexError, TypeError):
            return None
    return raw


DEEPEST = 12
"""Sections within sections that are looked into: more than there are; an alias may stand within itself."""


def unexpanded(raw: object, place: KeyPath = ()) -> Iterator[tuple[KeyPath, str]]:
    """Yield the values that somebody expects to be filled in, a sentence each: `~` and `${…}` mean nothing here."""
    if len(place) > DEEPEST:
        return
    if isinstance(raw, dict):
        for key, value in raw.items():
            yield from unexpanded(value, (*place, key if isinstance(key, int) else str(key)))
    elif isinstance(raw, list | tuple):
        for number, value in enumerate(raw):
            yield from unexpanded(value, (*place, number))
    elif isinstance(raw, str) and place and ANY_TEXT.isdisjoint(place):
        yield from ((place, text) for text in _unexpanded(str(place[-1]), raw))


def _unexpanded(key: str, value: str) -> Iterator[str]:
    if key.endswith("File") and value.startswith("~"):
        yield "begins with ~, which stands for nobody's home here: write the whole path"
    elif _VARIABLE.search(value):
        yield "holds a variable as ${NAME}, which nothing fills in here: write the value itself"
