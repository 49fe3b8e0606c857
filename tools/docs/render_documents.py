"""Writes the tables of docs/documents.md from mcap's own table of ID documents.

    python tools/docs/render_documents.py

tests/project/test_documents_page.py compares the page with what is rendered now.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mcap.style.id_documents import Source, rules

PAGE = Path(__file__).resolve().parents[2] / "docs" / "documents.md"
BEGIN, END = (
    "<!-- Rendered by tools/docs/render_documents.py from mcap/style/id_documents.toml. -->\n",
    "<!-- End of what is rendered. -->\n",
)


def cell(text: str) -> str:
    """Return text as a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def rows() -> Iterator[str]:
    """Yield the lines of the table of documents."""
    yield "| name | document | size | head, chin to crown | background | file | sources |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    numbers = {key: number for number, key in enumerate(rules().sources, 1)}
    for name, rule in rules().documents.items():
        taken = ", ".join(f"[{numbers[key]}]({rules().sources[key].url})" for key in rule.sources)
        head = f"{rule.head_words}{', with hair' if rule.with_hair else ''}"
        cells = (rule.title, rule.size_words, head, ", ".join(rule.background), rule.bytes_words)
        yield f"| `{name}` | {' | '.join(map(cell, cells))} | {taken} |"


def altered() -> Iterator[str]:
    """Yield a line for each rule on altered pictures, with the documents that have it."""
    names: dict[str, list[str]] = {}
    for name, rule in rules().documents.items():
        names.setdefault(rule.altered, []).append(f"`{name}`")
    unknown = names.pop("", [])
    for text, documents in names.items():
        yield f"- {', '.join(documents)}: {cell(text)}"
    yield f"- Not verified: {', '.join(unknown)}."


def disagreements() -> Iterator[str]:
    """Yield a line for each row whose sources disagree."""
    for name, rule in rules().documents.items():
        if rule.differ:
            yield f"- `{name}`: {cell(rule.differ)}"


def source_lines() -> Iterator[str]:
    """Yield a line for each source."""
    for number, (key, source) in enumerate(rules().sources.items(), 1):
        yield f"{number}. `{key}`: {described(source)}"


def described(source: Source) -> str:
    """Return a source with its link, licence and dates."""
    facts = ["official" if source.official else "", source.licence]
    facts += [f"dated {source.dated}" if source.dated else "", f"read {source.read}"]
    return f"[{cell(source.title)}]({source.url}) ({', '.join(filter(None, facts))})"


def render() -> str:
    """Return the rendered part of the page."""
    parts = [
        *rows(),
        "",
        "### What the rules say of altered pictures",
        "",
        *altered(),
        "",
        "### Where the sources disagree",
        "",
        *disagreements(),
        "",
        "### Sources",
        "",
        *source_lines(),
        "",
    ]
    return BEGIN + "\n" + "\n".join(parts) + "\n" + END


def page(text: str) -> str:
    """Return the page ``text`` with its rendered part as it is now."""
    before, rest = text.split(BEGIN, 1)
    return before + render() + rest.split(END, 1)[1]


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
