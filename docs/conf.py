"""How Sphinx makes the pages: ``make docs``.

What lives here: its settings. What does not: any page.
"""

from importlib.metadata import version as version_of

project = "smtpcore"
author = "The smtpcore authors"
release = version = version_of("smtpcore")

extensions = ["sphinx.ext.autodoc", "myst_parser"]
exclude_patterns = ["machine/tables.txt"]
myst_heading_anchors = 3

html_theme = "alabaster"
html_theme_options = {"description": "SMTP without I/O inside", "page_width": "1100px", "sidebar_width": "240px"}
html_show_copyright = False

add_module_names = False
python_use_unqualified_type_names = True
autodoc_default_options = {"members": True, "undoc-members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "signature"
