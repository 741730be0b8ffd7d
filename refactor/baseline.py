"""A baseline: findings that were there when the tool was introduced, and are not reported again.

A finding is recognised by file, code, region and the text of its line, not by its position, so that edits
elsewhere in the file do not bring it back. Equal ones are counted.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from refactor.config import ConfigError


@dataclass(frozen=True, order=True)
class Known:
    """What identifies a finding in a baseline; ``file`` is relative to the project's root."""

    file: str
    code: str
    region: str
    text: str


def load_baseline(path: Path) -> Mapping[str, Mapping[Known, int]]:
    """The known findings of every file, with how many there are of each.

    Raises:
        ConfigError: the file cannot be read or is no baseline.
    """
    try:
        document = json.loads(path.read_text("utf-8"))
        rows = [
            (Known(r["file"], r["code"], r["region"], r["text"]), int(r["count"]))
            for r in document["findings"]
        ]
    except OSError as error:
        message = f"cannot be read: {error.strerror}; `refactor check --write-baseline` makes a baseline"
        raise ConfigError(path, 1, message) from None
    except json.JSONDecodeError as error:
        raise ConfigError(path, error.lineno, f"is no baseline: {error.msg}") from None
    except (KeyError, TypeError, ValueError):
        message = "is no baseline: make it again with `refactor check --write-baseline`"
        raise ConfigError(path, 1, message) from None
    files: dict[str, dict[Known, int]] = {}
    for known, count in rows:
        files.setdefault(known.file, {})[known] = count
    return files


def dump_baseline(known: Iterable[Known]) -> str:
    """The baseline file that knows these findings."""
    rows = [
        {"file": item.file, "code": item.code, "region": item.region, "text": item.text, "count": count}
        for item, count in sorted(Counter(known).items())
    ]
    return json.dumps({"schema": 1, "findings": rows}, indent=1) + "\n"
