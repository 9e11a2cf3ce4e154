"""What the user sets: one YAML file, flags and environment, checked before anything else happens.

Keys are camelCase as in Kubernetes, durations are written `30s`, `10m`, `1h30m`, `500ms` and are float seconds inside.
A flag wins over its environment variable, which wins over the file. Whatever is wrong is a `ConfigError` whose text
names the key, its place and what to do.
"""

from __future__ import annotations

from healer.config.advice import warnings
from healer.config.fields import LogFormat, LogLevel, Mode, Ownership, listen_address, parse_duration
from healer.config.load import ConfigError, load
from healer.config.models import (
    AirflowConfig,
    Breaker,
    Config,
    LeaderElection,
    Limits,
    Log,
    Policy,
    PostMortem,
    Retention,
)
from healer.config.settings import TWINS, Setting, Twin, settings, settings_table

__all__ = [
    "TWINS",
    "AirflowConfig",
    "Breaker",
    "Config",
    "ConfigError",
    "LeaderElection",
    "Limits",
    "Log",
    "LogFormat",
    "LogLevel",
    "Mode",
    "Ownership",
    "Policy",
    "PostMortem",
    "Retention",
    "Setting",
    "Twin",
    "listen_address",
    "load",
    "parse_duration",
    "settings",
    "settings_table",
    "warnings",
]
