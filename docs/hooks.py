"""What MkDocs does not know: pages made from files elsewhere, and links that lead out of docs/."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

DOCS = Path(__file__).parent
MADE = {"zoo.md": "model_zoo/README.md", "changelog.md": "CHANGELOG.md"}  # {page: file of the repository}
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that are made from files elsewhere, and leaves this one out."""
    for page, source in MADE.items():
        text = (DOCS.parent / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=_relinked(text, posixpath.dirname(source))))
    files.remove(files.get_file_from_path("hooks.py"))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links between pages stay; links to other files of the repository become their names."""
    return markdown if page.file.src_uri in MADE else _relinked(markdown, "docs")


def _relinked(text: str, folder: str) -> str:
    """A text of a file in `folder` of the repository, as a page of the site."""

    def link(match: re.Match[str]) -> str:
        image, words, target = match.groups()
        path, _, anchor = target.partition("#")
        if ":" in target or not path:
            return match.group()
        path = posixpath.normpath(posixpath.join(folder, path))
        made = {source: name for name, source in MADE.items()}
        page = made.get(path, path.removeprefix("docs/") if path.startswith("docs/") else None)
        if not (DOCS.parent / path).exists() or page is None:
            return match.group() if page is not None else words  # MkDocs says what is wrong with the first kind
        return f"{image}[{words}]({page}{'#' + anchor if anchor else ''})"

    parts = re.split(r"(^```.*?^```)", text, flags=re.MULTILINE | re.DOTALL)  # code stays as it is
    return "".join(part if part.startswith("```") else _LINK.sub(link, part) for part in parts)
