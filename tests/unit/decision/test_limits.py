"""The breaker and the budget, by the clock."""

from __future__ import annotations

import math

import pytest

from healer import config
from healer.decision.limits import OVERRIDE, Batch, Breaker, Limits, RateLimiter, is_overridden, with_override
from healer.decision.quarantine import Suspect
from healer.model import Action, Finding, Reason, Withheld
from tests.unit.strategies import a_pod, ended

COOL = 600.0


def a_breaker(**changes: object) -> Breaker:
    return Breaker(config.BreakerConfig.model_validate({"maxShare": 0.5, "minCount": 5, "coolDown": "10m", **changes}))


def tripped(now: float = 0.0, **changes: object) -> Breaker:
    breaker = a_breaker(**changes)
    breaker.update(active=40, pending_deletion=30, now=now)
    return breaker


@pytest.mark.parametrize(
    ("active", "pending_deletion", "opens"),
    [
        pytest.param(40, 30, True, id="far above"),
        pytest.param(40, 21, True, id="just above the share"),
        pytest.param(40, 20, False, id="exactly the share"),
        pytest.param(4, 4, False, id="all, but fewer than the count"),
        pytest.param(5, 5, True, id="all, and as many as the count"),
        pytest.param(0, 0, False, id="nothing at all"),
    ],
)
def test_it_opens_above_the_share_and_from_the_count_on(active: int, pending_deletion: int, opens: bool) -> None:
    breaker = a_breaker()
    breaker.update(active=active, pending_deletion=pending_deletion, now=0.0)
    assert breaker.is_open is opens
    assert breaker.allowance(0.0) == (0 if opens else None)


def test_lifted_it_lets_everything_through_and_counts_again_afterwards() -> None:
    breaker = tripped()
    breaker.update(active=40, pending_deletion=30, now=1.0, overridden=True)
    assert (breaker.is_open, breaker.allowance(1.0), breaker.next_event()) == (False, None, math.inf)
    breaker.update(active=40, pending_deletion=30, now=2.0)
    assert (breaker.is_open, breaker.next_event()) == (True, 2.0 + COOL)


def test_a_full_share_is_never_exceeded() -> None:
    breaker = a_breaker(maxShare=1.0)
    breaker.update(active=100, pending_deletion=100, now=0.0)
    assert not breaker.is_open


def test_after_the_cool_down_it_lets_a_few_through_and_opens_again() -> None:
    breaker = tripped()
    assert breaker.next_event() == COOL
    assert breaker.allowance(COOL - 1) == 0
    assert breaker.allowance(COOL) == 5
    for left in (4, 3, 2, 1):
        breaker.consume(COOL + 7)
        assert breaker.allowance(COOL + 7) == left
    breaker.consume(COOL + 7)
    assert breaker.allowance(COOL + 7) == 0
    assert breaker.next_event() == COOL + 7 + COOL
    assert breaker.allowance(2 * COOL + 7) == 5


def test_it_stays_half_open_while_fewer_than_the_count_go() -> None:
    breaker = tripped()
    breaker.consume(COOL)
    breaker.update(active=39, pending_deletion=29, now=COOL + 60)
    assert breaker.allowance(COOL + 60) == 4


def test_it_closes_when_the_share_falls_and_opens_afresh_when_it_rises() -> None:
    breaker = tripped()
    breaker.update(active=40, pending_deletion=20, now=100.0)
    assert not breaker.is_open
    assert breaker.allowance(100.0) is None
    assert breaker.next_event() == math.inf
    breaker.update(active=40, pending_deletion=30, now=200.0)
    assert breaker.allowance(COOL) == 0, "the cool-down counts from the new opening"
    assert breaker.allowance(200 + COOL) == 5


def test_staying_open_does_not_prolong_the_cool_down() -> None:
    breaker = tripped()
    breaker.update(active=40, pending_deletion=31, now=COOL - 1)
    assert breaker.allowance(COOL) == 5


def test_spending_while_it_is_closed_costs_nothing() -> None:
    breaker = a_breaker()
    breaker.consume(0.0)
    breaker.update(active=40, pending_deletion=30, now=1.0)
    assert breaker.allowance(1.0 + COOL) == 5


def test_a_count_of_zero_lets_nothing_through_until_the_share_falls() -> None:
    breaker = tripped(minCount=0)
    assert breaker.allowance(10 * COOL) == 0


