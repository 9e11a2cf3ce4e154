"""The configuration: what is accepted, what wins, and which sentence answers a mistake."""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from healer.config import (
    AirflowConfig,
    Config,
    Mode,
    Ownership,
    listen_address,
    load,
    parse_duration,
    settings,
    warnings,
)
from healer.errors import ConfigError
from healer.model import ACTING, Action, Reason

Write = Callable[[str], Path]

MINIMAL = """
airflows:
  - name: prod
    namespaces: [airflow]
    url: http://airflow-api-server:8080
    username: healer
    password: secret
"""

FULL = """
mode: report
interval: 60s
auditInterval: 10m
freshness: 15s
listen: ":8080"
log: {format: json, level: info}
airflows:
  - name: default
    namespaces: [airflow]
    ownership: exclusive
    url: http://airflow-api-server:8080
    username: healer
    password: secret
    caFile: null
    timeout: 60s
    policy:
      minAge: 2m
      grace: 2m
      absentGrace: 30m
      sightings: 2
      retention: {succeeded: 10m, failed: 24h, kept: 24h}
      foreignOperators: []
      actions: {orphaned: delete, finished: delete, kept: delete, superseded: delete, abandoned: report,
                task-removed: report, run-deleted: report}
    limits:
      deletionsPerMinute: 60
      breaker: {maxShare: 0.5, minCount: 5, coolDown: 10m}
"""

ONE = {
    "KPO_HEALER_NAMESPACE": "airflow, jobs",
    "KPO_HEALER_AIRFLOW_URL": "http://localhost:8080",
    "KPO_HEALER_AIRFLOW_USERNAME": "healer",
    "KPO_HEALER_AIRFLOW_PASSWORD": "secret",
}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(text: str) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(textwrap.dedent(text))
        return path

    return written


def refusal(path: Path | None, flags: dict[str, object] | None = None, env: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, flags or {}, env or {})
    return str(caught.value)


class TestDurations:
    @pytest.mark.parametrize(
        ("text", "seconds"),
        [("30s", 30), ("10m", 600), ("24h", 86400), ("1h30m", 5400), ("500ms", 0.5), ("0s", 0), ("1.5h", 5400)],
    )
    def test_is_seconds(self, text: str, seconds: float) -> None:
        assert parse_duration(text) == seconds

    @pytest.mark.parametrize(
        "text", ["", "30", "s", "-1s", "1w", "1 h", "30S", "1h-1m", "٣s", 30, True, None, [], float("nan"), "99999999h"]
    )
    def test_refuses_what_is_none(self, text: object) -> None:
        with pytest.raises(ValueError, match=r"is not a duration|longer than ten years"):
            parse_duration(text)

    @given(st.integers(0, 9999), st.integers(0, 59), st.integers(0, 59))
    def test_parts_add_up(self, hours: int, minutes: int, seconds: int) -> None:
        assert parse_duration(f"{hours}h{minutes}m{seconds}s") == hours * 3600 + minutes * 60 + seconds

    @given(st.text(max_size=12))
    def test_never_fails_otherwise(self, text: str) -> None:
        with contextlib.suppress(ValueError):
            assert parse_duration(text) >= 0


