"""`python -m tests.lab.sabotage NAME -- run --config …`: kpo-healer with a fault in it.

A demo or test that stays green with one of these proves nothing.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any, Final

import msgspec

from healer.airflow import service
from healer.airflow.queries import resolver, results
from healer.decision import labels, rules
from healer.deletion import pod_deleter
from healer.model import LabelKey, Labels, Reason

_TAIL: Final = re.compile(r"-[0-9a-f]{9}\Z")


def never_fires() -> None:
    """No ended task's Pod is ever called an orphan."""
    _replace_rule(Reason.ORPHANED, lambda _: False)


def always_fires() -> None:
    """Every Pod whose task instance is known is called an orphan, whatever Airflow says about it."""
    _replace_rule(Reason.ORPHANED, lambda _: True, before=Reason.TRY_AHEAD)


def tries_swapped() -> None:
    """The try on the Pod's label and the task instance's are taken for each other."""
    rules.RuleInput.label_try, rules.RuleInput.task_try = rules.RuleInput.task_try, rules.RuleInput.label_try  # type: ignore[method-assign]


def hash_ignored() -> None:
    """Labels are compared without their hash: `a:b` and `a b` are the same then, and the newer one wins."""
    parse, safe_label = labels.parse, labels.safe_label

    def loose_parse(found: Labels) -> LabelKey | str:
        key = parse(found)
        if isinstance(key, str):
            return key
        bare = {name: _TAIL.sub("", getattr(key, name)) for name in ("dag_id", "task_id", "run_id")}
        return msgspec.structs.replace(key, **bare)

    def loose_label(value: str) -> str:
        return _TAIL.sub("", safe_label(value))

    for module in (rules, service):
        _patch(module, "parse", loose_parse)
    for module in (rules, results, resolver):
        _patch(module, "safe_label", loose_label)
    by_label = resolver._by_label
    _patch(resolver, "_by_label", lambda ids: {label: found[:1] for label, found in by_label(ids).items()})
    _patch(resolver, "may_be_hashed", lambda _: True)


def uid_ignored() -> None:
    """DELETE names the Pod but neither its uid nor its resourceVersion."""
    _without("uid", "resourceVersion")


def uid_left_out() -> None:
    """DELETE names the resourceVersion but not the uid."""
    _without("uid")


SABOTAGES: Final[dict[str, Callable[[], None]]] = {
    "never-fires": never_fires,
    "always-fires": always_fires,
    "tries-swapped": tries_swapped,
    "hash-ignored": hash_ignored,
    "uid-ignored": uid_ignored,
    "uid-left-out": uid_left_out,
}


def _replace_rule(reason: Reason, predicate: Callable[[Any], bool], *, before: Reason | None = None) -> None:
    """Gives a rule another predicate, and tries it before another rule if one is named."""
    facts = next(facts for name, _, facts in rules.RULES if name is reason)
    others = [rule for rule in rules.RULES if rule[0] is not reason]
    names = [rule[0] for rule in (others if before else rules.RULES)]
    place = names.index(before or reason)
    _patch(rules, "RULES", (*others[:place], (reason, predicate, facts), *others[place:]))


def _without(*names: str) -> None:
    request = pod_deleter._request

    def careless(*arguments: Any) -> Any:
        made = request(*arguments)
        body = dict(made.body or {})
        body["preconditions"] = {k: v for k, v in body["preconditions"].items() if k not in names}
        return msgspec.structs.replace(made, body=body)

    _patch(pod_deleter, "_request", careless)


def _patch(module: Any, name: str, value: object) -> None:
    if not hasattr(module, name):
        raise AttributeError(f"{module.__name__}.{name} has gone: mend the sabotage, or it sabotages nothing")
    setattr(module, name, value)


def main() -> None:
    name, separator, *arguments = sys.argv[1:] or ["", ""]
    if name not in SABOTAGES or separator != "--":
        sys.exit(f"usage: python -m tests.lab.sabotage {{{','.join(SABOTAGES)}}} -- COMMAND …")
    SABOTAGES[name]()
    from healer.cli import main as cli

    cli(arguments)


if __name__ == "__main__":
    main()
