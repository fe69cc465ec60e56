"""How Sphinx builds these pages: `make docs`, offline, with warnings as errors."""

import re
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util.inspect import signature, stringify_signature
from traitlets import HasTraits

import nbruns

project = "nbruns"
author = "the nbruns developers"
version = release = nbruns.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
# Of the notebooks, only those that the index names: people keep their own beside them.
_NAMED = re.findall(r"^notebooks/\w+$", (Path(__file__).parent / "index.md").read_text(), re.MULTILINE)
include_patterns = ["*.md", "how-to/*.md", "reference/*.md", *(f"{name}.ipynb" for name in _NAMED)]
exclude_patterns = ["_build"]
templates_path: list[str] = []

html_theme = "furo"
html_title = "nbruns"
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["frames.css"]

# The notebooks are run by the tests; here their stored outputs are shown.
nb_execution_mode = "off"
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# Commands are copied without their prompt, and without what they print. Outputs of notebooks have no button.
copybutton_prompt_text = "$ "
copybutton_line_continuation_character = "\\"
copybutton_copy_empty_lines = False
copybutton_selector = "div.highlight:not(.cell_output *) > pre"

# A docstring's `word` is code, and a link where it names something that is documented.
default_role = "py:obj"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "inherited-members": False}
python_use_unqualified_type_names = True


def _mark_code(
    _app: Sphinx, _what: str, _name: str, _object: object, _options: object, lines: list[str]
) -> None:
    """Docstrings are written to be read in a notebook: what is indented after an empty line is code, and a word
    in backticks may take an s."""
    code = False
    marked: list[str] = []
    for line in lines:
        indented = line.startswith("    ")
        if indented and not code and marked and not marked[-1]:
            marked += ["::", ""]
        code = indented or (code and not line)
        marked.append(line if code else re.sub(r"(`[^`]+`)(?=s\b)", r"\1\\ ", line))
    lines[:] = marked


def _init_signature(
    _app: Sphinx, what: str, _name: str, documented: type, _options: object, *_: str | None
) -> tuple[str, str] | None:
    """How a widget is made; Sphinx would ask the `__new__` of traitlets, which takes anything."""
    if what != "class" or not issubclass(documented, HasTraits):
        return None
    init = signature(documented.__init__, bound_method=True)
    return stringify_signature(init, show_return_annotation=False, unqualified_typehints=True), ""


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-signature", _init_signature)
    app.connect("autodoc-process-docstring", _mark_code)
