"""Reports as one HTML page each, from the templates in ``mcap/results/templates``.

All of them extend ``page.html``, which holds the look they share. A page has no scripts and takes
nothing from elsewhere; what it links to lies beside it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mcap.runtime import files
from mcap.runtime.text import printable


def write_page(path: Path, template: str, **values: Any) -> None:
    """Fill a template with ``values`` and write it to ``path``: the whole file or none.

    Text in ``values`` is escaped, control characters of file names too. A value that the template
    asks for and that is not given raises `jinja2.UndefinedError`.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("mcap.results", "templates"),
        autoescape=True,
        # Markup is a str, too, of which the text within has been here already.
        finalize=lambda value: printable(value) if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    files.write_bytes(path, environment.get_template(template).render(**values).encode())
