"""The page that `jupyter nbconvert --to page` makes: whole in itself, nothing is fetched.

nbconvert's own page drops the pictures' alternative texts, and fetches MathJax and require.js from
the network. Here formulas are MathML, which browsers draw by themselves.
"""

from math_core import LatexToMathML
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

_MATHML = LatexToMathML()


class _Renderer(IPythonRenderer):
    def inline_math(self, body):
        return _MATHML.convert_with_local_state(body, displaystyle=False)

    def block_math(self, body):
        return _MATHML.convert_with_local_state(body, displaystyle=True)


class PageExporter(HTMLExporter):
    """nbconvert's HTML page with alternative texts and formulas in it, for readers off line."""

    export_from_notebook = "Page"
    raw_template = """{%- extends 'index.html.j2' -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block jupyter_widgets -%}{%- endblock -%}
{%- block data_png -%}
<div class="jp-RenderedImage jp-OutputArea-output">
<img src="data:image/png;base64,{{ output.data['image/png'] }}"
{%- set alt = output | get_metadata('alt', 'image/png') -%}
{%- if alt %} alt="{{ alt | escape_html }}"{% endif -%}>
</div>
{%- endblock -%}"""

    @property
    def default_config(self):
        config = super().default_config  # a widget needs a kernel: its picture takes its place
        kinds = config.NbConvertBase.display_data_priority
        config.NbConvertBase.display_data_priority = [k for k in kinds if "widget" not in k]
        return config

    def markdown2html(self, source):
        return MarkdownWithMath(renderer=_Renderer(escape=False)).render(source)
