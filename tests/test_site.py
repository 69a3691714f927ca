"""The site has every page, and one for each architecture; what is made for it says what code and reports say."""

import functools
import http.server
import importlib.util
import math
import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading

import chromium
import keras
import numpy as np
import pytest

import keras_dl
from keras_dl.architectures import ARCHITECTURES
from keras_dl.export import Report, export, graph, snippet

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS))
import architecture_pages  # noqa: E402 - the folder holds scripts, not a package
import docstrings  # noqa: E402
import gallery_files  # noqa: E402
import reference_pages  # noqa: E402
import reports  # noqa: E402

CONFIG = DOCS / "site" / "mkdocs.yml"
PAGES = architecture_pages.texts()


def test_the_navigation_has_each_page():
    nav = CONFIG.read_text().partition("\nnav:\n")[2].partition("\nnot_in_nav:")[0]
    listed = re.findall(r"- (?:[^:\n]+: )?(\S+\.md)$", nav, re.MULTILINE)
    assert sorted(listed) == sorted([*(path.name for path in DOCS.glob("*.md")), "results/README.md"])
    assert {"architectures/", "reference/", "project/"} == set(re.findall(r": (\S+/)$", nav, re.MULTILINE))


def test_each_architecture_has_a_page():
    names = [architecture.name for architecture in ARCHITECTURES if architecture.classes]
    assert list(PAGES) == [f"docs/architectures/{name}.md" for name in ("README", *names)]
    _, *rooms = architecture_pages.navigation()
    listed = [path for room in rooms for entries in room.values() for entry in entries for path in entry.values()]
    assert sorted(listed) == sorted(f"architectures/{name}.md" for name in names)


HEADINGS = (
    "## Idea and equations",
    "## Paper",
    "## Use",
    "## Train",
    "## Results",
    "## Files and devices",
    "## Deviations from the paper",
)


@pytest.mark.parametrize("architecture", architecture_pages.BUILT, ids=lambda architecture: architecture.name)
def test_a_page_says_what_docstrings_recipe_and_reports_say(architecture):
    text = PAGES[architecture_pages.path(architecture)]
    code = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert tuple(re.findall(r"^## .*", text, re.MULTILINE)) == HEADINGS
    parts = dict(zip(HEADINGS, re.split(r"^## .*", text, flags=re.MULTILINE)[1:], strict=True))
    assert len(code) == len(architecture.classes)
    for module, names in architecture_pages.modules(architecture):
        first = module.__doc__.strip().splitlines()[0]
        assert first in parts["## Idea and equations"]
        assert all(f"### `keras_dl.{name}`" in parts["## Use"] for name in names)
        for deviation in re.findall(r"^- .*", module.__doc__.partition("\nDeviations")[2], re.MULTILINE):
            assert deviation in parts["## Deviations from the paper"]
    for fact in ("Paper", "Data", "Command", "Aim", "Baseline", "Reaches"):
        assert len(re.findall(rf"^\| {fact} \| \S.* \|$", parts["## Train"], re.MULTILINE)) == 1
    for run in reports.runs(architecture.recipe):
        assert f"{run.report['metric']} {reports.figure(run.report['value'])}" in parts["## Results"]
        assert run.report["baseline"] in parts["## Results"]
        assert all(f"{file['bytes']:,}" in parts["## Files and devices"] for file in run.files.values())


def test_links_of_made_pages_lead_to_files_and_made_pages():
    for path, text in PAGES.items():
        targets = re.findall(r"\]\((?!https://)([^)#]+)(?:#[^)]*)?\)", text)
        assert targets
        for target in targets:
            linked = (ROOT / path).parent.joinpath(target).resolve()
            assert linked.exists() or linked.relative_to(ROOT).as_posix() in PAGES, f"{path}: {target}"


