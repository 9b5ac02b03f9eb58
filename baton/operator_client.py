"""The operator API as the `baton` commands use it."""

import getpass
import json
import urllib.error
import urllib.request
from typing import Annotated, Any, TypeVar

import msgspec
import typer

from baton.state_dir import StateDir
from control_plane.api.shapes import ActionResult, ErrorView
from runtime.settings import environment

T = TypeVar("T")
_TIMEOUT_S = 30.0
_MAX_HOPS = 3  # from a control plane to the one that leads

UrlFlag = Annotated[
    str, typer.Option("--url", help="Of an operator API; empty: the cluster that runs here.")
]
DryRunFlag = Annotated[bool, typer.Option("--dry-run", help="Show the plan and change nothing.")]
ReasonFlag = Annotated[str, typer.Option(help="Why, for the audit log.")]


class OperatorError(Exception):
    """What the API refused, or that it does not answer; the message is for the terminal."""


class OperatorSilent(OperatorError):
    """Nobody answers there, or somebody else does."""


class _Elsewhere(Exception):
    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.url = url


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """urllib follows no redirect of a POST; all of them are followed in one place instead."""

    def redirect_request(self, *given: Any) -> None:
        return None


class OperatorClient:
    """One API; blocking calls. url: such as http://127.0.0.1:8091.

    A control plane that does not lead answers with the address of the one that does, which is
    asked then, with the same token.
    """

    def __init__(self, url: str, token: str) -> None:
        self._url = url.rstrip("/")
        self._token = token

    def get(self, path: str, kind: type[T]) -> T:
        """Raises OperatorError."""
        return self._ask("GET", path, None, kind)

    def post(self, path: str, body: object, kind: type[T]) -> T:
        """Raises OperatorError."""
        return self._ask("POST", path, json.dumps(body).encode(), kind)

    def _ask(self, method: str, path: str, body: bytes | None, kind: type[T]) -> T:
        url = f"{self._url}/api/v1/{path}"
        for _ in range(_MAX_HOPS):
            try:
                return self._ask_at(url, method, body, kind)
            except _Elsewhere as leader:
                url = leader.url
        raise OperatorError(
            f"{self._url}: the leader changes, or no two agree who leads; try again"
        )

    def _ask_at(self, url: str, method: str, body: bytes | None, kind: type[T]) -> T:
        request = urllib.request.Request(url, body, method=method)
        request.add_header("Authorization", f"Bearer {self._token}")
        request.add_header("Content-Type", "application/json")
        request.add_header("X-Operator", _user())
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect())
        try:
            with opener.open(request, timeout=_TIMEOUT_S) as answer:
                return msgspec.json.decode(answer.read(), type=kind)
        except urllib.error.HTTPError as error:
            if error.code == 307 and (location := error.headers.get("Location")):
                error.close()
                raise _Elsewhere(location) from error
            raise OperatorError(_message_of(error)) from error
        except (OSError, ValueError) as error:
            raise OperatorSilent(f"{_origin(url)} does not answer: {error}") from error
        except msgspec.DecodeError as error:
            raise OperatorSilent(f"{_origin(url)} answers something else: {error}") from error


def operator_client(url: str) -> OperatorClient | None:
    """The API at url, else of the cluster that runs here; None where there is none.

    The token is BATON_OPERATOR_TOKEN's, or what `baton up` here made up.
    """
    given = environment("OPERATOR_TOKEN")
    if url:
        return OperatorClient(url, given)
    state = StateDir.of_environment().running()
    if state is None or not state.operator_url:
        return None
    return OperatorClient(state.operator_url, given or state.operator_token)


def ask(command: str, url: str, path: str, kind: type[T], body: object = None) -> T:
    """One question for a command; what goes wrong is printed and ends the process with 1."""
    client = operator_client(url)
    if client is None:
        typer.echo(f"baton {command}: no cluster runs here; --url names one elsewhere", err=True)
        raise typer.Exit(1)
    try:
        return client.get(path, kind) if body is None else client.post(path, body, kind)
    except OperatorError as error:
        typer.echo(f"baton {command}: {error}", err=True)
        raise typer.Exit(1) from error


def act(action: str, url: str, **body: Any) -> None:
    """One action; prints what came of it, with its plan where it was only tried."""
    result = ask(action, url, f"actions/{action}", ActionResult, body)
    typer.echo(result.message)
    if result.outcome == "dry_run":
        for step in result.plan or ["nothing has to change"]:
            typer.echo(f"  would {step}")


def _message_of(error: urllib.error.HTTPError) -> str:
    with error:
        try:
            told = msgspec.json.decode(error.read(), type=ErrorView).error
        except msgspec.DecodeError:
            return f"HTTP {error.code} {error.reason}"
    return f"{told.message} ({told.limit})" if told.limit not in told.message else told.message


def _origin(url: str) -> str:
    return url.partition("/api/v1/")[0]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "operator"
