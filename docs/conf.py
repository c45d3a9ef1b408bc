"""How the pages are built: `make docs`."""

import sys
from pathlib import Path

from sphinx.application import Sphinx

sys.path[:0] = [str(Path(__file__).parents[1])]

from docs.generators import build  # noqa: E402 - the line above is for this
from novita_async import __version__  # noqa: E402

project = "novita_async"
author = "The novita_async authors"
copyright = "the novita_async authors, MIT licence"  # noqa: A001 - as Sphinx calls it
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
exclude_patterns = ["_build"]
templates_path: list[str] = []

myst_enable_extensions = ["colon_fence", "deflist", "attrs_block", "attrs_inline"]
myst_heading_anchors = 4

add_module_names = False
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
python_maximum_signature_line_length = 100
suppress_warnings = ["ref.python"]  # a name that several modules have

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_title = f"novita_async {__version__}"
html_copy_source = False
html_show_sphinx = False
pygments_style = "friendly"
pygments_dark_style = "monokai"
copybutton_exclude = ".linenos, .gp"


def setup(app: Sphinx) -> None:
    """Let the parts of pages be made."""
    build.connect(app)
