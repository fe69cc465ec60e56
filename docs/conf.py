"""How Sphinx builds these pages: `make docs`, offline, with warnings as errors."""

import ast
import inspect
import re
import sys
import typing
from contextlib import suppress
from pathlib import Path
from types import ModuleType

from sphinx.application import Sphinx
from sphinx.util.inspect import signature, stringify_signature
from sphinx.util.typing import stringify_annotation
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
html_css_files = ["frames.css", "reference.css"]

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
# Types are in the lists of parameters, which leaves signatures short.
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "inherited-members": False}
python_use_unqualified_type_names = True


def _import_for_types(module: ModuleType) -> None:
    """Import what a module imports for type checkers only. Sphinx needs it to resolve the module's types."""
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            with suppress(ImportError):  # a package of an extra
                exec(compile(ast.Module(node.body, []), str(module.__file__), "exec"), vars(module))


_import_for_types(nbruns)  # loads the other modules
for _module in [module for name, module in sys.modules.items() if name.startswith("nbruns.")]:
    _import_for_types(_module)


def _keep_colons(
    _app: Sphinx, what: str, _name: str, _object: object, _options: object, lines: list[str]
) -> None:
    """Napoleon takes words before a colon for a type in attributes and *Returns*. Here, annotations have the types."""
    if what in ("attribute", "property"):
        lines[:0] = ["..", ""]  # an empty comment: only the first line is searched
    if "Returns:" in lines:
        at = lines.index("Returns:")
        lines[at : at + 2] = [f":returns: {lines[at + 1].strip()}"]


def _mark_code(
    _app: Sphinx, _what: str, _name: str, _object: object, _options: object, lines: list[str]
) -> None:
    """Mark code as reST does. Docstrings are written for notebooks: text that is indented after an empty line is code,
    a drawn tree is too, and a word in backticks can have a plural s."""
    in_tree = re.compile(r"^(?=[├│└]|.*\n[├│└])", re.MULTILINE)
    lines[:] = in_tree.sub("    ", "\n".join(lines)).split("\n")
    code = False
    marked: list[str] = []
    for line in lines:
        indented = line.startswith("    ")
        if indented and not code and marked and not marked[-1]:
            marked += ["::", ""]
        code = indented or (code and not line)
        marked.append(line if code else re.sub(r"(`[^`]+`)(?=s\b)", r"\1\\ ", line))
    lines[:] = marked


def _class_signature(
    _app: Sphinx, what: str, _name: str, documented: type, _options: object, *_: str | None
) -> tuple[str, str] | None:
    """Leave out the constructors of classes that users don't create, and find those of widgets. Sphinx would show the
    signature of `HasTraits.__new__`, which takes anything."""
    if what not in ("class", "exception") or not inspect.isfunction(documented.__init__):
        return None
    if "Args:" not in (documented.__doc__ or ""):
        return "", ""
    if not issubclass(documented, HasTraits):
        return None
    init = signature(documented.__init__, bound_method=True)
    return stringify_signature(init, show_annotation=False, show_return_annotation=False), ""


def _constructor_types(
    app: Sphinx, what: str, name: str, documented: type, _options: object, _lines: list[str]
) -> None:
    """Resolve the types of a constructor. Sphinx resolves those of functions only."""
    annotations = app.env.current_document.autodoc_annotations.get(name)
    if what == "class" and annotations and inspect.isfunction(documented.__init__):
        hints = typing.get_type_hints(documented.__init__)
        annotations.update(
            {key: stringify_annotation(hints[key], "smart", short_literals=True) for key in annotations}
        )


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-signature", _class_signature)
    app.connect("autodoc-process-docstring", _keep_colons, priority=400)  # before napoleon
    app.connect("autodoc-process-docstring", _mark_code)
    app.connect("autodoc-process-docstring", _constructor_types)
