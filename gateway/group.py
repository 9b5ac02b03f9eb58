"""The metrics of all gateway processes on one port, from whichever is asked."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

from runtime.log import get_logger

_PATIENCE_S = 1.0
_log = get_logger("gateway")


class MetricsGroup:
    """Each process answers its own exposition on a socket in a folder that all of them know.

    Sums are left to whoever reads them: a process that starts again begins at zero, which only
    series of its own let a rate() see.
    """

    def __init__(self, folder: Path, number: int, exposition: Callable[[], bytes]) -> None:
        """number: which of the processes this is, the label `process` of its series."""
        self._folder = folder
        self._number = number
        self._own = exposition
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Takes the place of a process of this number that was killed."""
        path = self._folder / f"{self._number}.sock"
        path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._tell, path)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            (self._folder / f"{self._number}.sock").unlink(missing_ok=True)

    async def exposition(self) -> bytes:
        """The series of all processes that answer within a second."""
        others = [path for path in self._folder.glob("*.sock") if path.stem != str(self._number)]
        texts = await asyncio.gather(*map(_ask, others))
        found = {path.stem: text for path, text in zip(others, texts, strict=True) if text}
        return joined({**found, str(self._number): self._own()})

    async def _tell(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(self._own())
            await writer.drain()
        finally:
            writer.close()


@contextlib.asynccontextmanager
async def telling(group: MetricsGroup | None) -> AsyncIterator[None]:
    """Meanwhile the others of a group can ask this process."""
    if group is None:
        yield
        return
    await group.start()
    try:
        yield
    finally:
        await group.stop()


async def _ask(path: Path) -> bytes:
    """A process's exposition; empty for one that does not answer."""
    try:
        async with asyncio.timeout(_PATIENCE_S):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                return await reader.read(-1)
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except (OSError, TimeoutError) as error:
        _log.warning("a gateway process gives no metrics", process=path.stem, reason=repr(error))
        return b""


def joined(texts: dict[str, bytes]) -> bytes:
    """Expositions by process as one, each series with the label `process`."""
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for process, text in sorted(texts.items()):
        for family, lines in _families(text.decode()):
            heads.setdefault(family, [line for line in lines if line.startswith("#")])
            samples.setdefault(family, []).extend(
                _labelled(line, process) for line in lines if not line.startswith("#")
            )
    lines = [line for family, head in heads.items() for line in (*head, *samples[family])]
    return ("\n".join(lines) + "\n").encode()


def _families(text: str) -> Iterable[tuple[str, list[str]]]:
    """The lines of each metric, which begin with its # HELP."""
    name = ""
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("# HELP "):
            if lines:
                yield name, lines
            name, lines = line.split(" ", 3)[2], []
        lines.append(line)
    if lines:
        yield name, lines


def _labelled(line: str, process: str) -> str:
    label = f'process="{process}"'
    brace, space = line.find("{"), line.find(" ")
    if 0 <= brace < space:
        return f"{line[: brace + 1]}{label},{line[brace + 1 :]}"
    return f"{line[:space]}{{{label}}}{line[space:]}"
