"""The documentation site: `python -m sphinx -W -b html docs OUT`. Needs the extra `docs`, and no network."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from reactor.version import __version__

project = "reactor"
author = copyright = "The reactor developers"
version = release = __version__
language = "en"

extensions = ["myst_parser", "sphinx.ext.autodoc", "docs.site"]
root_doc = "index"
# Generated pieces that other pages include, and the page that `life.md` has in full, with its picture.
exclude_patterns = ["tables", "lifecycle.md", "drawn", "coming-from/ports"]
nitpicky = True
# Names in signatures that have no page of their own.
nitpick_ignore_regex = [
    ("py:.*", r"(?!reactor\.).*"),
    ("py:.*", r"reactor\.(system|pollers|loop|tls|trace|buffers|lifecycle|options|timers|testing)\..*"),
]

myst_enable_extensions = ["colon_fence", "deflist", "attrs_inline"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True

html_theme = "furo"
html_title = f"reactor {__version__}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
pygments_style = "default"
pygments_dark_style = "github-dark"
