"""Options that every command of a running cluster takes, how it finds one, and how outcomes become exit codes."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

import click
import lastgood
from lastgood.endpoints import parse_endpoints

from cluster.cli.output import Output, json_text
from cluster.localfiles import BadClusterFile, last_endpoints

REFUSED: Final = 1
USAGE: Final = 2
NO_ANSWER: Final = 3
UNKNOWN: Final = 4

UNREACHABLE_S: Final = 3.0

P = ParamSpec("P")
T = TypeVar("T")


class Failed(click.ClickException):
    """Ends the command: a line on stderr, with --json also a document on stdout."""

    def __init__(self, text: str, *, exit_code: int, document: dict[str, Any] | None) -> None:
        super().__init__(text)
        self.exit_code = exit_code  # type: ignore[misc]  # click reads it from the instance
        self._document = document

    def show(self, file: Any = None) -> None:
        if self._document is not None:
            click.echo(json_text({"error": self._document}))
        super().show(file)


@dataclass(frozen=True)
class Client:
    """Where the cluster is and how to print."""

    endpoints: list[str]
    token: str | None
    cacert: str | None
    timeout_s: float
    out: Output

    def connect(self, endpoints: list[str] | None = None) -> lastgood.Store:
        return lastgood.connect(
            endpoints or self.endpoints,
            timeout_s=self.timeout_s,
            unreachable_s=min(UNREACHABLE_S, self.timeout_s),
            token=self.token,
            cacert=self.cacert,
        )

    def run(self, work: Callable[[lastgood.Store], Coroutine[Any, Any, T]], *, fast_loop: bool = False) -> T:
        """Runs `work` with a connected store. Its failures end the command with the documented exit code.

        `fast_loop`: on uvloop, which takes a while to load and pays off for many calls.
        """

        async def whole() -> T:
            async with self.connect() as store:
                return await work(store)

        try:
            if fast_loop:
                import uvloop

                return uvloop.run(whole())
            return asyncio.run(whole())
        except BrokenPipeError:
            raise  # the reader of our output has gone; click ends quietly
        except (lastgood.LastgoodError, OSError) as error:
            raise failure(error, as_json=self.out.as_json) from None


def failure(error: BaseException, *, as_json: bool) -> Failed:
    """The exit of a command that met `error`."""
    document: dict[str, Any] = {"detail": str(error), "code": getattr(error, "code", None)}
    code = REFUSED
    if isinstance(error, lastgood.Unavailable):
        code = NO_ANSWER
        document["code"] = "unavailable"
    elif isinstance(error, lastgood.UnknownOutcome):
        code = UNKNOWN
        document["code"] = error.code or "unknown_outcome"
    elif isinstance(error, lastgood.ImportFailed):
        cause = failure(error.__cause__ or error, as_json=as_json) if error.__cause__ is not None else None
        code = cause.exit_code if cause is not None else REFUSED
        document |= {"code": "import_failed", "rollback_lvc": error.rollback_lvc, "snapshot": error.snapshot}
    elif isinstance(error, lastgood.Refused):
        document |= {"detail": error.detail, "status": error.status, "retryable": error.retryable, **error.extra}
    elif isinstance(error, OSError):
        document["code"] = "os_error"
    text = f"the outcome is not known: {error}" if code == UNKNOWN else str(error)
    return Failed(text, exit_code=code, document=document if as_json else None)


def find_endpoints(given: str | None) -> list[str]:
    """--endpoints or LASTGOOD_ENDPOINTS, or else the local cluster that was started last. Raises UsageError."""
    if given is not None:
        try:
            return parse_endpoints(given)
        except ValueError as error:
            raise click.UsageError(str(error)) from None
    try:
        found = last_endpoints()
    except BadClusterFile as error:
        raise click.UsageError(f"{error}; or name nodes with --endpoints") from None
    if not found:
        raise click.UsageError(
            "no cluster is known: start one with `lastgood up`, or name nodes with --endpoints or LASTGOOD_ENDPOINTS"
        )
    return found


def _read_token(path: str | None) -> str | None:
    if path is None:
        return None
    try:
        return Path(path).read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"the token file can't be read: {error}") from None


def json_option(function: Callable[P, T]) -> Callable[P, T]:
    """--json."""
    return click.option("--json", "as_json", is_flag=True, help="JSON on stdout, and nothing else there.")(function)


def client_options(function: Callable[..., T]) -> Callable[..., T]:
    """Adds --endpoints, --token-file, --cacert, --timeout and --json; the command gets a `Client` first."""

    @click.option(
        "--endpoints",
        envvar="LASTGOOD_ENDPOINTS",
        metavar="URL,…",
        help="Nodes, as URLs or host:port.  [default: LASTGOOD_ENDPOINTS, else the local cluster started last]",
    )
    @click.option(
        "--token-file", envvar="LASTGOOD_TOKEN_FILE", type=click.Path(dir_okay=False), help="File with the token."
    )
    @click.option("--cacert", type=click.Path(exists=True, dir_okay=False), help="Certificates to trust, PEM.")
    @click.option(
        "--timeout",
        "timeout_s",
        type=click.FloatRange(0.1, 86400),
        default=30.0,
        show_default=True,
        help="Seconds until a request is given up.",
    )
    @json_option
    @functools.wraps(function)
    def command(
        *,
        endpoints: str | None,
        token_file: str | None,
        cacert: str | None,
        timeout_s: float,
        as_json: bool,
        **kwargs: Any,
    ) -> T:
        client = Client(
            endpoints=find_endpoints(endpoints or None),
            token=_read_token(token_file),
            cacert=os.fspath(cacert) if cacert else None,
            timeout_s=timeout_s,
            out=Output(as_json=as_json),
        )
        return function(client, **kwargs)

    return command
