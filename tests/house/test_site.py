"""The documentation site: every page shows what the repository's own page shows, and every public name has an entry."""

from __future__ import annotations

import ast
import logging
import re
from collections import Counter
from html import unescape
from html.parser import HTMLParser
from importlib import import_module
from inspect import isclass, isroutine
from pathlib import Path
from typing import Any

import pytest
from support.paths import ROOT

import lm_eval_moe
from lm_eval_moe.errors import UserError
from tools import site_pages

pytest.importorskip("mkdocs", reason="needs the packages of the docs extra")

from markdown_it import MarkdownIt
from mkdocs.commands.build import build
from mkdocs.config import load_config

PAGES = sorted([*ROOT.glob("docs/*.md"), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))])
REFERENCE = [ROOT / "docs" / name for name in ("api.md", "api_plugins.md")]
ENTRY = re.compile(r"^::: (\S+)$", re.MULTILINE)


def entries(page: Path) -> list[str]:
    return ENTRY.findall(page.read_text(encoding="utf-8"))


PUBLIC = [name for page in REFERENCE for name in entries(page)]
"""The public names: those of the reference are all there are."""


def the_object(name: str) -> Any:
    """Return what a dotted name means to whoever imports it."""
    module, _, last = name.rpartition(".")
    if not module:
        return import_module(name)
    try:
        return getattr(import_module(module), last)
    except AttributeError:
        return import_module(name)


class Counted(HTMLParser):
    """Counts what a page consists of, and keeps its links and names."""

    COUNTED = frozenset({"table", "tr", "td", "ul", "ol", "li", "pre", "h1", "h2", "h3", "h4", "strong", "details"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.ids: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag in self.COUNTED:
            self.counts[tag] += 1
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag in ("link", "script", "img", "iframe"):
            self.loaded += [values[name] for name in ("href", "src") if name in values]
        if "id" in values:
            self.ids.append(values["id"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as by `make docs`: a warning would end it."""
    folder = tmp_path_factory.mktemp("site")
    site_pages.gather(folder / "pages")
    config = load_config(str(ROOT / "mkdocs.yml"), docs_dir=str(folder / "pages"), site_dir=str(folder / "site"))
    assert config.strict
    logging.getLogger("mkdocs").setLevel(logging.WARNING)
    build(config)
    return folder / "site"


def page_on(site: Path, path: Path) -> str:
    return (site / site_pages.page_of(path.relative_to(ROOT).as_posix())).with_suffix(".html").read_text("utf-8")


@pytest.mark.parametrize("path", [page for page in PAGES if page not in REFERENCE], ids=lambda path: path.name)
def test_a_page_has_the_parts_that_the_repository_shows(site: Path, path: Path) -> None:
    """CommonMark is what the repository's page is drawn by: lists in lists, code in lists, tables, headings."""
    expected = Counted(MarkdownIt("commonmark").enable("table").render(path.read_text(encoding="utf-8"))).counts
    article = page_on(site, path).split("<article", 1)[1].split("</article>")[0]
    assert Counted(article).counts == expected


def test_nothing_is_loaded_from_the_network_and_no_link_is_broken(site: Path) -> None:
    pages = {path: Counted(path.read_text("utf-8")) for path in site.rglob("*.html") if path.name != "404.html"}
    assert len(pages) > 40
    for path, page in pages.items():
        assert [link for link in page.loaded if re.match(r"(https?:)?//", link)] == []
        for link in page.links:
            target, _, anchor = link.partition("#")
            if re.match(r"(https?|mailto):", target):
                continue
            file = (path.parent / target).resolve() if target else path
            file = file / "index.html" if file.is_dir() else file
            assert file.is_file(), f"{path.name}: {link}"
            if anchor and file in pages:
                assert anchor in pages[file].ids, f"{path.name}: {link}"


@pytest.mark.parametrize("page", REFERENCE, ids=lambda path: path.name)
def test_every_public_name_has_an_entry_that_says_something(site: Path, page: Path) -> None:
    html = page_on(site, page)
    for name in entries(page):
        assert html.count(f'id="{name}"') == 1, name
        entry = html.split(f'id="{name}"', 1)[1]
        value = the_object(name)
        if isclass(value) or isroutine(value):
            said = re.sub(r"[`*]", "", (value.__doc__ or "").strip().split("\n")[0])
            text = unescape(re.sub(r"<[^>]+>", "", entry[: entry.find(' id="lm_eval_moe.')]))
            assert said, name
            assert said in " ".join(text.split()), name


def test_the_names_of_the_package_are_those_of_the_reference() -> None:
    """`__all__`, what can be imported, and the entries: a name that vanishes from one of them is missed."""
    own = {name for name in PUBLIC if name.count(".") == 1}
    assert own == {f"lm_eval_moe.{name}" for name in lm_eval_moe.__all__}
    assert len(PUBLIC) == len(set(PUBLIC))
    for name in PUBLIC:
        module, last = name.rsplit(".", 1)
        value = the_object(name)
        offered = getattr(import_module(module), "__all__", None)
        assert value is not None
        assert offered is None or last in offered or not (isclass(value) or isroutine(value)), f"{name}: not in __all__"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_what_pages_import_is_public(path: Path) -> None:
    for block in re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lm_eval_moe"):
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                assert names - set(PUBLIC) == set()


def test_a_link_to_a_file_that_is_not_there_ends_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docs").mkdir()
    for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/site.css"):
        (tmp_path / name).write_text("[`code`](docs/there.md) `[code](nowhere)`\n", encoding="utf-8")
    (tmp_path / "docs" / "there.md").write_text("[a script](../tools/script.py#L3)\n", encoding="utf-8")
    monkeypatch.setattr(site_pages, "ROOT", tmp_path)
    with pytest.raises(UserError, match=r"docs/there.md: there is no file ../tools/script.py"):
        site_pages.gather(tmp_path / "pages")
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "script.py").write_text("print('```')\n", encoding="utf-8")
    site_pages.gather(tmp_path / "pages")
    assert (tmp_path / "pages/index.md").read_text() == "[`code`](there.md) `[code](nowhere)`\n"
    assert (tmp_path / "pages/there.md").read_text() == "[a script](repository/tools/script.py.md#L3)\n"
    shown = (tmp_path / "pages/repository/tools/script.py.md").read_text()
    assert shown == "# tools/script.py\n\n````python\nprint('```')\n````\n"
