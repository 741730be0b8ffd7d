"""What a caller gets in the end: coroutines are awaited, futures waited for, generators drawn out."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import Any

WAIT_S = 600.0  # a result that never comes is the parent's to notice: its own limit is shorter


def settled(result: Any) -> Any:
    """The result as its caller uses it; what an awaited or running call raises is raised here."""
    if isinstance(result, concurrent.futures.Future):
        return settled(result.result(WAIT_S))
    if inspect.isawaitable(result):
        return settled(asyncio.run(_awaited(result)))
    if isinstance(result, AsyncIterator):
        return asyncio.run(_drawn(result))
    if isinstance(result, Iterator):
        return list(result)
    if type(result) in (list, tuple) and any(isinstance(r, concurrent.futures.Future) for r in result):
        return type(result)(settled(r) for r in result)
    return result


async def _awaited(result: Awaitable[Any]) -> Any:
    return await result


async def _drawn(result: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in result]
