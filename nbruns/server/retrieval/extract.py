"""Extract the text of files with the package kreuzberg, and split it into passages. Runs in a separate process."""

from __future__ import annotations

import base64
import json
from pathlib import Path, PurePath

import numpy as np

from nbruns.errors import install_command
from nbruns.server.retrieval import words
from nbruns.server.retrieval.split import split
from nbruns.server.storage.blobs import FULL
from nbruns.text import JSON

#: Maximum number of characters of a file's text, about the 5,000,000 tokens of OpenAI's limit.
MAX_TEXT = 20_000_000
_TOO_LONG = f"The file has over {MAX_TEXT:,} characters of text. Split it."
#: Suffixes of text files (source code, markup and data), which need no parser.
_TEXTS = (
    "asm bash bat bib c cc cfg clj conf cpp cs css csv cts cxx dart diff ex go gradle graphql groovy h hpp hs ini java "
    "jl js json json5 jsonl jsx kt kts less lisp log lua m mjs md markdown mk ml mts patch php pl pm proto ps1 py pyi "
    "r rb rs rst sas sass scala scss sh sql srt svelte swift tcl tex text tf toml ts tsv tsx txt vb vtt vue xml "
    "yaml yml zig"
)
TEXTS = frozenset(_TEXTS.split())


#: Code for a lack of disk space. It is not an error code of the API.
NO_SPACE = "no_space"


class Unsupported(ValueError):
    """Files of this type have no text, or no parser supports them."""


class Invalid(ValueError):
    """The file is broken, protected, empty or too large."""


def extract(path: str, filename: str, target: str, chunk_tokens: int, overlap_tokens: int) -> JSON:
    """Write the pieces of a file to `target`, then its passages (first and last piece, words), as JSON lines. They
    aren't returned, because reading them at once could block the server.

    Returns the numbers of `pieces` and `passages`, or the `code` and `message` of the API's error for a file
    without text.
    """
    try:
        text = _text(Path(path), PurePath(filename).suffix.lower().removeprefix("."))
    except Unsupported as error:
        return {"code": "unsupported_file", "message": str(error)}
    except Invalid as error:
        return {"code": "invalid_file", "message": str(error)}
    try:
        return _written(text, Path(target), chunk_tokens, overlap_tokens)
    except OSError as error:
        if error.errno in FULL:
            return {"code": NO_SPACE, "message": str(error)}
        raise


def _written(text: str, target: Path, chunk_tokens: int, overlap_tokens: int) -> JSON:
    pieces, passages = split(text, chunk_tokens, overlap_tokens)
    numbers = [words.numbers(piece) for piece in pieces]
    with target.open("w") as file:
        file.writelines(json.dumps(piece) + "\n" for piece in pieces)
        for first, last in passages:
            said = words.packed(np.concatenate(numbers[first : last + 1]))
            file.write(json.dumps([first, last, base64.b64encode(said).decode()]) + "\n")
    return {"pieces": len(pieces), "passages": len(passages)}


def _text(path: Path, suffix: str) -> str:
    size = path.stat().st_size
    if size == 0:
        raise Invalid("The file is empty.")
    is_text = suffix in TEXTS or not suffix
    if is_text and size > 4 * MAX_TEXT:  # too large in any encoding
        raise Invalid(_TOO_LONG)
    text = _decoded(path.read_bytes()) if is_text else _parsed(path, suffix)
    # Databases can't store NUL characters and lone surrogates.
    text = text.replace("\0", " ").encode("utf-8", "replace").decode()
    if not text.strip():
        raise Invalid("No text was found in the file. Scanned pages and pictures are not read.")
    if len(text) > MAX_TEXT:
        raise Invalid(_TOO_LONG)
    return text


def _decoded(data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace")
    if data[:4096].count(0):
        raise Unsupported("The file is not text, and its name doesn't say what it is.")
    text = data.decode("utf-8-sig", "replace")
    # A few invalid characters don't mean another encoding: files can be truncated or concatenated.
    broken = text.count("\N{REPLACEMENT CHARACTER}")
    if broken and 10 * broken > len(data) - len(text):
        text = data.decode("cp1252", "replace")
    return text


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
    except (kreuzberg.KreuzbergError, OSError, RuntimeError):
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
