"""The documents as a site: `make docs`."""

from __future__ import annotations

from fedcowpro import __version__

project, author, release = "FedCoWPro", "The FedCoWPro maintainers", __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["results"]
html_theme = "furo"
html_title = f"FedCoWPro {release}"
myst_heading_anchors = 4
myst_enable_extensions = ["dollarmath"]
autodoc_typehints = "description"
autodoc_member_order = "bysource"