class TestAccepted:
    def test_the_documented_file_states_the_defaults(self, write: Write) -> None:
        full = load(write(FULL), {}, {})
        terse = load(write(MINIMAL + "    ownership: exclusive\n"), {}, {})
        assert full.model_copy(update={"airflows": ()}) == terse.model_copy(update={"airflows": ()})
        assert full.airflows[0].policy == terse.airflows[0].policy
        assert full.airflows[0].limits == terse.airflows[0].limits
        assert full.airflows[0].timeout == terse.airflows[0].timeout == 60

    @pytest.mark.parametrize(
        ("written", "kept"),
        [("off", "off"), ("'off'", "off"), ("false", "off"), ("memory", "memory"), ("configMap", "configMap")],
    )
    def test_off_needs_no_quotes(self, write: Write, written: str, kept: str) -> None:
        """YAML reads it as false."""
        assert load(write(f"history: {written}\n{MINIMAL}"), {}, {}).history == kept
        assert load(write(MINIMAL), {}, {"KPO_HEALER_HISTORY": kept}).history == kept

    def test_actions_that_are_not_named_keep_their_default(self, write: Write) -> None:
        actions = (
            load(write(MINIMAL + "    policy: {actions: {orphaned: report}}\n"), {}, {}).airflows[0].policy.actions
        )
        assert actions == {reason: reason.action for reason in ACTING} | {Reason.ORPHANED: Action.REPORT}

    def test_an_airflow_may_override_the_mode(self, write: Write) -> None:
        text = "mode: enforce" + MINIMAL + "    mode: report\n"
        assert load(write(text), {}, {}).airflows[0].mode is Mode.REPORT
        text = "mode: enforce" + MINIMAL + "    ownership: stamped\n"
        assert load(write(text), {}, {}).airflows[0].mode is Mode.ENFORCE

    def test_two_stamped_airflows_may_share_a_namespace(self, write: Write) -> None:
        second = MINIMAL.replace("airflows:", "").replace("prod", "test") + "    ownership: stamped\n"
        config = load(write(MINIMAL + "    ownership: stamped\n" + second), {}, {})
        assert [airflow.ownership for airflow in config.airflows] == [Ownership.STAMPED] * 2

    def test_every_duration_may_be_zero_where_it_is_patience(self, write: Write) -> None:
        policy = (
            "    policy: {minAge: 0s, grace: 0s, absentGrace: 0s, retention: {succeeded: 0s, failed: 0s, kept: 0s}}\n"
        )
        assert load(write(MINIMAL + policy), {}, {}).airflows[0].policy.grace == 0

    def test_is_frozen(self, write: Write) -> None:
        config = load(write(MINIMAL), {}, {})
        with pytest.raises(ValidationError):
            config.mode = Mode.ENFORCE  # type: ignore[misc]
        with pytest.raises(TypeError):
            config.airflows[0].policy.actions[Reason.KEPT] = Action.KEEP  # type: ignore[index]

    def test_can_be_built_in_python(self) -> None:
        airflow = AirflowConfig(name="a", namespaces=("x",), url="http://h", token="t")  # type: ignore[arg-type]
        assert Config(mode=Mode.REPORT, interval=0.2, airflows=(airflow,)).interval == 0.2

    def test_secrets_do_not_show(self, write: Write) -> None:
        assert "secret" not in repr(load(write(MINIMAL), {}, {})).replace("client_secret_file", "")

    @pytest.mark.parametrize(
        ("text", "address"), [(":8080", ("", 8080)), ("127.0.0.1:0", ("127.0.0.1", 0)), ("[::1]:80", ("::1", 80))]
    )
    def test_listen_address(self, text: str, address: tuple[str, int]) -> None:
        assert listen_address(text) == address

    def test_merged_yaml_mappings(self, write: Write) -> None:
        second = MINIMAL.replace("airflows:", "").replace("prod", "test").replace("[airflow]", "[jobs]")
        text = MINIMAL + "    policy: &p {grace: 5m}\n" + second + "    policy: {<<: *p, grace: 6m}\n"
        assert [a.policy.grace for a in load(write(text), {}, {}).airflows] == [300, 360]


