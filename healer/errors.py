"""All errors, as one tree. Each text is one sentence that says what to do; `exit_code` is that of a command it ends.

HealerError                      3  any of these
  ClusterError                   3  A call did not give a full answer
    ConnectError                 2  There is no usable configuration
    AccessDeniedError            3  401 or 403
    UnreachableError             3  No answer
    ServerBusyError              3  429 or 5xx
    ResourceExpiredError         3  410
    InvalidResponseError         3  An answer that no Kubernetes API server gives
  DeleteNotSentError             3  The last check failed
  NoAnswerError                  3  Airflow gave no answer one can use
    LoginRefusedError            2  The login was refused
    NoDagError                   3  A list within a DAG that Airflow does not have
    LeftAloneError               3  The server wants to be left alone
  ConfigError                    2  The configuration can't be used
  NotLeaderError                 3  Another replica leads, or the Lease can't be had
  OverrideError                  2  The breaker can't be lifted
  NoReaderError                141  Whoever read our output has gone, as `head` does
  RemoteError                    3  The healer could not be asked, or had no answer
  TokenError                     3  A platform gave no token
  ListenError                    2  The address can't be listened on
  NoSuchPodError                 2  There is nothing to explain or to delete
  KeptError                      1  The Pod is kept, as the controller would keep it
  NotDeletedError                3  The Pod could not be deleted, or it is not known whether it was
  InvalidRecordError             2  This text is no proof that can be judged
"""

from __future__ import annotations

from enum import Enum
from typing import ClassVar, Literal

from healer.redaction import scrubbed

NOT_GOOD = 1
USAGE = 2
INCOMPLETE = 3
NO_READER = 141
"""What a shell answers for a program that SIGPIPE ended."""


class HealerError(Exception):
    """What is told to a user in one sentence, and ends a command with this code."""

    exit_code: ClassVar[int] = INCOMPLETE


class ClusterError(HealerError):
    """A call did not give a full answer.

    `retry_after` is what the server asked us to wait, in seconds; `status` the HTTP status, None where there was none.
    """

    def __init__(self, message: str, *, retry_after: float | None = None, status: int | None = None) -> None:
        """Take the sentence that a user will read."""
        super().__init__(scrubbed(message))  # it may repeat what a server has said
        self.retry_after = retry_after
        self.status = status


class ConnectError(ClusterError):
    """There is no usable configuration: no kubeconfig, an unknown context, no ServiceAccount."""

    exit_code = USAGE


class AccessDeniedError(ClusterError):
    """401 or 403: the sentence says which right is missing and how to grant it."""


class UnreachableError(ClusterError):
    """No answer: nothing listens, the connection broke, the server was silent for too long, TLS failed.

    `broken` says that the connection broke before the answer was there, which a server that restarts or an idle
    connection that was cut explain: a read may be tried again at once.
    """

    def __init__(self, message: str, *, broken: bool = False) -> None:
        """Take the sentence and whether the connection broke."""
        super().__init__(message)
        self.broken = broken


class ServerBusyError(ClusterError):
    """429 or 5xx: the server has trouble or asks to come back later."""


class ResourceExpiredError(ClusterError):
    """410: the server has forgotten the version that a listing was reading from."""


class InvalidResponseError(ClusterError):
    """An answer that no Kubernetes API server gives."""


class DeleteNotSentError(HealerError):
    """The last check failed: nothing was sent."""


FailureKind = Literal["login", "token", "right", "gate", "path", "version", "network", "tls", "server"]
"""Who or what stands in the way, for metrics and alerts: each has its own remedy.

login: user and password, or their file. token: it has expired, was revoked, or is another Airflow's. right: Airflow
knows us and forbids this. gate: somebody else in front of Airflow refuses. path: no Airflow API below this URL.
version: an Airflow whose answers are not known here. network, tls: no HTTP at all. server: it has trouble of its own.
"""


class FailureScope(Enum):
    """What a failure spoils: only this question, this question and much time, or every question."""

    CALL = 1
    SLOW = 2
    SERVER = 3


class NoAnswerError(HealerError):
    """Airflow gave no answer one can use. `str()` is one sentence that says what to do."""

    def __init__(
        self, why: str, scope: FailureScope = FailureScope.CALL, code: str = "unreadable", kind: FailureKind = "server"
    ) -> None:
        super().__init__(scrubbed(why))  # it may repeat what a server has said
        self.scope = scope
        self.code = code
        self.kind: FailureKind = kind


class LoginRefusedError(NoAnswerError):
    """The login was refused: no question will be answered before it is set right."""

    exit_code = USAGE

    def __init__(self, why: str, kind: FailureKind = "login") -> None:
        super().__init__(why, FailureScope.SERVER, "401", kind)


class NoDagError(NoAnswerError):
    """A list within a DAG that Airflow does not have."""


class LeftAloneError(NoAnswerError):
    """The answer to a question for which the server wants to be left alone for a while."""


class ConfigError(HealerError):
    """The configuration can't be used; the text has one line for each problem and says what to do."""

    exit_code = USAGE


class NotLeaderError(HealerError):
    """Another replica leads, or the Lease can't be had; the text says what to do."""


class OverrideError(HealerError):
    """The breaker can't be lifted; the text says what to do."""

    exit_code = USAGE


class NoReaderError(HealerError):
    """Whoever read our output has gone, as `head` does."""

    exit_code = NO_READER


class RemoteError(HealerError):
    """The healer could not be asked, or had no answer; the text says what to do."""


class TokenError(HealerError):
    """A platform gave no token; the text says what to do."""


class ListenError(HealerError):
    """The address can't be listened on; the text says what to do."""

    exit_code = USAGE


class NoSuchPodError(HealerError):
    """There is nothing to explain or to delete; the text says why."""

    exit_code = USAGE


class KeptError(HealerError):
    """The Pod is kept, as the controller would keep it; the text says what keeps it and what would have to change."""

    exit_code = NOT_GOOD


class NotDeletedError(HealerError):
    """The Pod could not be deleted, or it is not known whether it was; the text says why."""


class InvalidRecordError(HealerError):
    """This text is no proof that can be judged; `str()` says why, in one sentence."""

    exit_code = USAGE
