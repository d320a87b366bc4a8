"""Small pieces of HTML. Text is escaped unless it is already `Html`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

MISSING = "–"


class Html(str):
    """A string that is HTML already and must not be escaped again."""

    __slots__ = ()


def text(value: object) -> Html:
    """`value` as HTML: unchanged when it is `Html`, else its string, escaped."""
    return value if isinstance(value, Html) else Html(escape(str(value), quote=True))


def join(parts: Sequence[str], separator: str = "\n") -> Html:
    """Parts as one piece of HTML."""
    return Html(separator.join(text(part) for part in parts))


def number(value: float, digits: int = 3) -> str:
    """A number with fixed digits, or a dash where it is not defined."""
    return f"{value:.{digits}f}" if math.isfinite(value) else MISSING


def difference(before: float, after: float) -> Html:
    """after - before with its sign, coloured; a dash where one of them is not defined."""
    change = after - before
    if not math.isfinite(change):
        return text(MISSING)
    rounded = round(change, 3)
    # Less than a hundredth stays grey: colour would make much of nothing.
    kind = "same" if abs(rounded) < 0.01 else "gain" if rounded > 0 else "loss"
    sign = "+" if rounded > 0 else "\N{MINUS SIGN}" if rounded < 0 else "±"
    return Html(f'<span class="{kind}">{sign}{abs(rounded):.3f}</span>')


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    kind: str = "",
    spans: Mapping[str, int] | None = None,
    caption: str = "",
) -> Html:
    """A table that scrolls sideways in narrow windows; the first cell of each row is its header.

    Args:
        head: one heading per column.
        rows: cells, as many per row as headings.
        kind: CSS class.
        spans: headings above the headings with the number of columns that each covers, from the left.
        caption: line above the table.
    """
    lines = [f'<div class="scroll"><table class="{escape(kind)}">']
    if caption:
        lines.append(f"<caption>{text(caption)}</caption>")
    lines.append("<thead>")
    if spans:
        cells = (
            f'<th colspan="{n}" scope="colgroup">{text(name)}</th>' if name.strip() else f'<td colspan="{n}"></td>'
            for name, n in spans.items()
        )
        lines.append(f'<tr class="over">{"".join(cells)}</tr>')
    lines.append("<tr>" + "".join(f'<th scope="col">{text(cell)}</th>' for cell in head) + "</tr></thead><tbody>")
    for first, *rest in rows:
        cells = (f"<td>{text(cell)}</td>" for cell in rest)
        lines.append(f'<tr><th scope="row">{text(first)}</th>{"".join(cells)}</tr>')
    lines.append("</tbody></table></div>")
    return Html("\n".join(lines))


def picture(uri: str, alt: str, caption: str = "") -> Html:
    """A figure with a picture given as a data URI."""
    below = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
    return Html(f'<figure><img src="{text(uri)}" alt="{text(alt)}">{below}</figure>')


def paragraphs(parts: Sequence[str]) -> Html:
    """One <p> per part."""
    return Html("\n".join(f"<p>{text(part)}</p>" for part in parts))
