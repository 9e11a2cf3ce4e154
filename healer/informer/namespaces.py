"""Which namespaces each Airflow looks after now: those that it names, and those that its patterns find.

Namespaces are listed, and not watched: once in each full pass is soon enough for a new one, and takes one right less.
What a failed LIST would have told is not guessed: until the next one nothing is decided in any namespace that only a
pattern stands for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType

from msgspec import Struct
from msgspec.structs import replace

from healer.config import AirflowConfig, Config, covers, exact_names, is_pattern, matches

NOT_LISTED = "The namespaces were not listed yet."

NO_MATCH = "no namespace matches this pattern yet: check it, kubectl get namespaces lists them"


class Territory(Struct, frozen=True):
    """The namespaces of all Airflows at one moment.

    `of` has them by Airflow, the named ones first; `contested` says of each Airflow which ones it shares with another
    one that it can't share them with. `vacant`: patterns that stand for none. `problem`: why the namespaces could not
    be listed when they last had to be, so that what was found before is old.
    """

    of: Mapping[str, tuple[str, ...]]
    contested: Mapping[str, Mapping[str, str]]
    vacant: tuple[str, ...] = ()
    problem: str | None = None

    def names(self, airflows: Iterable[AirflowConfig]) -> list[str]:
        """Return the namespaces of these Airflows, each once."""
        return list(dict.fromkeys(name for airflow in airflows for name in self.of[airflow.name]))

    def unreadable(self, airflow: AirflowConfig) -> Mapping[str, str]:
        """Say of which namespaces and patterns of an Airflow nothing is known now, and why."""
        found: dict[str, str] = dict(self.contested[airflow.name])
        if self.problem is not None:
            old = [name for name in (*self.of[airflow.name], *airflow.namespaces) if _is_found(airflow, name)]
            found |= dict.fromkeys(old, self.problem)
        return found

    def failed(self, problem: str) -> Territory:
        """Return this, known to be old."""
        return replace(self, problem=problem)


def _is_found(airflow: AirflowConfig, name: str) -> bool:
    """Whether only a pattern stands for it, or it is one."""
    return is_pattern(name) or name not in airflow.namespaces


def named(config: Config) -> Territory:
    """Return what is known before namespaces were listed: the exact names."""
    of = {a.name: tuple(exact_names(a.namespaces)) for a in config.airflows}
    nothing: Mapping[str, str] = MappingProxyType({})
    return Territory(of, dict.fromkeys(of, nothing), problem=NOT_LISTED if config.patterns else None)


def found(config: Config, namespaces: Collection[str]) -> Territory:
    """Return whose each of these is, which are all that the cluster has."""
    before = named(config)
    more: dict[str, list[str]] = {name: [] for name in before.of}
    contested: dict[str, dict[str, str]] = {name: {} for name in before.of}
    patterns = config.patterns
    for namespace in sorted(each for each in namespaces if covers(patterns, each)):
        claim = config.claim(namespace)
        for airflow in claim.airflows:
            if namespace not in airflow.namespaces:
                more[airflow.name].append(namespace)
        if claim.problem is not None:
            for airflow in config.airflows:
                if covers(airflow.namespaces, namespace):
                    contested[airflow.name][namespace] = claim.problem
    vacant = tuple(pattern for pattern in patterns if not any(matches(pattern, each) for each in namespaces))
    of = {name: (*known, *more[name]) for name, known in before.of.items()}
    return Territory(of, contested, vacant)