class TestPrecedence:
    def test_flag_over_environment_over_file(self, write: Write) -> None:
        path = write("interval: 1m\nfreshness: 11s\nauditInterval: 9m\nlog: {level: error}" + MINIMAL)
        env = {"KPO_HEALER_INTERVAL": "2m", "KPO_HEALER_FRESHNESS": "12s", "KPO_HEALER_LOG_LEVEL": "debug"}
        config = load(path, {"interval": "3m", "log_format": "text"}, env)
        assert (config.interval, config.freshness, config.audit_interval) == (180, 12, 540)
        assert (config.log.level, config.log.format) == ("debug", "text")

    @pytest.mark.parametrize("setting", [s for s in settings() if s.override and not s.parent], ids=lambda s: s.key)
    def test_every_top_level_scalar_has_a_variable(self, setting: object, write: Write) -> None:
        env = {setting.override.env: "nonsense"}  # type: ignore[attr-defined]
        assert setting.override.env in refusal(write(MINIMAL), env=env)  # type: ignore[attr-defined]

    def test_an_empty_variable_is_not_set(self, write: Write) -> None:
        assert load(write(MINIMAL), {}, {"KPO_HEALER_MODE": ""}).mode is Mode.REPORT

    def test_without_a_file_the_environment_describes_one_airflow(self) -> None:
        airflow = load(None, {}, ONE).airflows[0]
        assert (airflow.name, airflow.namespaces, airflow.username) == ("default", ("airflow", "jobs"), "healer")

    def test_flags_describe_one_airflow(self, tmp_path: Path) -> None:
        secret = tmp_path / "token"
        secret.write_text("abc")
        flags = {"namespace": ("a", "b"), "airflow_url": "https://x/", "airflow_token_file": str(secret)}
        airflow = load(None, flags | {"ownership": "exclusive", "mode": "enforce"}, {}).airflows[0]
        assert (airflow.namespaces, airflow.url, airflow.mode) == (("a", "b"), "https://x", Mode.ENFORCE)

    def test_a_file_without_airflows_leaves_it_to_the_environment(self, write: Write) -> None:
        assert load(write("interval: 5s"), {}, ONE).airflows[0].name == "default"

    def test_report_on_the_command_line_holds_for_every_airflow(self, write: Write) -> None:
        path = write(MINIMAL + "    ownership: exclusive\n    mode: enforce\n")
        assert load(path, {}, {}).airflows[0].mode is Mode.ENFORCE
        assert load(path, {"mode": "report"}, {}).airflows[0].mode is Mode.REPORT

    def test_enforce_on_the_command_line_leaves_an_airflow_its_own_report(self, write: Write) -> None:
        path = write(MINIMAL + "    ownership: exclusive\n    mode: report\n")
        assert load(path, {"mode": "enforce"}, {}).airflows[0].mode is Mode.REPORT


