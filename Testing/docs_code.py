"""The code of the pages in Docs, so that tests can run every line of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[1] / "Docs"


@dataclass(frozen=True)
class Block:
    """One fenced block of a page: `heading` above it, `text`, `line` of its first line."""

    page: str
    heading: str
    text: str
    line: int

    def run(self, namespace: dict[str, Any]) -> None:
        """Execute it as Python; a traceback names page and line."""
        code = "\n" * (self.line - 1) + self.text
        exec(compile(code, str(DOCS / self.page), "exec"), namespace)


def blocks(page: str, language: str) -> list[Block]:
    """All blocks of a language in a page of Docs (or ``../README.md``), in order."""
    found: list[Block] = []
    heading, lines, start = "", None, 0
    for number, line in enumerate((DOCS / page).read_text(encoding="utf-8").splitlines(), start=1):
        if lines is None:
            if match := re.fullmatch(r"#+ (.+)", line):
                heading = match.group(1)
            elif line == f"```{language}":
                lines, start = [], number + 1
        elif line == "```":
            found.append(Block(page, heading, "\n".join(lines), start))
            lines = None
        else:
            lines.append(line)
    assert lines is None, f"{page}: a block is not closed"
    return found
