"""Tables, and pages of which programs write a part."""

from __future__ import annotations

from collections.abc import Sequence


def tabulate(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, numbers to the right."""
    rule = ["---", *("--:" for _ in header[1:])]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, rule, *rows])


def replace_between(text: str, name: str, section: str) -> str:
    """`text` with what stands between the markers `<!-- NAME: begin ... -->` and `<!-- NAME: end -->` replaced."""
    before, begin, rest = text.partition(f"<!-- {name}: begin")
    marker, closing, rest = rest.partition("-->\n")
    _, end, after = rest.partition(f"<!-- {name}: end -->")
    if not (begin and closing and end):
        raise SystemExit(f"the page has no markers {name}: begin and {name}: end")
    return f"{before}{begin}{marker}{closing}{section}{end}{after}"
