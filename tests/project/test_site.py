"""The site holds every page, and what is wrong with it is seen. `make docs` builds it."""

from __future__ import annotations

import importlib.util
import re

import pytest

from tests.support import ROOT


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("build_site", ROOT / "tools/docs/build_site.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_has_its_place_in_the_menu(tool, tmp_path):
    tool.collect(tmp_path)
    menu = set(re.findall(r'"([\w/.]+\.md)"', (ROOT / "zensical.toml").read_text("utf-8")))
    pages = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.md")}
    assert menu <= pages
    outside = {page for page in pages - menu if page.split("/")[0] not in ("tools", "plugins")}
    assert outside == set()  # but for what single pages link to


def test_what_is_broken_or_fetched_from_elsewhere_is_seen(tool, tmp_path):
    (tmp_path / "there.png").touch()
    (tmp_path / "page.html").write_text(
        '<a href="https://arxiv.org">paper</a> <a href="#top">up</a> <a href="page.html#x">x</a>'
        '<img src="there.png"> <img src="gone.png"> <a href="gone.py">code</a>'
        '<link rel="icon" href="there.png"> <link rel="stylesheet" href="//cdn.example/x.css">'
        '<script src="https://cdn.example/x.js"></script> <iframe src="https://example"></iframe>'
    )
    assert sorted(tool.problems(tmp_path)) == [
        "page.html: fetches //cdn.example/x.css",
        "page.html: fetches https://cdn.example/x.js",
        "page.html: fetches https://example",
        "page.html: gone.png is not there",
        "page.html: gone.py is not there",
    ]
