"""The exported page: formulas drawn without a network, pictures with their words."""

import html
import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from ganutils._page import PageExporter

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def without_code(page):
    return re.sub(r"(?s)<(code|pre|style)\b.*?</\1>", "", page)


def test_a_page_has_everything_in_it(caplog):
    words = 'four <b> & "words" here'
    metadata = {"image/png": {"alt": words}}
    picture = new_output("display_data", {"image/png": "iVBO"}, metadata=metadata)
    text = r"The loss $D(x) < 1$ and $$\mathbb{E}\big[\log D(x)\big]$$ end."
    cells = [new_markdown_cell(text), new_code_cell("1", outputs=[picture])]
    page, _ = PageExporter().from_notebook_node(new_notebook(cells=cells))
    assert (page.count("<math"), page.count('display="block"')) == (2, 1)
    assert "$" not in without_code(page)
    assert re.findall("<img alt='(.*?)'", page) == [html.escape(words, quote=False)]
    assert "<script" not in page  # nor anything else that a browser would fetch
    assert not re.search(r"""(?:src|href)=["']?http|url\(["']?http|@import""", page)
    assert caplog.text == ""


def test_a_picture_stands_for_a_widget():
    data = {"application/vnd.jupyter.widget-view+json": {"model_id": "a"}, "image/png": "iVBO"}
    metadata = {"image/png": {"alt": "what the sliders start with"}}
    cell = new_code_cell("1", outputs=[new_output("display_data", data, metadata=metadata)])
    state = {"application/vnd.jupyter.widget-state+json": {"state": {}}}
    notebook = new_notebook(cells=[cell], metadata={"widgets": state})
    page, _ = PageExporter().from_notebook_node(notebook)
    assert re.findall('<img alt="(.*?)"', page) == ["what the sliders start with"]
    assert "widget-view" not in page and "unpkg" not in page


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_formula_of_the_course_becomes_mathml(path):
    cells = [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown"]
    page = "".join(PageExporter().markdown2html(source) for source in cells)  # or a LatexError
    assert "<math" in page and "$" not in without_code(page)
