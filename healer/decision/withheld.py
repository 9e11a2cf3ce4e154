"""For how long the same thing has kept suspects from being acted on."""

from __future__ import annotations

from collections.abc import Mapping

from healer.model import Withheld


class WithheldSince:
    """Remembers since when each suspect of one Airflow is withheld for the same cause. Used by one thread."""

    def __init__(self) -> None:
        """Start with nothing."""
        self._since: dict[str, tuple[Withheld, float]] = {}

    def longest(self, withheld: Mapping[str, Withheld], now: float) -> dict[Withheld, float]:
        """Take what is withheld now, by Pod uid. Return the longest time of each cause, in seconds (monotonic)."""
        before, self._since = self._since, {}
        longest: dict[Withheld, float] = {}
        for uid, why in withheld.items():
            known = before.get(uid)
            kept = known if known is not None and known[0] is why else (why, now)
            self._since[uid] = kept
            longest[why] = max(longest.get(why, 0.0), now - kept[1])
        return longest
