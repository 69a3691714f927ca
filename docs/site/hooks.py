"""What MkDocs does beside what mkdocs.yml says: pages that are made of the code and the reports, and links.

Pages link as files of the repository do, so that they work there, too. Here a link to a module leads to the reference.
"""

import logging
import pathlib
import posixpath
import re
import shutil
import sys

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "docs"))
import architecture_pages  # noqa: E402 - the folder holds scripts, not a package
import reference_pages  # noqa: E402

PACKAGE = ROOT / "build" / "package"
LITERT_JS = ROOT / "build" / "litert_js" / "node_modules" / "@litertjs"  # `make docs` installs it
# What the gallery needs of it, by its place in the site. Browsers without relaxed SIMD take the compatible build.
RUNTIME = {
    "core/dist/index.js": "core/index.js",
    "wasm-utils/dist/index.js": "wasm-utils/index.js",
    **{
        path: path.removeprefix("core/")
        for build in ("internal", "compat_internal")
        for path in (f"core/wasm/litert_wasm_{build}.js", f"core/wasm/litert_wasm_{build}.wasm")
    },
}
# The files above docs/ that are pages, each with its path in the site.
ABOVE = {
    "README.md": "project/README.md",
    "CONTRIBUTING.md": "project/CONTRIBUTING.md",
    "CHANGELOG.md": "project/CHANGELOG.md",
    "LICENSE": "project/LICENSE.md",
}
PLACES = {path: name for name, path in ABOVE.items()}

LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)(#[^)]*)?\)")


def on_startup(**_):
    """Lays the package out as it is imported, for mkdocstrings, which reads files."""
    shutil.rmtree(PACKAGE, ignore_errors=True)
    for package in reference_pages.PACKAGES:
        copy = PACKAGE / package.replace(".", "/")
        copy.mkdir(parents=True)
        for file in reference_pages.folder(package).glob("*.py"):
            shutil.copy(file, copy)


def on_config(config):
    """Fills the folders of the navigation."""
    folders = {
        "architectures/": architecture_pages.navigation(),
        "reference/": reference_pages.navigation(),
        "project/": list(ABOVE.values()),
    }
    for part in config.nav:
        ((title, entry),) = part.items()
        if isinstance(entry, str):
            part[title] = folders[entry]
    return config


def on_files(files, config):
    """Adds the pages that are made, and those above docs/."""
    for path, text in (architecture_pages.texts() | reference_pages.texts()).items():
        files.append(File.generated(config, path.removeprefix("docs/"), content=text))
    for name, path in ABOVE.items():
        text = (ROOT / name).read_text()
        files.append(File.generated(config, path, content=text if name.endswith(".md") else _plain(name, text)))
    if LITERT_JS.exists():
        for source, path in RUNTIME.items():
            files.append(File.generated(config, f"gallery/litert/{path}", abs_src_path=str(LITERT_JS / source)))
    else:
        logging.getLogger("mkdocs").info("%s is missing: the gallery shows that its models do not run.", LITERT_JS)
    return files


def on_page_content(html, **_):
    """The paths of sources as they are in the repository."""
    for name, folder in sorted(reference_pages.PLACES.items(), reverse=True):
        html = html.replace(f"build/package/{name.replace('.', '/')}/", f"{folder}/")
    return html


def _plain(name, text):
    """A text without Markdown as a page."""
    return f"# {name.capitalize()}\n\n```text\n{text}\n```\n"


def on_page_markdown(markdown, page, **_):
    """The links of the repository as links of the site."""
    path = page.file.src_uri
    if path in PLACES:  # Python-Markdown wants four spaces before a list in a list
        markdown = re.sub(r"^  - ", "    - ", markdown, flags=re.MULTILINE)
    place = PLACES.get(path, f"docs/{path}")
    return LINK.sub(lambda match: f"]{_target(place, path, *match.groups(''))}", markdown)


def _target(place, path, link, anchor):
    """Where a link of the page `path` of the site leads, which stands at `place` in the repository."""
    target = posixpath.normpath(posixpath.join(posixpath.dirname(place), link))
    module = reference_pages.module(target)
    if module:
        return f"[{module}]"
    target = ABOVE.get(target, target.removeprefix("docs/"))
    return f"({posixpath.relpath(target, posixpath.dirname(path) or '.')}{anchor})"
