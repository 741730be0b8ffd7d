"""One pair of programs, and how a wrong rewrite is made from a right one."""

from __future__ import annotations

from dataclasses import dataclass, replace

FILE = "program.py"


@dataclass(frozen=True)
class Pair:
    """A program, a rewrite of it, and what a verifier must say about them.

    ``check`` names what kills a mutant: observations (``result``, ``kept``, ``state`` …) or scenarios of the
    verifier, separated by ``|``. ``target`` is the body of one ``[[target]]`` table whose entry is in `FILE`.
    """

    name: str
    family: str
    expect: str  # pass, fail or inconclusive
    check: str
    why: str
    target: str
    before: str
    after: str
    cuda_only: bool = False  # races and reused memory: an emulator cannot show them
    control: str = ""  # the right rewrite a mutant was made from

    @property
    def toml(self) -> str:
        """The whole targets file."""
        return f'[[target]]\nname = "{self.name}"\n{self.target.strip()}\n'

    def mutant(
        self, name: str, check: str, why: str, *edits: tuple[str, str], cuda_only: bool = False
    ) -> Pair:
        """The rewrite with one small mistake: in each edit (old, new), old must occur exactly once."""
        after = self.after
        for old, new in edits:
            if after.count(old) != 1:
                raise ValueError(f"{name}: {old!r} occurs {after.count(old)} times in {self.name}")
            after = after.replace(old, new)
        made = replace(self, name=name, expect="fail", check=check, why=why, after=after)
        return replace(made, cuda_only=cuda_only, control=self.name)


def control(
    name: str, family: str, why: str, target: str, before: str, after: str, cuda_only: bool = False
) -> Pair:
    """A right rewrite."""
    return Pair(name, family, "pass", "", why, target, before.lstrip("\n"), after.lstrip("\n"), cuda_only)
