"""The ``exec`` source: a program that prints backends, at intervals. `l4lb.net.programs` says how it runs.

Its environment is PATH, L4LB_POOL and L4LB_TIMEOUT (seconds). What it prints counts when its exit code is 0; otherwise
the first line that it writes to stderr is the reason. It is killed, with all that it started, when it is late.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace

from l4lb.config.reading.bounds import FILE_BYTES_MAX
from l4lb.control.discovery.entries import parse_entries
from l4lb.control.discovery.sources import Answer, Asked, NoAnswer, Yielded
from l4lb.net.programs import Program, TooMuch, start


async def follow_exec(asked: Asked) -> AsyncGenerator[Yielded, None]:
    """Yields after each run; the same object while it prints the same."""
    text: bytes | None = None
    said: Yielded = NoAnswer("it has not been run yet")
    while True:
        try:
            printed = await _printed(asked)
            if printed != text:
                text, said = printed, await asyncio.to_thread(_parsed, printed, asked)
            yield said
        except NoAnswer as error:
            yield error
        await asyncio.sleep(asked.settings.interval)


async def _printed(asked: Asked) -> bytes:
    command, timeout_s = asked.settings.command, asked.settings.timeout
    try:
        async with asyncio.timeout(timeout_s):
            with _running(asked) as program:
                await program.ended()
    except TimeoutError:
        raise NoAnswer(f"{command[0]}: killed, it did not end within {timeout_s:g} s") from None
    except (OSError, ValueError, TooMuch) as error:
        raise NoAnswer(f"{command[0]}: {getattr(error, 'strerror', None) or error}") from error
    if reason := program.failure():
        raise NoAnswer(f"{command[0]}: {reason}")
    return bytes(program.printed.kept)


@contextlib.contextmanager
def _running(asked: Asked) -> Iterator[Program]:
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "L4LB_POOL": asked.pool,
        "L4LB_TIMEOUT": f"{asked.settings.timeout:g}",
    }
    bytes_max = FILE_BYTES_MAX
    program = start(asked.settings.command, environment, keep_bytes=bytes_max, max_bytes=bytes_max, errors=True)
    try:
        yield program
    finally:
        program.close()


def _parsed(printed: bytes, asked: Asked) -> Answer | NoAnswer:
    command, format_ = asked.settings.command[0], asked.settings.format
    try:
        answer = parse_entries(printed.decode(), "lines" if format_ == "auto" else format_)
    except UnicodeDecodeError as error:
        return NoAnswer(f"{command}: printed what is not UTF-8 (byte {error.start})")
    except ValueError as error:
        return NoAnswer(f"{command}: {error}")
    return replace(answer, within=command)
