"""Where the API server is and who we are: from the Pod's own ServiceAccount or from a kubeconfig."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from healer.errors import ConnectError
from healer.redaction import first_line, shown

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
DEFAULT_NAMESPACE = "default"


@dataclass(frozen=True)
class Connection:
    """The user's choice. With neither, KUBECONFIG counts, then the ServiceAccount of the Pod, then `~/.kube/config`."""

    kubeconfig: Path | None = None
    context: str | None = None

    def configuration(self) -> Any:
        """Load a `kubernetes.client.Configuration` anew; it renews tokens on its own where they have an end.

        Retries are off: urllib3 would repeat a request, a DELETE too, up to three times behind our back.

        Raises:
            ConnectError: there is none, or it can't be read.
        """
        from kubernetes.client.configuration import Configuration

        configuration = Configuration()
        self._load_into(configuration)
        configuration.retries = False
        return configuration

    def home_namespace(self) -> str:
        """Return the namespace we live in: the Pod's own, else the context's, else `default`.

        Raises:
            ConnectError: the Pod's own can't be read.
        """
        if self.in_cluster():
            try:
                return (ACCOUNT / "namespace").read_text().strip()
            except OSError as error:
                raise ConnectError(f"The namespace of this Pod can't be read: {error}.") from error
        return _context_namespace(self._files(), self.context) or DEFAULT_NAMESPACE

    def in_cluster(self) -> bool:
        """Whether we are a Pod of the cluster, by its ServiceAccount, and no other choice was made."""
        chosen = self.kubeconfig or self.context or os.environ.get("KUBECONFIG")
        return not chosen and bool(os.environ.get("KUBERNETES_SERVICE_HOST")) and (ACCOUNT / "token").exists()

    def _files(self) -> str:
        """Return the kubeconfig path, or several joined as in KUBECONFIG."""
        if self.kubeconfig is not None:
            return str(self.kubeconfig)
        return os.environ.get("KUBECONFIG") or str(Path("~/.kube/config").expanduser())

    def _load_into(self, configuration: Any) -> None:
        from kubernetes.config import ConfigException, load_incluster_config, load_kube_config

        try:
            if self.in_cluster():
                load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
            else:
                self._check_files()
                # Not persisted: a user's kubeconfig is not ours to write.
                load_kube_config(  # type: ignore[no-untyped-call]
                    self._files(), self.context, configuration, persist_config=False
                )
        except ConfigException as error:
            raise ConnectError(self._sentence(str(error))) from None
        except ConnectError:
            raise
        except Exception as error:  # noqa: BLE001 - a foreign file: YAML, base64 and plugin errors have no common base
            # Their words quote pieces of the file, which holds tokens and keys.
            raise ConnectError(f"The kubeconfig {shown(self._files())} can't be read: {_odd(error)}.") from None

    def _check_files(self) -> None:
        files = [Path(name).expanduser() for name in self._files().split(os.pathsep) if name]
        if any(file.is_file() for file in files):
            return
        raise ConnectError(
            f"There is no kubeconfig at {shown(self._files())} and this is no Pod with a ServiceAccount: "
            "name one with --kubeconfig or KUBECONFIG."
        )

    def _sentence(self, problem: str) -> str:
        if self.in_cluster():
            return f"The ServiceAccount of this Pod can't be used: {problem}"
        if self.context is not None and f"object with name {self.context} in" in problem:
            names = ", ".join(_context_names(self._files())) or "none"
            return f"The kubeconfig {shown(self._files())} has no context of the name given; it has: {names}."
        if problem.startswith("File does not exist"):
            return f"The kubeconfig {shown(self._files())} can't be used: a file that it names does not exist."
        what = re.sub(r"object with name .* in ", "an object of the name that it wants in ", first_line(problem))
        return f"The kubeconfig {shown(self._files())} can't be used: {what}"


def _odd(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    mark = getattr(error, "problem_mark", None)
    return f"it is not YAML in line {mark.line + 1}" if mark else f"a value in it is malformed ({type(error).__name__})"


def _contexts(files: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    from kubernetes.config import list_kube_config_contexts

    contexts, active = list_kube_config_contexts(files)  # type: ignore[no-untyped-call]
    return contexts, active


def _context_names(files: str) -> list[str]:
    from kubernetes.config import ConfigException

    try:
        return [context["name"] for context in _contexts(files)[0]]
    except ConfigException:  # the current context of the file is unknown too
        return []


def _context_namespace(files: str, name: str | None) -> str | None:
    from kubernetes.config import ConfigException

    try:
        contexts, active = _contexts(files)
    except (ConfigException, OSError):
        return None
    chosen = next((context for context in contexts if context["name"] == name), active)
    namespace = chosen.get("context", {}).get("namespace")
    return str(namespace) if namespace else None
