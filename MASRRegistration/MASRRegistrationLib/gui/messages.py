"""Messages to a person."""

from __future__ import annotations

import html

import slicer
from masr_registration.errors import MasrError


def plain(text: str) -> str:
    """`text` for a message box, which would take node names with tags in them for HTML."""
    return f"<p>{html.escape(text)}</p>" if "<" in text else text


def showError(error: MasrError) -> None:
    """A message box with the sentence, and what is known beyond it. It has an event loop of its own."""
    slicer.util.errorDisplay(
        plain(str(error)), detailedText="\n".join(getattr(error, "__notes__", [])) or None
    )
