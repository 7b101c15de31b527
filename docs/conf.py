"""Sphinx settings of the documentation: `make docs`."""

from importlib.metadata import version as installed_version

from sphinx.ext.napoleon import Config, GoogleDocstring

project = "llm4sbr"
author = "the llm4sbr authors"
version = release = installed_version("llm4sbr")

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
default_role = "code"
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"

html_theme = "furo"
html_title = f"llm4sbr {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False


def setup(app):
    """Read docstrings in Google's style."""
    app.connect("autodoc-process-docstring", google)
    app.connect("autodoc-process-signature", without_placeholders)
    return {"parallel_read_safe": True}


def google(app, what, name, found, options, lines):
    """Arguments and errors of a docstring; the text of an attribute is left alone, colons and all."""
    if what not in ("attribute", "data"):
        style = Config(napoleon_use_rtype=False)
        lines[:] = GoogleDocstring(lines, style, app, what, name, found, options).lines()


def without_placeholders(app, what, name, found, options, signature, result):
    """Protocols are not made by calling them."""
    return ("", result) if signature == "(*args, **kwargs)" else None
