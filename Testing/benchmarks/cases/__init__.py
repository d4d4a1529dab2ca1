"""What is registered. Each module makes a family of cases; a case builds its problem when it is first needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from ..problem import Problem


@dataclass(frozen=True)
class Case:
    """A named problem.

    Attributes:
        name: ``family/detail``; the table has one block for each family.
        build: makes the problem from the folder of images; the same every time.
        methods: patterns of the methods that make sense here.
    """

    name: str
    build: Callable[[Path], Problem]
    methods: tuple[str, ...] = ("*",)

    @property
    def family(self) -> str:
        return self.name.split("/")[0]

    def suits(self, method: str) -> bool:
        return any(fnmatchcase(method, pattern) for pattern in self.methods)


def all_cases() -> list[Case]:
    from . import known_warps, linear, liver_phases, mr_ct, neonates, scaling

    families = (neonates, known_warps, linear, liver_phases, mr_ct, scaling)
    return [case for family in families for case in family.cases()]


def select(patterns: Iterable[str]) -> list[Case]:
    """The cases whose name matches one of the shell patterns, in the order of the list."""
    chosen = list(patterns)
    return [case for case in all_cases() if any(fnmatchcase(case.name, pattern) for pattern in chosen)]
