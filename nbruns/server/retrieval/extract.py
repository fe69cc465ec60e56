"""Files -> their text, by the package kreuzberg -> passages. It runs in a process of its own, which can be killed."""

from __future__ import annotations

import json
from pathlib import Path, PurePath

from nbruns.errors import install_command
from nbruns.server.retrieval.split import split
from nbruns.text import JSON

#: More text than this is not indexed, in characters: about the original's 5,000,000 tokens.
MAX_TEXT = 20_000_000
#: Files that are text as they are: source code, markup and data. Reading them needs no parser.
_TEXTS = (
    "asm bash bat bib c cc cfg clj conf cpp cs css csv cts cxx dart diff ex go gradle graphql groovy h hpp hs ini java "
    "jl js json json5 jsonl jsx kt kts less lisp log lua m mjs md markdown mk ml mts patch php pl pm proto ps1 py pyi "
    "r rb rs rst sas sass scala scss sh sql srt svelte swift tcl tex text tf toml ts tsv tsx txt vb vtt vue xml "
    "yaml yml zig"
)
TEXTS = frozenset(_TEXTS.split())


class Unsupported(ValueError):
    """There is no text in files of this type, or nothing that finds it."""


class Invalid(ValueError):
    """The file is broken, protected, empty or too large."""


def extract(path: str, filename: str, target: str, chunk_tokens: int, overlap_tokens: int) -> JSON:
    """Write the pieces and the passages of a file to `target`, as lines of JSON: they can be larger than what is read
    at once without halting others.

    Returns their numbers as `pieces` and `passages`, or the `code` and `message` of the API's error for a file that has
    no text.
    """
    try:
        text = _text(Path(path), PurePath(filename).suffix.lower().removeprefix("."))
    except Unsupported as error:
        return {"code": "unsupported_file", "message": str(error)}
    except Invalid as error:
        return {"code": "invalid_file", "message": str(error)}
    pieces, passages = split(text, chunk_tokens, overlap_tokens)
    with open(target, "w") as file:
        file.writelines(json.dumps(each) + "\n" for each in pieces)
        file.writelines(json.dumps(each) + "\n" for each in passages)
    return {"pieces": len(pieces), "passages": len(passages)}


def _text(path: Path, suffix: str) -> str:
    if path.stat().st_size == 0:
        raise Invalid("The file is empty.")
    text = _decoded(path.read_bytes()) if suffix in TEXTS or not suffix else _parsed(path, suffix)
    # Databases store no NUL, and no halves of characters.
    text = text.replace("\0", " ").encode("utf-8", "replace").decode()
    if not text.strip():
        raise Invalid("No text was found in the file. Scanned pages and pictures are not read.")
    if len(text) > MAX_TEXT:
        raise Invalid(f"The file has over {MAX_TEXT:,} characters of text. Split it.")
    return text


def _decoded(data: bytes) -> str:
    if data[:4096].count(0) and not data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise Unsupported("The file is not text, and its name doesn't say what it is.")
    for encoding in ("utf-8-sig", "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "cp1252"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1")


def _parsed(path: Path, suffix: str) -> str:
    try:
        import kreuzberg
    except ImportError:
        raise Unsupported(
            f"Files of the type .{suffix} are read by the package kreuzberg, which is missing: "
            f"{install_command('files')}"
        ) from None
    try:
        kind = kreuzberg.detect_mime_type_from_path(path)
    except (kreuzberg.KreuzbergError, OSError):
        kind = ""
    if not kind or kind.startswith(("image/", "audio/", "video/")):
        raise Unsupported(f"Files of the type .{suffix} are not supported.")
    config = kreuzberg.ExtractionConfig(use_cache=False)
    try:
        found = kreuzberg.extract_file_sync(path, kind, config)
    except kreuzberg.ValidationError as error:
        raise Unsupported(f"Files of the type .{suffix} are not supported: {error}") from error
    except (kreuzberg.KreuzbergError, OSError, RuntimeError) as error:
        why = "It is protected by a password." if "password" in str(error).lower() else str(error)
        raise Invalid(f"The file can't be read: {why}"[:500]) from error
    return str(found.content)
