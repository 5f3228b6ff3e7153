"""Slides of a lesson: one HTML file beside it, which needs no network.

    pip install --no-deps --target build sphinx-revealjs==3.2.1
    python notebooks/teaching/slides.py 3

writes notebooks/03_dcgan.slides.html. The first line brings reveal.js, as a part of that package.
Which cells are slides stands in the lesson, in their metadata. Code that draws a picture is left
out; the picture is not.
"""

import argparse
from pathlib import Path

from nbconvert.exporters import SlidesExporter

from ganutils._page import PageExporter

COURSE = Path(__file__).parents[2]
STYLE = """
html, body, main { height: 100%; }
:root { --jp-content-font-size1: 23px; --jp-code-font-size: 20px; }
.reveal .slides { text-align: left; }
.reveal .slides section { padding: 0; }
.reveal :is(h1, h2, h3) { margin: 0 0 0.5em; }
.reveal :is(p, li) { line-height: 1.4; }
.reveal table { font-size: 20px; margin: 0.5em 0; }
.reveal img { display: block; margin: 0 auto; max-width: 100%; max-height: 560px; }
.jp-Cell { padding: 0 0 0.3em; }
.jp-InputPrompt, .jp-OutputPrompt, .anchor-link { display: none !important; }
.jp-RenderedMarkdown:has(> #Five-quick-questions) { columns: 2; }
.jp-RenderedMarkdown:has(> #Five-quick-questions) ul { break-before: avoid; break-inside: avoid; }
"""


class LessonSlides(PageExporter, SlidesExporter):
    """nbconvert's slides, with formulas, pictures' words and reveal.js in the file."""

    raw_template = f"""{PageExporter.raw_template}
{{%- block header -%}}
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{{{{ resources.metadata.name }}}}</title>
<style>{{{{ resources.reveal_css }}}}</style>
<style>{{{{ resources.inlining.css | join }}}}</style>
{{{{ resources.include_css("static/index.css") }}}}
{{{{ resources.include_css("static/theme-light.css") }}}}
<style>{STYLE}</style>
</head>
{{%- endblock -%}}
{{%- block input_group -%}}
{{%- if not cell.outputs | selectattr("data", "defined") | list %}}{{{{ super() }}}}{{% endif -%}}
{{%- endblock -%}}
{{%- block footer_js -%}}
<script>{{{{ resources.reveal_js }}}}</script>
<script>
Reveal.initialize({{
  width: 1600, height: 900, center: false, controls: false, hash: true, slideNumber: "c/t",
}});
function fit() {{
  const page = Reveal.getCurrentSlide(), high = 880 * Reveal.getScale();
  for (let zoom = 1; zoom > 0.6 && page.getBoundingClientRect().height > high; zoom -= 0.02) {{
    page.style.zoom = zoom;
  }}
}}
Reveal.on("ready", fit);
Reveal.on("slidechanged", fit);
</script>
{{%- endblock -%}}"""


def main(arguments=None):
    """Write the slides of a lesson, from the command line."""
    parser = argparse.ArgumentParser(description="Slides of a lesson, as one HTML file beside it.")
    parser.add_argument("number", type=int, help="of the lesson, such as 3")
    number = parser.parse_args(arguments).number
    lessons = sorted((COURSE / "notebooks").glob(f"{number:02d}_*.ipynb"))
    found = sorted((COURSE / "build").glob("**/dist/reveal.js"))
    if not lessons:
        parser.error(f"there is no lesson {number}")
    if not found:
        parser.error("there is no reveal.js in build/; the guide has the command that brings it")
    resources = {
        "reveal_js": found[0].read_text(encoding="utf-8"),
        "reveal_css": found[0].with_suffix(".css").read_text(encoding="utf-8"),
    }
    page, _ = LessonSlides().from_filename(str(lessons[0]), resources=resources)
    path = lessons[0].with_suffix(".slides.html")
    path.write_text(page, encoding="utf-8")
    print(f"written: {path.relative_to(COURSE)}")


if __name__ == "__main__":
    main()