def test_the_bucket_starts_full_and_fills_at_its_rate() -> None:
    budget = RateLimiter(60, now=0.0)
    for _ in range(60):
        assert budget.available(0.0)
        budget.consume(0.0)
    assert budget.available(0.0) == 0
    assert budget.available(0.9) == 0
    assert budget.available(1.0) == 1
    assert budget.available(30.0) == 30
    assert budget.available(1e6) == 60, "it never holds more than a minute's worth"


@pytest.mark.parametrize("per_minute", [1, 7, 60, 977, 100_000])
def test_it_never_lets_more_through_than_a_burst_and_its_rate(per_minute: int) -> None:
    budget, sent, now = RateLimiter(per_minute, now=0.0), 0, 0.0
    while now < 600:
        while budget.available(now):
            budget.consume(now)
            sent += 1
        now += 0.37
    assert sent <= per_minute + per_minute * 600 / 60 + 1
    assert sent >= per_minute * 600 / 60


@pytest.mark.parametrize("per_minute", [1, 7, 60, 977])
@pytest.mark.parametrize("wanted", [1, 20])
def test_at_its_next_event_it_has_what_was_wanted_or_is_full(per_minute: int, wanted: int) -> None:
    budget = RateLimiter(per_minute, now=3.3)
    while budget.available(3.3):
        budget.consume(3.3)
    event = budget.next_event(wanted)
    assert event > 3.3
    assert budget.available(event) == min(wanted, per_minute)
    assert budget.next_event(wanted) == math.inf, "what is there need not be waited for"


def test_an_unlimited_budget_has_no_figures() -> None:
    budget = RateLimiter(None, now=0.0)
    budget.consume(0.0)
    assert budget.available(0.0) is None
    assert budget.next_event(20) == math.inf


# --- release ----------------------------------------------------------------------------------------------------------

NOW = 1_800_000_000.0


def test_a_release_lasts_an_hour_by_the_servers_clock() -> None:
    annotations, until = with_override({"other": "x", OVERRIDE + "old": "2026-01-01T00:00:00Z"}, "prod", NOW)
    assert annotations == {"other": "x", "release.kpo-healer.io/prod": "2027-01-15T09:00:00Z"}
    assert until.timestamp() == NOW + 3600
    assert is_overridden(annotations, "prod", NOW + 3599)
    assert not is_overridden(annotations, "prod", NOW + 3600)
    assert not is_overridden(annotations, "test", NOW)
    assert not is_overridden(annotations, "prod", None), "no clock, no release"


@pytest.mark.parametrize("text", ["", "soon", "2999-01-01T00:00:00", "9" * 400])
def test_what_is_no_time_releases_nothing(text: str) -> None:
    assert not is_overridden({OVERRIDE + "prod": text}, "prod", NOW)


def test_a_second_release_keeps_the_first() -> None:
    first, _ = with_override({}, "prod", NOW)
    both, _ = with_override(first, "test", NOW + 60)
    assert is_overridden(both, "prod", NOW + 60)


def test_a_batch_stays_what_the_limits_allowed() -> None:
    batch = Batch((), (), {})
    with pytest.raises(AttributeError):
        batch.suspects = ()  # type: ignore[misc]


def a_suspect(uid: str, due: float = 0.0, created: float = 1.0) -> Suspect:
    finding = Finding(Reason.ORPHANED, "because", ended())
    return Suspect(a_pod(uid=uid, created=created), finding, Action.DELETE, 0.0, due, 2, 0.0)


@pytest.mark.parametrize(
    ("mode", "others"),
    [
        pytest.param(config.Mode.ENFORCE, {}, id="enforce"),
        pytest.param(config.Mode.REPORT, {"old": Withheld.REPORT_MODE}, id="report"),
    ],
)
def test_what_would_be_withheld_now(mode: config.Mode, others: dict[str, Withheld]) -> None:
    """Of two that are due together the older Pod has the only place that the rate leaves."""
    limits = Limits(config.LimitsConfig.model_validate({"deletionsPerMinute": 1}), 0.0)
    suspects = [a_suspect("young", created=2.0), a_suspect("old"), a_suspect("waits", due=1.0), a_suspect("foreign")]
    seen = limits.preview(suspects, mode, lambda pod, _: pod.uid == "foreign", 0.0)
    told = {"waits": Withheld.NOT_DUE, "foreign": Withheld.OWNERSHIP, "young": Withheld.RATE}
    assert seen == {**told, **others}