def test_the_reference_has_each_module():
    """Of the folders that are imported as `keras_dl`."""
    texts = reference_pages.texts()
    entries = re.findall(r"^::: (\S+)$", "\n".join(texts.values()), re.MULTILINE)
    assert len(set(entries)) == len(entries)
    for folder in reference_pages.PLACES.values():
        for file in (ROOT / folder).rglob("*.py"):
            name = reference_pages.module(file.relative_to(ROOT).as_posix())
            assert name in entries or file.name in ("__init__.py", "__main__.py"), file
            assert importlib.util.find_spec(name), name
    assert reference_pages.module("docs/table.py") is None


DOCSTRING = """One line.

Lists:
- one
  more
- two

Call arguments:
    x: float.

Returns:
    float, of the same shape.

Example:

>>> f(
...     1)
1
"""
PAGE = """One line.

Lists:

- one
  more
- two

Other Args: Call arguments:
    x: float.

**Returns:** float, of the same shape.

Example:

```pycon
>>> f(
...     1)
1
```
"""


def test_docstrings_become_markdown():
    assert docstrings.markdown(DOCSTRING) == PAGE


def _small():
    return keras_dl.ResNet.from_preset("resnet20", num_blocks=(1, 1, 1))


def _open_shapes():
    images = keras.Input((None, None, 3), name="images")
    return export(keras.Model(images, keras.layers.GlobalAveragePooling2D()(images)), "open.tflite")


def _probabilities():
    model = keras_dl.LeNet5((28, 28, 1), 10)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(np.zeros((2, 28, 28, 1)), np.zeros(2), verbose=0)


def _pickle():
    pathlib.Path("x.pth").write_bytes(b"PK\x03\x04" + bytes(100))
    _small().load_torchvision("x.pth")


# What raises each error that the page quotes in full; `...` stands for what is left out.
RAISED = {
    "has the dynamic shape (1, None, None, 3). A file for a device has static shapes": _open_shapes,
    "images has the shape (2, 48, 48, 3); it must be (batch, 32, 32, 3).": lambda: _small()(np.zeros((2, 48, 48, 3))),
    "To give gray images, repeat their channel": lambda: _small()(np.zeros((2, 32, 32, 1))),
    "ResNet() got an unexpected keyword argument 'weights'.": lambda: keras_dl.ResNet(weights="imagenet"),
    "loss='sparse_categorical_crossentropy' takes probabilities, and LeNet5 returns logits": _probabilities,
    "data has missing or infinite values in columns [4], or no rows.": lambda: keras_dl.MLP(5, 2).adapt(
        np.array([[1, 2, 3, 4, np.nan]])
    ),
    "quantization='int8' needs calibration data, and 'classify' has none.": lambda: export(
        keras_dl.LeNet5((28, 28, 1), 10), "lenet.tflite", quantization="int8"
    ),
    "target='micro' needs quantization 'none' or 'int8' or 'int16x8'": lambda: export(
        keras_dl.LeNet5((28, 28, 1), 10), "lenet.tflite", quantization="float16", target="micro"
    ),
    "x.pth is a zip file.": _pickle,
    "images has values from 0 to 1, and the model takes raw pixels in [0, 255], which it scales itself.": None,
}


@pytest.mark.parametrize("message", RAISED)
def test_troubleshooting_quotes_what_is_raised(message, tmp_path, monkeypatch):
    assert message in (DOCS / "troubleshooting.md").read_text()
    monkeypatch.chdir(tmp_path)
    if RAISED[message] is None:  # a warning
        with pytest.warns(UserWarning, match=re.escape(message)):
            _small()(np.linspace(0, 1, 32 * 32 * 3).reshape(1, 32, 32, 3))
        return
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        RAISED[message]()


