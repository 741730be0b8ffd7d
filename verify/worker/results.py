"""What a caller gets in the end: coroutines are awaited, futures waited for, generators drawn out."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
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


def by_turns(results: list[Any]) -> list[Any]:
    """Several results that are under way at once: drawn from by turns, or settled from the last to the first.

    What one raises takes its place, as an exception.
    """
    if results and all(isinstance(r, Iterator) for r in results):
        answers = _drawn_by_turns(results)
    else:
        answers = [_answer(partial(settled, result)) for result in results[::-1]][::-1]
    return [a.error or a.value for a in answers]


@dataclass
class _Answer:
    value: Any = None
    error: Exception | None = None
    over: bool = False  # an iterator's end


def _answer(ask: Callable[[], Any]) -> _Answer:
    try:
        return _Answer(ask())
    except StopIteration:
        return _Answer(over=True)
    except Exception as error:
        return _Answer(error=error)


def _drawn_by_turns(results: list[Iterator[Any]]) -> list[_Answer]:
    found = [_Answer([]) for _ in results]
    while waiting := [k for k, a in enumerate(found) if not a.over and a.error is None]:
        for k in waiting:
            item = _answer(results[k].__next__)
            found[k].over, found[k].error = item.over, item.error
            if not item.over and item.error is None:
                found[k].value.append(item.value)
    return found


async def _awaited(result: Awaitable[Any]) -> Any:
    return await result


async def _drawn(result: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in result]
