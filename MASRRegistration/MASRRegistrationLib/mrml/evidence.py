"""What speaks for and against a result, in sentences: never a number alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slicer.i18n import tr as _

from .colours import TOLERANCE_MAX_MM, TOLERANCE_MEAN_MM
from .provenance import verdictText


def verdictSentences(content: Mapping[str, Any]) -> list[str]:
    """The verdict, its reasons and warnings, then what was measured, one sentence each."""
    sentences = verdictText(dict(content)).split("\n")
    metrics = content.get("metrics", {})
    mean, largest = (metrics.get(f"inverse_consistency_{kind}_mm") for kind in ("mean", "max"))
    if mean is not None and largest is not None:
        sentences.append(
            _(
                "Going there and back again misses by {mean:.2f} mm on average and {largest:.2f} mm at most."
            ).format(mean=mean, largest=largest)
        )
    before, after = (metrics.get(f"similarity_{when}") for when in ("before", "after"))
    if before is not None and after is not None:
        sentences.append(
            _(
                "The structures differed by {before:.3f} before and by {after:.3f} after (0 would be equal)."
            ).format(before=before, after=after)
        )
    return list(dict.fromkeys(sentences))


def toleranceSentence(mean: float, largest: float) -> str:
    """A landmark error beside the reference lines of AAPM TG-132."""
    return _(
        "The landmarks lie {mean:.1f} mm apart on average and {largest:.1f} mm at most. For comparison: AAPM TG-132 "
        "names {usual:g} mm on average and {most:g} mm at most; that is a reference and no proof."
    ).format(mean=mean, largest=largest, usual=TOLERANCE_MEAN_MM, most=TOLERANCE_MAX_MM)
