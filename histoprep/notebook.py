"""Results as notebooks show them: a sentence and a small table, every name escaped. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from markupsafe import Markup

from histoprep.visible import visible

MAX_ROWS = 20


def html_result(
    sentence: str, heads: Sequence[str] = (), rows: Iterable[Sequence[object]] = ()
) -> str:
    """Return a sentence and a table as HTML; of more than 20 rows the first ones.

    Args:
        sentence: What the result is.
        heads: Heads of the columns.
        rows: Cells; numbers are set to the right.
    """
    listed = list(rows)
    body = Markup("").join(
        Markup("<tr>{}</tr>").format(Markup("").join(map(_cell, row))) for row in listed[:MAX_ROWS]
    )
    more = len(listed) - MAX_ROWS
    end = Markup("<p>and {} more</p>").format(f"{more:,}") if more > 0 else Markup("")
    first = Markup("<p>{}</p>").format(visible(sentence))
    if not listed:
        return str(first)
    top = Markup("").join(Markup("<th>{}</th>").format(head) for head in heads)
    return str(first + Markup("<table><tr>{}</tr>{}</table>").format(top, body) + end)


def _cell(value: object) -> Markup:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Markup("<td>{}</td>").format(visible(str(value)))
    text = f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
    return Markup('<td style="text-align: right">{}</td>').format(text)
