"""What the user sets: one YAML file, flags and environment, checked before anything else happens.

Keys are camelCase as in Kubernetes, durations are written `30s`, `10m`, `1h30m`, `500ms` and are float seconds inside.
A flag wins over its environment variable, which wins over the file. Whatever is wrong is a `ConfigError` whose text
names the key, its place and what to do.
"""

from __future__ import annotations

from healer.config.fields import (
    HistoryMode,
    LogFormat,
    LogLevel,
    Mode,
    Ownership,
    OwnershipLabel,
    listen_address,
    parse_duration,
)
from healer.config.lint import unreachable, warnings
from healer.config.load import load
from healer.config.models import (
    AirflowConfig,
    BreakerConfig,
    Claim,
    Config,
    DiagnosticsConfig,
    LeaderElectionConfig,
    LimitsConfig,
    LogConfig,
    Policy,
    Retention,
)
from healer.config.namespaces import covers, exact_names, is_pattern, matches, only_patterns
from healer.config.settings import OVERRIDES, Override, Setting, settings, settings_table

__all__ = [
    "OVERRIDES",
    "AirflowConfig",
    "BreakerConfig",
    "Claim",
    "Config",
    "DiagnosticsConfig",
    "HistoryMode",
    "LeaderElectionConfig",
    "LimitsConfig",
    "LogConfig",
    "LogFormat",
    "LogLevel",
    "Mode",
    "Override",
    "Ownership",
    "OwnershipLabel",
    "Policy",
    "Retention",
    "Setting",
    "covers",
    "exact_names",
    "is_pattern",
    "listen_address",
    "load",
    "matches",
    "only_patterns",
    "parse_duration",
    "settings",
    "settings_table",
    "unreachable",
    "warnings",
]
