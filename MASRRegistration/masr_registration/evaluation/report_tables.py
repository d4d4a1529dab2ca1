"""The numbers of the report: tiles and tables in HTML, every text escaped."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

MISSING = "—"


@dataclass(frozen=True)
class Entry:
    """How one metric is told. `key` "a.b" is entry b of the object a; without digits it is a count."""

    key: str
    label: str
    unit: str
    meaning: str
    digits: int = 2


GROUPS: tuple[tuple[str, tuple[Entry, ...]], ...] = (
    (
        "Error in millimetres",
        (
            Entry(
                "tre_before_mm.mean",
                "Landmarks, before",
                "mm",
                "mean distance between corresponding landmarks",
            ),
            Entry(
                "tre_after_mm.mean",
                "Landmarks, after",
                "mm",
                "the same through the transform; picking errors remain",
            ),
            Entry("tre_after_mm.max", "Landmarks, after, worst", "mm", "the landmark that fits worst"),
            Entry(
                "true_error_before_mm.mean",
                "True error, before",
                "mm",
                "mean distance from the known true transform",
            ),
            Entry("true_error_after_mm.mean", "True error, after", "mm", "the same after the registration"),
            Entry(
                "true_error_after_mm.p95",
                "True error, after, 95 %",
                "mm",
                "95 % of the body is nearer than this",
            ),
            Entry("true_error_after_mm.max", "True error, after, worst", "mm", "the point that fits worst"),
        ),
    ),
    (
        "Agreement of the images",
        (
            Entry(
                "similarity_before",
                "Dissimilarity, before",
                "",
                "difference of local structure (MIND-SSC); lower is better",
                4,
            ),
            Entry(
                "similarity_linear",
                "Dissimilarity, turned and shifted",
                "",
                "after the whole image was moved",
                4,
            ),
            Entry("similarity_after", "Dissimilarity, after", "", "should be clearly lower than before", 4),
            Entry("overlap", "Covered", "", "share of the fixed body for which the moving image has data", 3),
        ),
    ),
    (
        "Deformation",
        (
            Entry("folds", "Folds in the transform", "", "grid cells turned inside out; must be 0", 0),
            Entry(
                "folds_dense",
                "Folds in the dense field",
                "",
                "the same, checked on the exported field; must be 0",
                0,
            ),
            Entry(
                "strict_bound",
                "Steepest slope of a field",
                "",
                "up to 0.42 no program's interpolation can fold it",
                3,
            ),
            Entry("fields", "Fields", "", "displacement fields that the transform is composed of", 0),
            Entry(
                "displacement_mean_mm",
                "Displacement, mean",
                "mm",
                "beyond turn, shift and scaling of the whole image",
            ),
            Entry("displacement_p95_mm", "Displacement, 95 %", "mm", "95 % of the body moves less than this"),
            Entry("displacement_max_mm", "Displacement, largest", "mm", "the point that moves most"),
            Entry(
                "jacobian_min", "Smallest volume factor", "", "0.5: shrunk to half; at 0 or below it folds", 3
            ),
            Entry("jacobian_max", "Largest volume factor", "", "2: grown to twice the volume", 3),
            Entry("sdlogj", "Roughness (SDlogJ)", "", "spread of the volume change; lower is smoother", 3),
            Entry(
                "inverse_consistency_mean_mm",
                "There and back, mean",
                "mm",
                "fixed to moving to fixed again; near 0 is right",
                3,
            ),
            Entry("inverse_consistency_max_mm", "There and back, worst", "mm", "the worst point of it", 3),
        ),
    ),
    (
        "Turn, shift and scaling of the whole image",
        (
            Entry(
                "linear_rotation_deg", "Rotation", "°", "over 45° left and right may have been exchanged", 1
            ),
            Entry("linear_translation_mm", "Shift", "mm", "of the image's centre", 1),
            Entry("linear_scale_min", "Smallest scale", "", "1 is unchanged", 3),
            Entry("linear_scale_max", "Largest scale", "", "1 is unchanged", 3),
        ),
    ),
)
_EXPECTED_ONLY_WHEN_KNOWN = ("tre_", "true_error_")
_LISTED_ELSEWHERE = (
    "landmark_labels",
    "tre_before_mm",
    "tre_after_mm",
    "true_error_before_mm",
    "true_error_after_mm",
)


def tiles(result: Mapping[str, Any]) -> str:
    """The few numbers that matter first."""
    metrics = result.get("metrics") or {}
    shown = [
        _error_tile(metrics, "true_error", "True error, mean"),
        _error_tile(metrics, "tre", "Landmark error, mean"),
        _tile("Folds", _text(metrics, "folds", 0), "places where the transform folds"),
        _tile("Deformation, mean", _text(metrics, "displacement_mean_mm", 1, "mm"), _largest(metrics)),
        _tile(
            "There and back",
            _text(metrics, "inverse_consistency_mean_mm", 3, "mm"),
            "mean inverse-consistency error",
        ),
        _tile("Time", _text(result.get("timings") or {}, "total", 1, "s"), _device(result)),
    ]
    return f"<div class=tiles>{''.join(shown)}</div>"


def metrics_table(result: Mapping[str, Any]) -> str:
    metrics = result.get("metrics") or {}
    rows = []
    for title, entries in GROUPS:
        told = [entry for entry in entries if _is_told(entry, metrics)]
        if told:
            rows.append(_group(title))
            rows += [_row(e.label, _text(metrics, e.key, e.digits, e.unit), e.meaning) for e in told]
    known = {entry.key.split(".")[0] for _, entries in GROUPS for entry in entries} | set(_LISTED_ELSEWHERE)
    others = sorted(set(metrics) - known)
    if others:
        rows.append(_group("Other"))
        rows += [_row(key, _text(metrics, key, 4), "") for key in others]
    return f"""<section>
