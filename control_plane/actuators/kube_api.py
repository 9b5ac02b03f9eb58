"""Calls to a Kubernetes API server: off the event loop, bounded, with errors an operator reads."""

import asyncio
import functools
import json
from collections.abc import Callable
from typing import Any, TypeVar

import urllib3.exceptions
from kubernetes import client, config

from control_plane.actuators.actuator import ActuatorConflict, ActuatorRefused

T = TypeVar("T")
REQUEST_TIMEOUT_S = (3.0, 10.0)  # to connect, to read
_ATTEMPTS = 4
_FIRST_DELAY_S = 0.2


class KubeError(Exception):
    """The API server cannot be found or asked; the message is for an operator."""


def connect(kubeconfig: str = "", context: str = "") -> client.ApiClient:
    """The pod's own service account inside a cluster, else a kubeconfig file. Raises KubeError."""
    settings = client.Configuration()
    try:
        if not kubeconfig and not context:
            try:
                config.load_incluster_config(client_configuration=settings)
                return _built(settings)
            except config.ConfigException:
                pass  # not inside a cluster
        config.load_kube_config(
            kubeconfig or None, context=context or None, client_configuration=settings
        )
    except (config.ConfigException, OSError) as error:
        raise KubeError(f"no Kubernetes cluster is configured: {error}") from error
    return _built(settings)


def _built(settings: client.Configuration) -> client.ApiClient:
    settings.retries = False
    return client.ApiClient(settings)


async def call(what: str, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """One call in a thread, again after 429, 5xx and lost connections, at most four times.

    what: for messages, such as "scale baton-decode". Raises ActuatorConflict after a 409 or when
    the server does not answer, ActuatorRefused for what another try cannot change.
    """
    bound = functools.partial(function, *args, _request_timeout=REQUEST_TIMEOUT_S, **kwargs)
    delay_s = _FIRST_DELAY_S
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return await asyncio.to_thread(bound)
        except client.ApiException as error:
            if not is_transient(error):
                raise translated(what, error) from error
            trouble = f"HTTP {error.status}"
        except (urllib3.exceptions.HTTPError, OSError) as error:
            trouble = str(error)
        if attempt < _ATTEMPTS:
            await asyncio.sleep(delay_s)
            delay_s *= 2
    raise ActuatorConflict(f"{what}: the Kubernetes API does not answer ({trouble})")


def is_transient(error: client.ApiException) -> bool:
    """Another try may succeed without anything being changed."""
    return error.status in (0, 429, None) or error.status >= 500


def translated(what: str, error: client.ApiException) -> ActuatorConflict | ActuatorRefused:
    message = status_message(error)
    if error.status == 409:
        return ActuatorConflict(f"{what}: {message}")
    hints = {
        401: "the credentials are not valid",
        403: "a quota or the role of Baton's service account forbids it",
        404: "there is no such object",
        422: "the object is not valid",
    }
    hint = hints.get(error.status, f"HTTP {error.status}")
    return ActuatorRefused(f"{what}: {hint}: {message}")


def status_message(error: client.ApiException) -> str:
    """The message of the Status object in the body, else the reason."""
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.reason)
