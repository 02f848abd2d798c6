"""Hooks of the documentation site: what stands outside of `docs/`, and the API reference.

Documents link to each other and to files of the repository by relative paths, as GitHub reads them. The README is the
site's first page. Any other file that a document links to becomes a part of the site, below `repository/`. A link to
nothing stays as it is, and the strict build refuses it. The reference has a page for each module of both packages.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
HOME, OUTSIDE, REFERENCE = "index.md", PurePosixPath("repository"), PurePosixPath("reference")
PACKAGES = {"scene_completion_ros": ROOT, "scene_completion_training": ROOT / "training"}  # and where they lie
SEARCH_WORKER, OWN_WORKER = "https://unpkg.com/iframe-worker/shim", "assets/iframe-worker.js"  # the theme's, and a copy
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")


def on_config(config: MkDocsConfig) -> None:
    """Add the reference to the navigation."""
    pages = {package: [str(REFERENCE / f"{name}.md") for name in rooms(package)] for package in PACKAGES}
    config.nav = [*(config.nav or []), {"API": [{package: names} for package, names in pages.items()]}]


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the README, what documents outside of `docs/` link to, and the reference."""
    files.append(File.generated(config, HOME, abs_src_path=str(ROOT / "README.md")))
    waiting = [ROOT / "README.md", *(Path(config.docs_dir)).glob("*.md")]
    while waiting:
        document = waiting.pop()
        for link in LINK.findall(document.read_text(encoding="utf-8")):
            linked = Path(os.path.normpath(document.parent / link))
            uri = site_uri(linked)
            if linked.is_file() and files.get_file_from_path(uri) is None:
                files.append(File.generated(config, uri, abs_src_path=str(linked)))
                waiting += [linked] if linked.suffix == ".md" else []
    for package in PACKAGES:
        for name in rooms(package):
            text = f"# {name.removeprefix(package + '.')}\n\n::: {name}\n"
            files.append(File.generated(config, str(REFERENCE / f"{name}.md"), content=text))


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Turn links between files of the repository into links between files of the site."""
    if page.file.src_uri.startswith(f"{REFERENCE}/") or not page.file.abs_src_path:
        return markdown
    here, there = Path(page.file.abs_src_path).parent, PurePosixPath(page.file.src_uri).parent

    def on_site(link: re.Match[str]) -> str:
        target = Path(os.path.normpath(here / link[1]))
        return os.path.relpath(site_uri(target), there) if target.is_file() else link[1]

    return LINK.sub(on_site, markdown)


def on_post_build(config: MkDocsConfig) -> None:
    """Have every page load the search's worker from the site itself."""
    for page in Path(config.site_dir).rglob("*.html"):
        worker = os.path.relpath(Path(config.site_dir) / OWN_WORKER, page.parent)
        page.write_text(page.read_text(encoding="utf-8").replace(SEARCH_WORKER, worker), encoding="utf-8")


def site_uri(path: Path) -> str:
    """Where a file of the repository lies on the site."""
    inside = PurePosixPath(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else PurePosixPath(path.name)
    if inside == PurePosixPath("README.md"):
        return HOME
    return str(inside.relative_to("docs") if inside.parts[0] == "docs" else OUTSIDE / inside)


def rooms(package: str) -> list[str]:
    """The modules and packages right below a package, by their Python names."""
    below = sorted((PACKAGES[package] / package).iterdir())
    names = [path.stem for path in below if path.suffix == ".py" or (path / "__init__.py").is_file()]
    return [f"{package}.{name}" for name in names if not name.startswith("_")]
