"""Gathers the pages of the documentation site: those of ``docs/``, the README, and whatever they link to.

    python -m tools.site_pages build/pages

Pages are written for the repository's own web page, where a link is a path in it. On the site, the README is the home
page; a Markdown file that lies elsewhere is a page, and any other file that is linked is a page that shows its text.
"""

from __future__ import annotations

import posixpath
import re
import shutil
import sys
from pathlib import Path

from lm_eval_moe.errors import UserError

__all__ = ["gather"]

ROOT = Path(__file__).resolve().parent.parent
HOME = "README.md"

_COPIED = ("docs/images/", "docs/site.css")
_LANGUAGES = {".py": "python", ".sh": "bash", ".yaml": "yaml", ".yml": "yaml"}
_LINK = re.compile(r"(^ *```.*?^ *```|`[^`\n]+`)|(\]\(|<img src=\")([^)#\s\"]+)", re.DOTALL | re.MULTILINE)
"""Code, in which nothing is a link; or what a link begins with, and the path that it names."""


def gather(folder: Path) -> None:
    """Write the pages into a folder, in place of what is in it.

    Raises:
        UserError: A page links to what is not in the repository.
    """
    shutil.rmtree(folder, ignore_errors=True)
    waiting = {HOME, "CHANGELOG.md", "CONTRIBUTING.md", "docs/site.css"}
    waiting |= {path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/*.md")}
    written: set[str] = set()
    while waiting:
        path = waiting.pop()
        written.add(path)
        target = folder / page_of(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.startswith(_COPIED):
            shutil.copy(ROOT / path, target)
            continue
        text = (ROOT / path).read_text(encoding="utf-8")
        if path.endswith(".md"):
            text, linked = _for_the_site(path, text)
            waiting |= linked - written
        else:
            text = f"# {path}\n\n````{_LANGUAGES.get(target.with_suffix('').suffix, 'text')}\n{text}````\n"
        target.write_text(text, encoding="utf-8")


def page_of(path: str) -> str:
    """Return where a file of the repository is on the site."""
    if path == HOME:
        return "index.md"
    if (path.startswith("docs/") and path.endswith(".md")) or path.startswith(_COPIED):
        return path.removeprefix("docs/")
    return f"repository/{path}" if path.endswith(".md") else f"repository/{path}.md"


def _for_the_site(path: str, text: str) -> tuple[str, set[str]]:
    """Return a page with links to pages of the site, and the files of the repository that it links to."""
    linked: set[str] = set()
    here = posixpath.dirname(page_of(path)) or "."

    def point(match: re.Match[str]) -> str:
        code, before, link = match.groups()
        if code or "://" in link:
            return match[0]
        file = posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
        if not (ROOT / file).is_file():
            raise UserError(f"there is no file {link}", fix="mend the link", where=path)
        linked.add(file)
        return before + posixpath.relpath(page_of(file), here)

    text = _LINK.sub(point, text)
    return text.replace("<details>", '<details markdown="1">'), linked


if __name__ == "__main__":
    gather(Path(sys.argv[1]))
