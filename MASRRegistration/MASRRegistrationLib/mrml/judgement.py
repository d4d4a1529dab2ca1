"""What lowers the verdict of a result after the run: it is stored in the place of the verdict, so nobody reads the old
one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from masr_registration.evaluation.verdict import NO_FOLDING
from slicer.i18n import tr as _

from .deformation import Fold

RESULT_ATTRIBUTE = "MASR.Result"
VERDICT_ATTRIBUTE = "MASR.Verdict"
LEVELS = ("plausible", "doubtful", "failed")
_AS_DELIVERED, _FOLDS = "verdict_as_delivered", "sampled_folds"


def storedResult(transformNode: Any) -> dict[str, Any] | None:
    """What a registration wrote into a transform node (see `results.deliver`), None for any other node."""
    text = None if transformNode is None else transformNode.GetAttribute(RESULT_ATTRIBUTE)
    return None if text is None else json.loads(text)


def store(node: Any, content: Mapping[str, Any]) -> None:
    """Write a result as JSON into a node's attributes, and its level beside it."""
    node.SetAttribute(RESULT_ATTRIBUTE, json.dumps(content))
    node.SetAttribute(VERDICT_ATTRIBUTE, str(content["verdict"].get("level", "")))


def lowered(verdict: Mapping[str, Any], level: str, reasons: Iterable[str]) -> dict[str, Any]:
    """`verdict`, at best as good as `level`, with more reasons before its own; itself where there are none."""
    found = list(reasons)
    if not found:
        return dict(verdict)
    own = verdict.get("level", LEVELS[0])
    worst = max(own if own in LEVELS else LEVELS[0], level, key=LEVELS.index)
    return {"level": worst, "reasons": list(dict.fromkeys([*found, *verdict.get("reasons", [])]))}


def recordFolds(transformNode: Any, folds: Sequence[Fold]) -> None:
    """Store what Slicer's own sampling found: with folds the result has failed, whatever the run said.

    Without any, the verdict is that of the run. Does nothing for a node without a result.
    """
    content = storedResult(transformNode)
    if content is None:
        return
    found = {"places": len(folds), "cells": sum(fold.cells for fold in folds)}
    if content.get(_FOLDS) == found:
        return
    verdict = content.setdefault(_AS_DELIVERED, content["verdict"])
    if folds:
        rest = [reason for reason in verdict.get("reasons", []) if reason != NO_FOLDING]
        verdict = lowered({**verdict, "reasons": rest}, "failed", [_foldSentence(len(folds))])
    store(transformNode, content | {"verdict": verdict, _FOLDS: found})


def _foldSentence(places: int) -> str:
    return _(
        "Sampled in Slicer, the transform folds in {places} places: points, contours and the inverse are wrong there."
    ).format(places=places)