class TestRefused:
    @pytest.mark.parametrize("written", ["true", "on", "disk", "configmap", "7", "[memory]", "null"])
    def test_a_history_that_is_none_of_three(self, write: Write, written: str) -> None:
        with pytest.raises(ConfigError, match=r"history: must be off, memory or configMap"):
            load(write(f"history: {written}\n{MINIMAL}"), {}, {})

    @pytest.mark.parametrize(
        ("extra", "sentence"),
        [
            ("policy: {grac: 2m}", "airflows[0].policy.grac: unknown key: did you mean grace?"),
            ("policy: {min_age: 2m}", "airflows[0].policy.min_age: unknown key: did you mean minAge?"),
            ("policy: {grace: 2}", "airflows[0].policy.grace: is not a duration: it has no unit"),
            ("policy: {grace: 2 minutes}", "airflows[0].policy.grace: is not a duration: write one like"),
            ("policy: {sightings: 0}", "airflows[0].policy.sightings: should be greater than or equal to 1"),
            ("policy: {sightings: true}", "airflows[0].policy.sightings: should be a valid integer"),
            ("policy: {actions: {in-use: delete}}", "airflows[0].policy.actions: in-use always keeps: only"),
            ("policy: {actions: {orphand: keep}}", "'orphand' is no reason: did you mean orphaned?"),
            ("policy: {actions: {orphaned: kill}}", "orphaned should be delete, report or keep"),
            ("policy: {actions: [orphaned]}", "must map reasons to actions"),
            ("policy: never", "airflows[0].policy: must hold keys and values of its own"),
            ("policy: {foreignOperators: Mine}", "airflows[0].policy.foreignOperators: must be a list, as [one, two]"),
            ("limits: {deletionsPerMinute: 0}", "airflows[0].limits.deletionsPerMinute: should be greater than"),
            ("limits: {breaker: {maxShare: 0}}", "airflows[0].limits.breaker.maxShare: should be greater than 0"),
            ("limits: {breaker: {maxShare: 1.5}}", "airflows[0].limits.breaker.maxShare: should be less than or equal"),
            (
                "limits: {breaker: {maxShare: .nan}}",
                "airflows[0].limits.breaker.maxShare: should be less than or equal",
            ),
            ("limits: {breaker: {minCount: -1}}", "airflows[0].limits.breaker.minCount: should be greater than"),
            ("timeout: 0s", "airflows[0].timeout: must be longer than 0s"),
            ("ownership: shared", "airflows[0].ownership: should be 'exclusive' or 'stamped'"),
            ("mode: off", "airflows[0].mode: should be 'report' or 'enforce'"),
            ("mode: enforce", "airflows[0].ownership: enforce mode needs it"),
            ("token: abc", "airflows[0]: give exactly one login"),
            ("passwordFile: /nowhere/password", "airflows[0]: give exactly one login"),
            ("caFile: /nowhere/ca.pem", "airflows[0].caFile: can't read the file that it names: No such file"),
            ("name: other", "a key stands there twice in line"),
        ],
    )
    def test_in_an_airflow(self, extra: str, sentence: str, write: Write) -> None:
        assert sentence in refusal(write(f"{MINIMAL}    {extra}\n"))

    @pytest.mark.parametrize(
        ("old", "new", "sentence"),
        [
            ("[airflow]", "[]", "airflows[0].namespaces: is empty: name at least one"),
            ("[airflow]", "airflow", "airflows[0].namespaces: must be a list, as [one, two]"),
            (
                "[airflow]",
                "['team_*']",
                "airflows[0].namespaces[0]: is not a namespace's name, nor a pattern as team-*",
            ),
            ("[airflow]", "[a, a]", "airflows[0].namespaces: names a namespace twice"),
            ("[airflow]", "[no]", "airflows[0].namespaces[0]: must be text: put it in quotes"),
            ("name: prod", "name: a b", "airflows[0].name: can't be a label value"),
            ("name: prod", "name: " + "a" * 64, "can't be a label value"),
            ("http://airflow-api-server:8080", "airflow:8080", "airflows[0].url: is not the URL"),
            ("http://airflow-api-server:8080", "ftp://airflow", "is not the URL of an Airflow"),
            ("http://airflow-api-server:8080", "http://", "is not the URL of an Airflow"),
            ("http://airflow-api-server:8080", "http://x:port", "is not the URL of an Airflow"),
            ("http://airflow-api-server:8080", "'http://[x'", "is not the URL of an Airflow"),
            ("http://airflow-api-server:8080", "http://u:p@x", "airflows[0].url: must not hold a user or password"),
            ("http://airflow-api-server:8080", "http://x?a=b", "must not hold a query"),
            ("http://airflow-api-server:8080", "http://x/api/v2", "leave away /api/..."),
            ("    url: http://airflow-api-server:8080\n", "", "airflows[0].url: is missing: set it"),
            ("password: secret", "password: 123", "airflows[0].password: must be text: put it in quotes"),
            ("password: secret", "password: ''", "airflows[0].password: is empty"),
            ("    password: secret\n", "", "airflows[0]: give exactly one login"),
            ("username: healer", "token: abc", "airflows[0]: give exactly one login"),
        ],
    )
    def test_in_its_own_keys(self, old: str, new: str, sentence: str, write: Write) -> None:
        assert sentence in refusal(write(MINIMAL.replace(old, new)))

    @pytest.mark.parametrize(
        ("top", "sentence"),
        [
            ("lisen: ':1'", "lisen: unknown key: did you mean listen?"),
            ("leaderElection: null", "leaderElection: must hold keys and values of its own"),
            (
                "leaderElection: {leaseDuratio: 15s}",
                "leaderElection.leaseDuratio: unknown key: did you mean",
            ),
            ("leaderElection: {leaseDuration: 12500ms}", "leaderElection.leaseDuration: must be whole seconds"),
            ("leaderElection: {leaseDuration: 10s}", "leaderElection: leaseDuration must be longer than renewDeadline"),
            ("leaderElection: {renewDeadline: 2s}", "leaderElection: renewDeadline must be longer than retryPeriod"),
            ("leaderElection: {retryPeriod: 0s}", "leaderElection.retryPeriod: must be longer than 0s"),
            ("leaderElection: {enabled: 1}", "leaderElection.enabled: "),
            ("leaderElection: {namespace: a/b}", "leaderElection.namespace: is not a namespace's name"),
            ("interval: 0s", "interval: must be longer than 0s"),
            ("freshness: 0s", "freshness: must be longer than 0s"),
            ("listen: 8080", "listen: must be text: put it in quotes"),
            ("listen: '8080'", "listen: is not an address to listen on"),
            ("listen: ':99999'", "is not an address to listen on"),
            ("listen: '::1:80'", "put an IPv6 host in brackets"),
            ("log: loud", "log: must hold keys and values of its own"),
            ("log: {level: loud}", "log.level: should be 'debug', 'info', 'warning' or 'error'"),
            ("mode: [report", "is not YAML: expected ',' or ']'"),
            ("when: 2026-99-99", "is not YAML: it holds a value that can't be read"),
            *((f"when: [{star}]", 'put it in quotes, as "*-prod" in line 1') for star in ("*", "*-prod", "*a*", "&")),
        ],
    )
    def test_at_the_top(self, top: str, sentence: str, write: Write) -> None:
        assert sentence in refusal(write(f"{top}\n{MINIMAL}"))

    def test_a_switch_in_quotes(self, write: Write) -> None:
        text = refusal(write(MINIMAL + "    postMortem: {manifest: 'yes'}\n"))
        assert "airflows[0].postMortem.manifest: must be true or false, without quotes" in text

    def test_names_every_problem_on_a_line_of_its_own(self, write: Write) -> None:
        lines = refusal(write("lisen: 1\ninterval: soon\n" + MINIMAL.replace("[airflow]", "[]"))).split("\n")
        assert [line.split(": ")[1] for line in lines] == ["interval", "airflows[0].namespaces", "lisen"]

    @pytest.mark.parametrize("ownership", ["exclusive", "stamped"])
    def test_a_namespace_of_two_airflows(self, ownership: str, write: Write) -> None:
        second = MINIMAL.replace("airflows:", "").replace("prod", "test") + f"    ownership: {ownership}\n"
        sentence = "airflows: namespace airflow is claimed by prod and test: give it to one of them"
        assert sentence in refusal(write(MINIMAL + "    ownership: exclusive\n" + second))
        assert sentence in refusal(write(MINIMAL + second))

    def test_two_airflows_of_one_name(self, write: Write) -> None:
        second = MINIMAL.replace("airflows:", "").replace("[airflow]", "[jobs]")
        assert "2 entries are called prod" in refusal(write(MINIMAL + second))

    @pytest.mark.parametrize("text", ["airflows: []", "airflows: null", "airflows: {}", "- a", "x", "airflows: [1]"])
    def test_no_usable_airflow(self, text: str, write: Write) -> None:
        assert "airflows" in refusal(write(text)) or "must hold keys and values" in refusal(write(text))

    def test_a_file_without_airflows(self, write: Write) -> None:
        assert "no Airflow is described: add airflows to " in refusal(write("mode: report"))

    @pytest.mark.parametrize(
        "text", ["[" * 5000, "airflows: &a [*a]", "mode: &a {x: *a}", "1: 2", "true: {}", "? [a]\n: b"]
    )
    def test_odd_yaml(self, text: str, write: Write) -> None:
        assert refusal(write(text))

    def test_does_not_repeat_a_long_value(self, write: Write) -> None:
        assert len(refusal(write("mode: " + "x" * 5000 + MINIMAL))) < 300

    def test_a_ca_file_without_a_certificate(self, write: Write, tmp_path: Path) -> None:
        (tmp_path / "ca.pem").write_text("not a certificate")
        path = write(MINIMAL + f"    caFile: {tmp_path}/ca.pem\n")
        assert refusal(path) == f"{path}: airflows[0].caFile: the file holds no certificate in PEM"

    def test_unreadable_files(self, tmp_path: Path) -> None:
        assert "can't read the configuration" in refusal(tmp_path / "missing.yaml")
        assert "can't read the configuration" in refusal(tmp_path)
        (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
        assert "is not text in UTF-8" in refusal(tmp_path / "binary")

    def test_an_empty_secret_file(self, write: Write, tmp_path: Path) -> None:
        (tmp_path / "password").write_text("\n")
        text = MINIMAL.replace("password: secret", f"passwordFile: {tmp_path}/password")
        assert "airflows[0].passwordFile: the file is empty" in refusal(write(text))

    def test_nothing_is_described(self) -> None:
        assert "no Airflow is described: give a file with --config" in refusal(None)

    def test_speaks_of_flags_where_flags_were_given(self) -> None:
        flags = {"airflow_url": "nowhere", "airflow_token_file": "/nowhere/token"}
        text = refusal(None, flags)
        assert "--namespace or KPO_HEALER_NAMESPACE: is missing" in text
        assert "--airflow-url: is not the URL" in text
        flags |= {"airflow_url": "http://x", "namespace": ("a",)}
        assert refusal(None, flags) == (
            "--airflow-token-file: can't read the file that it names: No such file or directory"
        )
        assert refusal(None, {"mode": "enforce"}, ONE).startswith("--ownership or KPO_HEALER_OWNERSHIP: enforce mode")

    def test_flags_of_an_airflow_beside_a_file_that_describes_them(self, write: Write) -> None:
        text = refusal(write(MINIMAL), {"ownership": "exclusive"}, {"KPO_HEALER_AIRFLOW_URL": "http://x"})
        assert text.startswith("--ownership, KPO_HEALER_AIRFLOW_URL: ")
        assert "describes the Airflows: set it there" in text

    def test_never_tells_a_secret(self, write: Write) -> None:
        text = refusal(write(MINIMAL.replace("password: secret", "password: [hush]\n    tokn: hush")))
        assert "hush" not in text

    @given(st.dictionaries(st.sampled_from([s.key for s in settings()]), st.none() | st.text() | st.integers()))
    def test_is_always_a_sentence(self, raw: dict[str, object]) -> None:
        from healer.config.load import _problems

        with pytest.raises(ConfigError, match=r"."):
            raise ConfigError("\n".join(_problems(raw | {"airflows": []}, {})))


class TestWarnings:
    def test_defaults_are_wise(self, write: Write, tmp_path: Path) -> None:
        (tmp_path / "password").write_text("secret\n")
        config = load(write(FULL.replace("password: secret", f"passwordFile: {tmp_path}/password")), {}, {})
        assert warnings(config) == []

    @pytest.mark.parametrize(
        ("old", "new", "sentence"),
        [
            ("freshness: 15s", "freshness: 1m", "freshness: longer than the default 15s"),
            ("format: json", "format: text", "log.format: text, and explain --proof judges decisions again from JSON"),
            ("level: info", "level: warning", "log.level: warning leaves out decisions and deletions"),
            ("minAge: 2m", "minAge: 0s", "airflows[0].policy.minAge: shorter than the default 2m"),
            ("grace: 2m", "grace: 1m", "airflows[0].policy.grace: shorter than the default 2m"),
            ("absentGrace: 30m", "absentGrace: 1m", "airflows[0].policy.absentGrace: shorter"),
            ("succeeded: 10m", "succeeded: 0s", "airflows[0].policy.retention.succeeded: shorter"),
            ("coolDown: 10m", "coolDown: 1m", "airflows[0].limits.breaker.coolDown: shorter"),
            ("sightings: 2", "sightings: 1", "airflows[0].policy.sightings: a single look"),
            ("    ownership: exclusive\n", "", "airflows[0].ownership: not set"),
            ("deletionsPerMinute: 60", "deletionsPerMinute: null", "airflows[0].limits.deletionsPerMinute: null lets"),
            ("maxShare: 0.5", "maxShare: 1", "airflows[0].limits.breaker.maxShare: with 1 the breaker never opens"),
            ("http://airflow-api-server:8080", "http://airflow.example.com", "airflows[0].url: http sends the login"),
            ("password: secret", "password: secret", "airflows[0].password: a secret in the configuration"),
        ],
    )
    def test_says_what_is_unwise(self, old: str, new: str, sentence: str, write: Write) -> None:
        found = warnings(load(write(FULL.replace(old, new)), {}, {}))
        assert [text for text in found if text.startswith(sentence)]

    def test_says_that_a_manifest_without_a_post_mortem_is_never_told(self, write: Write) -> None:
        manifest = "    postMortem: {manifest: true}\n"
        found = warnings(load(write(MINIMAL + manifest), {}, {}))
        assert "airflows[0].postMortem.manifest: does nothing without postMortem.enabled" in "\n".join(found)
        manifest = "    postMortem: {manifest: true, enabled: true}\n"
        assert "postMortem.manifest" not in "\n".join(warnings(load(write(MINIMAL + manifest), {}, {})))

    def test_says_what_is_about_pages_that_are_not_served(self, write: Write, tmp_path: Path) -> None:
        (tmp_path / "token").write_text("token\n")
        pages = f"history: configMap\nlistenTokenFile: {tmp_path}/token\n"
        told = [text.partition(" without findings: true")[0] for text in warnings(load(write(pages + MINIMAL), {}, {}))]
        assert {"listenTokenFile: does nothing", "history: configMap is written for nobody"} <= set(told)
        found = "\n".join(warnings(load(write(f"findings: true\n{pages}{MINIMAL}"), {}, {})))
        assert "listenTokenFile" not in found
        assert "history" not in found

    def test_says_that_a_sole_replica_must_stay_alone(self, write: Write) -> None:
        config = load(write("leaderElection: {enabled: false}\n" + FULL), {}, {})
        assert [text for text in warnings(config) if text.startswith("leaderElection.enabled: false, so nothing keeps")]

    def test_a_cluster_address_may_be_plain_http(self, write: Write) -> None:
        config = load(write(FULL.replace("airflow-api-server:", "airflow.prod.svc.cluster.local:")), {}, {})
        assert not [text for text in warnings(config) if "clear text" in text]

    def test_variables_that_do_nothing(self, write: Write) -> None:
        env = {"KPO_HEALER_MOD": "enforce", "KPO_HEALER_PORT_8080_TCP": "tcp://", "KPO_HEALER_SERVICE_HOST": "x"}
        assert warnings(load(write(FULL), {}, {}), env)[0] == (
            "KPO_HEALER_MOD: this variable does nothing: did you mean KPO_HEALER_MODE?"
        )


def test_settings_name_every_key_with_a_meaning() -> None:
    listed = settings()
    assert {"interval", "airflows[].policy.retention.succeeded", "airflows[].limits.breaker.coolDown"} <= {
        s.path for s in listed
    }
    sections = {"leaderElection", "log", "policy", "retention", "limits", "breaker", "notices"}
    sections = {"leaderElection", "log", "policy", "retention", "limits", "breaker", "notices", "postMortem"}
    assert [s.path for s in listed if not s.description and s.key not in sections] == []
