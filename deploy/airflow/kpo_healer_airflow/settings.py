"""`[kpo_healer]` of Airflow's configuration, or AIRFLOW__KPO_HEALER__<OPTION>."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from msgspec import Struct

SECTION = "kpo_healer"


class SettingsError(Exception):
    """An option is missing or wrong; the text says which one, and what to do."""


class Settings(Struct, frozen=True):
    """Where the healer is and who asks it; `token`, or the file, holds what its `listenTokenFile` does."""

    url: str
    airflow: str
    token: str = ""
    token_file: str = ""

    def bearer(self) -> str:
        """Return the token, read anew each time so that it can be rotated; empty where there is none.

        Raises SettingsError when the file can't be read.
        """
        try:
            token = Path(self.token_file).read_text().strip() if self.token_file else self.token
        except (OSError, UnicodeDecodeError):
            raise SettingsError(f"[{SECTION}] token_file can't be read: check its path and rights.") from None
        if not (token.isascii() and token.isprintable()):
            raise SettingsError(f"The token of [{SECTION}] must be one line of ASCII characters.")
        return token


def load() -> Settings:
    """Read the options. Raises SettingsError."""
    url = address(_option("url"))
    from kpo_healer_airflow.stamp import airflow_name

    return Settings(
        url=url, airflow=_read("airflow", airflow_name), token=_option("token"), token_file=_option("token_file")
    )


def address(url: str) -> str:
    """Return the healer's address without a slash at its end. Raises SettingsError where it is none."""
    if not url:
        raise SettingsError(f"Set [{SECTION}] url to kpo-healer's address, for example http://kpo-healer:8080.")
    try:
        parts = urlsplit(url)
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not (valid and url.isprintable()) or parts.username or parts.query or parts.fragment:
        raise SettingsError(f"[{SECTION}] url must look like http://kpo-healer:8080.")
    return url.rstrip("/")


def _option(name: str) -> str:
    from airflow.configuration import conf

    return _read(name, lambda: str(conf.get(SECTION, name, fallback="") or "").strip())


def _read(name: str, get: Callable[[], str]) -> str:
    try:
        return get()
    except Exception:  # noqa: BLE001 - Airflow has many: a % that should be %%, a command or a backend that fails
        raise SettingsError(
            f"[{SECTION}] {name} can't be read: in airflow.cfg write a % as %%; else see that its command or secrets "
            "backend works."
        ) from None