def _run(command, **options):
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, **options)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, with LiteRT.js where npm can bring it."""
    if not importlib.util.find_spec("mkdocstrings"):
        pytest.skip("the extra docs is not installed: make docs")
    _run(["make", "build/litert_js"])
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--config-file", str(CONFIG), "--site-dir", str(folder)]
    run = _run(command, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"})
    assert run.returncode == 0, run.stderr
    return folder


@pytest.mark.slow  # a minute of CPU: MkDocs reads all modules
def test_the_site_is_built_without_a_broken_link(site):
    resnet = (site / "architectures" / "resnet" / "index.html").read_text()
    assert 'href="../../reference/keras_dl.models.vision/#keras_dl.models.vision.resnet"' in resnet
    reference = (site / "reference" / "keras_dl.models.vision" / "index.html").read_text()
    assert 'id="keras_dl.models.vision.resnet.ResNet"' in reference
    for path in site.rglob("*.html"):
        html = re.sub(r"<pre.*?</pre>|<code.*?</code>", "", path.read_text(), flags=re.DOTALL)
        for left in (">>> ", "&gt;&gt;&gt; ", "build/package", "<autoref", "Call arguments:</p>"):
            assert left not in html, f"{path.relative_to(site)} has {left!r}"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    extensions_map = http.server.SimpleHTTPRequestHandler.extensions_map | {".wasm": "application/wasm"}

    def log_message(self, *_):
        """Nothing."""


@pytest.fixture(scope="module")
def address(site):
    """Of the site, on a server of this machine."""
    handler = functools.partial(_Quiet, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


# Strokes on a pad of 100 x 100.
ONE = [[(50, 15), (50, 85)]]
SEVEN = [[(25, 20), (75, 20), (45, 85)]]


@pytest.mark.slow  # it builds the site
def test_the_gallery_reads_a_digit_that_is_drawn(site, address, tmp_path):
    """In Chromium, with the mouse. The picture of the page is `gallery.png` in the folder of the test."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not installed")
    if not (site / "gallery" / "litert").exists():
        pytest.skip("LiteRT.js is not installed: npm could not bring it")
    with chromium.Chromium(program, tmp_path / "profile", size=(1400, 1100)) as browser:
        browser.call("Page.navigate", url=f"{address}/gallery/")
        browser.wait_for("document.getElementById('state')?.textContent.startsWith('The models ')")
        browser.wait_for("!document.getElementById('state').textContent.includes('are loading')")
        assert browser.evaluate("document.getElementById('state').textContent") == "The models are loaded."
        assert browser.evaluate("document.getElementById('count').textContent").startswith("500 points in ")
        pad = browser.evaluate("document.getElementById('pad').getBoundingClientRect().toJSON()")
        for strokes, digit in ((SEVEN, 7), (ONE, 1)):
            browser.evaluate("document.getElementById('clear').click()")
            for points in strokes:
                places = [(pad["x"] + x * pad["width"] / 100, pad["y"] + y * pad["height"] / 100) for x, y in points]
                browser.stroke(places)
            answer = "document.getElementById('answer').textContent"
            browser.wait_for(f"{answer}.startsWith('It is a {digit},')")
            assert browser.evaluate(answer).endswith(f"The TCN says {digit}.")
            assert browser.evaluate("document.querySelectorAll('#bars > div').length") == 10
        browser.screenshot(tmp_path / "gallery.png")


def test_the_gallery_has_the_code_of_its_files():
    files = sorted((DOCS / "gallery").glob("*.tflite"))
    assert [path.stem for path in files] == sorted(gallery_files.FILES)
    for path in files:
        name, text = snippet(path, "javascript")
        assert path.with_name(name).read_text() == text, f"run docs/gallery_files.py: {name} is another"
        report = Report.load(f"{path}.json")
        (row,) = re.findall(rf"^\| `{path.name}`.*", (DOCS / "gallery.md").read_text(), re.MULTILINE)
        assert f"| {report.bytes:,} |" in row
        assert f"| {report.metric['name']} {report.metric['artifact']:.3g} |" in row
    inputs = graph.read(DOCS / "gallery" / "tcn.tflite").signatures["step"].inputs
    page = (DOCS / "gallery" / "page.js").read_text()
    states = dict(re.findall(r"\b((?:first|second)_\d): (\d+ \* \d+)", page))
    assert ["features", *states] == sorted(inputs)  # the order in which the snippet takes them
    for name, size in states.items():
        assert math.prod(map(int, size.split(" * "))) == math.prod(inputs[name].shape)
