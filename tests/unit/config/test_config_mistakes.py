"""Twenty broken files: each mistake in them is told with its place and a remedy, all at once, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from healer.config import Config, load
from healer.config.mistakes import Mistakes, unexpanded
from healer.errors import ConfigError

LOGIN = "username: healer, password: hunter2"

BROKEN: dict[str, tuple[str, list[str]]] = {
    "a typo": (
        f"airflows: [{{name: p, namespaces: [a], url: 'http://a', {LOGIN}, policy: {{grac: 2m}}}}]",
        ["airflows[0].policy.grac: unknown key: did you mean grace?"],
    ),
    "a key one level too high": (
        f"grace: 2m\nairflows: [{{name: p, namespaces: [a], url: 'http://a', {LOGIN}}}]",
        ["grace: stands in the wrong place: it belongs under airflows[].policy"],
    ),
    "a key one level too deep": (
        f"airflows: [{{name: p, namespaces: [a], url: 'http://a', {LOGIN}, interval: 30s}}]",
        ["airflows[0].interval: stands in the wrong place: it belongs at the top of the file"],
    ),
    "a key of another section": (
        f"airflows: [{{name: p, namespaces: [a], url: 'http://a', {LOGIN}, policy: {{maxShare: 0.4}}}}]",
        ["airflows[0].policy.maxShare: stands in the wrong place: it belongs under airflows[].limits.breaker"],
    ),
    "a home": (
        "airflows: [{name: p, namespaces: [a], url: 'http://a', username: h, passwordFile: ~/password}]",
        ["airflows[0].passwordFile: begins with ~, which stands for nobody's home here: write the whole path"],
    ),
    "variables": (
        "airflows: [{name: p, namespaces: ['${NS}'], url: 'http://${HOST}:8080', username: $(WHO), password: '${P}'}]",
        [
            "airflows[0].namespaces[0]: holds a variable as ${NAME}, which nothing fills in here: write the value",
            "airflows[0].url: holds a variable",
            "airflows[0].username: holds a variable",
        ],
    ),
    "a template that was not rendered": (
        f"airflows: [{{name: p, namespaces: ['{{{{ .Values.ns }}}}'], url: 'http://a', {LOGIN}}}]",
        ["airflows[0].namespaces[0]: holds a variable"],
    ),
    "two logins and a wrong duration": (
        f"airflows: [{{name: p, namespaces: [a], url: 'http://a', {LOGIN}, token: abc, timeout: 60}}]",
        ["airflows[0].timeout: is not a duration: it has no unit", "airflows[0]: give exactly one login"],
    ),
    "no login and no namespace": (
        "airflows: [{name: p, namespaces: [], url: 'http://a'}]",
        ["airflows[0].namespaces: is empty: name at least one", "airflows[0]: give exactly one login"],
    ),
    "a login of which nothing holds": (
        "airflows: [{name: p, namespaces: [a], url: 'http://a', tokenFile: /nowhere/t, passwordFile: /nowhere/p}]",
        [
            "airflows[0]: give exactly one login",
            "airflows[0].passwordFile: can't read the file that it names",
            "airflows[0].tokenFile: can't read the file that it names",
        ],
    ),
    "periods of the Lease in the wrong order": (
        (
            f"leaderElection: {{leaseDuration: 5s, renewDeadline: 10s, retryPeriod: 2s}}\n"
            f"airflows: [{{name: p, namespaces: [a], url: 'http://a', {LOGIN}, timeout: soon}}]"
        ),
        [
            "leaderElection: leaseDuration must be longer than renewDeadline",
            "airflows[0].timeout: is not a duration",
        ],
    ),
    "enforce without ownership beside a typo": (
        f"mode: enforce\nlisten: 8080\nairflows: [{{name: p, namespaces: [a], url: 'http://a', {LOGIN}}}]",
        ["listen: must be text", "airflows[0].ownership: enforce mode needs it"],
    ),
    "two of one name and one namespace": (
        (
            f"airflows:\n- {{name: p, namespaces: [a], url: 'http://a', {LOGIN}, timeout: 1}}\n"
            f"- {{name: p, namespaces: [a], url: 'http://b', {LOGIN}, caFile: /nowhere/ca}}"
        ),
        [
            "airflows[0].timeout: is not a duration",
            "airflows: 2 entries are called p",
            "airflows: namespace a is claimed by p and p",
            "airflows[1].caFile: can't read the file",
        ],
    ),
    "each action wrong": (
        (
            f"airflows: [{{name: p, namespaces: [a], url: 'http://a', {LOGIN}, "
            "policy: {actions: {orphand: delete, in-use: delete, kept: maybe}}}]"
        ),
        [
            ("airflows[0].policy.actions: 'orphand' is no reason: did you mean orphaned?; in-use always keeps: only "),
        ],
    ),
    "keys that stand twice": (
        f"mode: report\nmode: enforce\nairflows:\n- {{name: p, namespaces: [a], url: 'http://a', {LOGIN}, name: q}}",
        [
            "a key stands there twice in line 2, column 1: remove one of them",
            "a key stands there twice in line 4",
            "airflows[0].ownership: enforce mode needs it",
        ],
    ),
    "sections that are none": (
        f"log: text\nleaderElection: []\nairflows: [{{name: p, namespaces: [a], url: 'http://a', {LOGIN}, policy: 1}}]",
        [
            "log: must hold keys and values of its own",
            "leaderElection: must hold keys and values",
            "airflows[0].policy: must hold keys and values",
        ],
    ),
    "an Airflow that is none": (
        "interval: 0s\nairflows: [prod]",
        ["interval: must be longer than 0s", "airflows[0]: must hold keys and values of its own"],
    ),
    "no Airflows at all": ("interval: 1\nairflows: []", ["interval: is not a duration", "airflows: is empty"]),
    "a misspelled ownership": (
        f"mode: enforce\nairflows: [{{name: p, namespaces: [a], url: 'http://a', {LOGIN}, ownershp: exclusive}}]",
        ["airflows[0].ownershp: unknown key: did you mean ownership?"],
    ),
    "two logins and a key without its certificate": (
        f"airflows: [{{name: p, namespaces: [a], url: 'http://a', {LOGIN}, cookieFile: /nowhere/c, keyFile: /no}}]",
        [
            "airflows[0]: give exactly one login",
            "airflows[0]: keyFile needs certFile",
            "airflows[0].cookieFile: can't read the file that it names",
        ],
    ),
    "a client without its secret, and files that are none": (
        (
            "listenTokenFile: /nowhere/l\nairflows: [{name: p, namespaces: [a], url: 'http://a', clientId: c, "
            "headersFile: /nowhere/h, certFile: /nowhere/c, keyFile: /nowhere/k}]"
        ),
        [
            "listenTokenFile: can't read the file that it names",
            "airflows[0]: give exactly one login",
            "airflows[0].headersFile: can't read the file that it names",
            "airflows[0].certFile: can't read the file that it names",
            "airflows[0].keyFile: can't read the file that it names",
        ],
    ),
    "devices and pipes instead of files": (
        (
            "listenTokenFile: /dev/zero\nairflows: [{name: p, namespaces: [a], url: 'http://a', tokenFile: /dev/tty, "
            "headersFile: /dev/zero, certFile: /dev/zero, keyFile: /dev/zero, caFile: /dev/zero}]"
        ),
        [
            "listenTokenFile: can't read the file that it names: it is no file, but a pipe or a device",
            "airflows[0].tokenFile: can't read the file that it names",
            *(
                f"airflows[0].{key}File: can't read the file that it names: it is no file, but a pipe or a device"
                for key in ("headers", "cert", "key", "ca")
            ),
        ],
    ),
    "homes of every file": (
        (
            "listenTokenFile: ~/l\nairflows: [{name: p, namespaces: [a], url: 'http://a', clientId: c, "
            "clientSecretFile: ~/s, headersFile: ~/h, certFile: ~/c, caFile: ~/a}]"
        ),
        [
            "listenTokenFile: begins with ~",
            *(f"airflows[0].{key}File: begins with ~" for key in ("clientSecret", "headers", "cert", "ca")),
        ],
    ),
    "a program without words beside a wrong file": (
        "airflows: [{name: p, namespaces: [a], url: 'http://a', exec: {command: [], timeout: 1}, caFile: /nowhere/ca}]",
        [
            "airflows[0].exec.command: is empty",
            "airflows[0].exec.timeout: is not a duration",
            "airflows[0].caFile: can't read the file that it names",
        ],
    ),
    "a label of one's own that is none, and no history": (
        (
            f"history: 3\nairflows: [{{name: p, namespaces: [a], url: 'http://a', {LOGIN}, timeout: 1, "
            "ownership: {label: team}}]"
        ),
        ["history: must be off", "airflows[0].timeout: is not a duration", "airflows[0].ownership: "],
    ),
    "both parts of a label, both orders of the Lease": (
        (
            "leaderElection: {leaseDuration: 5s, renewDeadline: 10s, retryPeriod: 20s}\n"
            f"airflows: [{{name: p, namespaces: [a], url: 'http://a', {LOGIN}, "
            "ownership: {label: a b, value: true}}]"
        ),
        [
            (
                "leaderElection: leaseDuration must be longer than renewDeadline, else two would act: lengthen it; "
                "renewDeadline must be longer than retryPeriod"
            ),
            (
                "airflows[0].ownership: label is no label's key: write one like acme.io/airflow; value is no label's "
                "value: put it in quotes"
            ),
        ],
    ),
    "keys that are no words": (
        (
            f"7: x\non: x\nairflows: [{{name: p, namespaces: [a], url: 'http://a', {LOGIN}, "
            "policy: {2020-01-01: 1, ~: 2}}]"
        ),
        ["7: unknown key", "on: unknown key", "airflows[0].policy.2020-01-01: unknown key", "airflows[0].policy.~: "],
    ),
    "numbers beyond all measure": (
        (
            f"airflows: [{{name: p, namespaces: [a], url: 'http://a', {LOGIN}, policy: {{sightings: 1{'0' * 400}}}, "
            f"limits: {{deletionsPerMinute: 1{'0' * 400}, breaker: {{minCount: 1{'0' * 400}}}}}}}]"
        ),
        [
            "airflows[0].policy.sightings: should be less than or equal to 1000",
            "airflows[0].limits.deletionsPerMinute: should be less than or equal to 1000000",
            "airflows[0].limits.breaker.minCount: should be less than or equal to 1000000",
        ],
    ),
    "a program without a name": (
        "interval: 1\nairflows: [{name: p, namespaces: [a], url: 'http://a', exec: {command: ['', x]}}]",
        ["interval: is not a duration", "airflows[0].exec.command: names no program: its first word is empty"],
    ),
    "a tab": (
        f"airflows:\n\t- {{name: p, namespaces: [a], url: 'http://a', {LOGIN}}}",
        ["the configuration config.yaml is not YAML: it holds a tab: put spaces in its place in line 2, column 1"],
    ),
    "a control character": (
        f"mode: report\nlisten: ':8\x1b080'\nairflows: [{{name: p, namespaces: [a], url: 'http://a', {LOGIN}}}]",
        ["the configuration config.yaml is not YAML: it holds a control character in line 2, column 12: remove it"],
    ),
    "anchors within one another": (
        "a0: &a0 [hunter2]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)),
        ["the configuration config.yaml repeats its anchors within one another: write the values out"],
    ),
    "an anchor within itself": (
        "log: &log {a: *log, b: *log, c: *log, d: *log, e: *log, f: *log, g: *log, h: *log, i: *log}",
        ["the configuration config.yaml repeats its anchors within one another: write the values out"],
    ),
    "a misspelled password": (
        "airflows: [{name: p, namespaces: [a], url: 'http://a', username: h, pasword: hunter2}]",
        ["airflows[0].pasword: unknown key: did you mean password?"],
    ),
    "everything": (
        (
            "mode: delete\ninterval: 5\nlog: {level: loud, fromat: json}\nfindings: 1\nairflows:\n"
            "- {name: a b, namespaces: [Team, b, b], url: airflow:8080, username: h}\n- {url: 'ftp://x', token: t}"
        ),
        [
            "mode: should be 'report' or 'enforce'",
            "interval: is not a duration",
            "log.level: should be",
            "log.fromat: unknown key: did you mean format?",
            "findings: must be true or false",
            "airflows[0].name: can't be a label value",
            "airflows[0].namespaces[0]: is not a namespace's name",
            "airflows[0].namespaces: names a namespace twice",
            "airflows[0].url: is not the URL",
            "airflows[0]: give exactly one login",
            "airflows[1].name: is missing",
            "airflows[1].namespaces: is missing",
            "airflows[1].url: is not the URL",
        ],
    ),
}
"""Files, and how each line about them begins: all of them and no more, in any order."""


@pytest.mark.parametrize("name", BROKEN)
def test_every_mistake_is_told_at_once_and_no_other(name: str, tmp_path: Path) -> None:
    text, expected = BROKEN[name]
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load(path, {}, {})
    told = str(refused.value).replace(str(path), path.name)
    lines = [line.removeprefix(f"{path.name}: ") for line in told.splitlines()]
    for begin in expected:
        assert [line for line in lines if line.startswith(begin)], f"{begin!r} is missing among {lines}"
    assert len(lines) == len(expected), lines
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("name", [name for name, (_, told) in BROKEN.items() if "the configuration" not in told[0]])
def test_what_was_read_is_left_as_it_is(name: str) -> None:
    raw = yaml.safe_load(BROKEN[name][0])
    Mistakes(raw)
    assert raw == yaml.safe_load(BROKEN[name][0])


def test_a_variable_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"airflows: [{{name: p, namespaces: [a], url: 'http://a', {LOGIN}}}]")
    assert isinstance(load(None, {}, {"KPO_HEALER_CONFIG": str(path)}), Config)
    other = tmp_path / "other.yaml"
    other.write_text("mode: 1")
    with pytest.raises(ConfigError, match=r"other\.yaml"):
        load(other, {}, {"KPO_HEALER_CONFIG": str(path)})


def test_a_secret_may_look_like_a_variable() -> None:
    assert list(unexpanded({"airflows": [{"password": "a${b}c", "token": "~x"}]})) == []


def test_a_programs_words_are_its_own() -> None:
    words = ["sh", "-c", "get-token --for $(hostname) ${REGION} {{.Name}}"]
    assert list(unexpanded({"airflows": [{"exec": {"command": words}}]})) == []


def test_a_document_within_itself_has_an_end() -> None:
    raw: dict[str, object] = {}
    raw["log"] = raw
    assert list(unexpanded(raw)) == []
