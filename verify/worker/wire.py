"""Frames between parent and worker: an eight-byte length, then JSON, over a pipe of their own.

Standard output is not used: what the user's program prints there is captured and compared.
"""

from __future__ import annotations

import json
import os
import select
import struct
import time
from typing import Any

_HEADER = struct.Struct("!Q")


class WireClosed(Exception):
    """The other end is gone."""


class WireTimeout(Exception):
    """Nothing complete arrived in time."""


def send(fd: int, message: dict[str, Any]) -> None:
    """Write one frame; raises WireClosed when nobody reads any more."""
    body = json.dumps(message).encode()
    data = memoryview(_HEADER.pack(len(body)) + body)
    try:
        while data:
            data = data[os.write(fd, data) :]
    except OSError as error:
        raise WireClosed(str(error)) from error


def receive(fd: int, timeout: float | None = None) -> dict[str, Any]:
    """Read one frame; ``timeout`` in seconds. Raises WireClosed and WireTimeout."""
    deadline = None if timeout is None else time.monotonic() + timeout
    (length,) = _HEADER.unpack(_read(fd, _HEADER.size, deadline))
    message: dict[str, Any] = json.loads(_read(fd, length, deadline))
    return message


def _read(fd: int, size: int, deadline: float | None) -> bytes:
    parts: list[bytes] = []
    while size:
        if deadline is not None and not select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise WireTimeout
        try:
            part = os.read(fd, min(size, 1 << 20))
        except OSError as error:
            raise WireClosed(str(error)) from error
        if not part:
            raise WireClosed("end of file")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