<h2>Measurements</h2>
<div class=scroll><table><thead><tr><th>What</th><th class=number>Value</th><th>What it means</th></tr></thead>
<tbody>{"".join(rows)}</tbody></table></div>
</section>"""


def landmark_table(result: Mapping[str, Any]) -> str:
    """Every landmark with its error before and after; empty without landmarks."""
    metrics = result.get("metrics") or {}
    before, after = (_value(metrics, f"tre_{when}_mm.each") for when in ("before", "after"))
    if not before or not after:
        return ""
    labels = metrics.get("landmark_labels") or [str(i + 1) for i in range(len(after))]
    rows = "".join(
        f"<tr><th scope=row>{escape(str(label))}</th><td class=number>{_number(a, 2, 'mm')}</td>"
        f"<td class=number>{_number(b, 2, 'mm')}</td></tr>"
        for label, a, b in zip(labels, before, after, strict=False)
    )
    return f"""<section>
<h2>Landmarks</h2>
<p class=guide>Distance between corresponding landmarks (target registration error).</p>
<div class=scroll><table>
<thead><tr><th>Landmark</th><th class=number>Before</th><th class=number>After</th></tr></thead>
<tbody>{rows}</tbody></table></div>
</section>"""


def timings_table(result: Mapping[str, Any]) -> str:
    timings = {k: v for k, v in (result.get("timings") or {}).items() if isinstance(v, (int, float))}
    total = timings.get("total") or sum(timings.values()) or 1.0
    rows = "".join(
        f"<tr><th scope=row>{escape(str(stage))}</th><td class=number>{_number(seconds, 2, 's')}</td>"
        f'<td class=share aria-hidden=true><i style="width:{min(100 * seconds / total, 100):.1f}%"></i></td></tr>'
        for stage, seconds in timings.items()
    )
    memory = _text(result, "peak_memory_mb", 0, "MB")
    return f"""<section>
<h2>Time and memory</h2>
<div class=scroll><table><thead><tr><th>Stage</th><th class=number>Time</th><th></th></tr></thead><tbody>{rows}
<tr><th scope=row>peak memory</th><td class=number>{memory}</td><td></td></tr></tbody></table></div>
</section>"""


def provenance_table(result: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><th scope=row>{escape(key)}</th><td class=code>{escape(value)}</td></tr>"
        for key, value in _flat(result.get("provenance") or {})
    )
    return f"""<section><details>
<summary>Provenance</summary>
<div class=scroll><table><tbody>{rows}</tbody></table></div>
</details></section>"""


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, (str, type(None))):
        yield prefix, MISSING if value is None else value
    else:
        yield prefix, json.dumps(value, ensure_ascii=False)


def _value(data: Mapping[str, Any], key: str) -> Any:
    value: Any = data
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _text(data: Mapping[str, Any], key: str, digits: int, unit: str = "") -> str:
    return _number(_value(data, key), digits, unit)


def _number(value: Any, digits: int, unit: str = "") -> str:
    if isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool)):
        text = f"{value:.{digits}f}" if isinstance(value, float) else str(value)
        return text + {"": "", "°": "°"}.get(unit, f" <small>{unit}</small>")
    return MISSING if value is None else escape(str(value))


def _is_told(entry: Entry, metrics: Mapping[str, Any]) -> bool:
    """Missing errors are left out where no truth can be expected; other missing metrics are shown as missing."""
    return not entry.key.startswith(_EXPECTED_ONLY_WHEN_KNOWN) or _value(metrics, entry.key) is not None


def _group(title: str) -> str:
    return f"<tr class=group><th colspan=3 scope=colgroup>{title}</th></tr>"


def _row(label: str, value: str, meaning: str) -> str:
    return f"<tr><th scope=row>{escape(label)}</th><td class=number>{value}</td><td class=why>{meaning}</td></tr>"


def _tile(label: str, value: str, note: str) -> str:
    parts = (("label", label), ("value", value), ("note", note))
    return f"<div class=tile>{''.join(f'<div class={kind}>{text}</div>' for kind, text in parts)}</div>"


def _error_tile(metrics: Mapping[str, Any], name: str, label: str) -> str:
    after = _value(metrics, f"{name}_after_mm.mean")
    if after is None:
        return ""
    return _tile(
        label, _number(after, 2, "mm"), f"before: {_text(metrics, f'{name}_before_mm.mean', 2, 'mm')}"
    )


def _largest(metrics: Mapping[str, Any]) -> str:
    return f"largest: {_text(metrics, 'displacement_max_mm', 1, 'mm')}"


def _device(result: Mapping[str, Any]) -> str:
    return f"on {escape(str((result.get('provenance') or {}).get('device', MISSING)))}"
