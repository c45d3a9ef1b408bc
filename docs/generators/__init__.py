"""Parts of pages that are made from the code by the build: nothing that the code knows is typed again.

A page names a part in a line of its own, `<!-- made: errors -->`. `build` puts the part there while Sphinx
reads the page. The parts themselves are functions that give Markdown and need no Sphinx.
"""
