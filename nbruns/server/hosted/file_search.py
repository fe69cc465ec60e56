"""`file_search`: the model searches the vector stores of the assistant and the thread.

The model writes queries. It gets the best passages, each with a mark such as 【0:1†guide.md】, and repeats the marks of
those that it uses. They become the `file_citation` annotations of the message.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from nbruns.server.hosted.protocol import Context, HostedTool, Result, ToolSchema
from nbruns.text import JSON, excerpt

#: Number of results for the model, as in OpenAI's API, and for small models with a short context.
RESULTS, FEW_RESULTS = 20, 2
MAX_RESULTS = 50
#: Maximum number of queries of a call, and of characters of a query.
MAX_QUERIES, MAX_QUERY = 5, 1000
#: Maximum number of characters of the quote in a citation.
MAX_QUOTE = 300
RANKING: JSON = {"ranker": "default_2024_08_21", "score_threshold": 0.0, "hybrid_search": None}
#: Notes about attachments in a prompt, each on its own line.
_ATTACHED = re.compile(r"\n?\[attached file [^\n]*\]")
_MARK = re.compile(r"【(\d{1,6}):(\d{1,6})(?:†[^】]{0,300})?】")


class HybridSearch(ToolSchema):
    """Weights of similar meaning and of equal words."""

    embedding_weight: Annotated[float, Field(ge=0, le=100)]
    text_weight: Annotated[float, Field(ge=0, le=100)]


class RankingOptions(ToolSchema):
    ranker: Literal["none", "auto", "default-2024-11-15", "default_2024_08_21", "default-2024-08-21"] = "auto"
    score_threshold: Annotated[float, Field(ge=0, le=1)] = 0.0
    hybrid_search: HybridSearch | None = None


class FileSearchSettings(ToolSchema):
    max_num_results: Annotated[int, Field(ge=1, le=MAX_RESULTS)] | None = None
    ranking_options: RankingOptions | None = None


class FileSearchTool(ToolSchema):
    type: Literal["file_search"]
    file_search: FileSearchSettings | None = None


class FileSearch(HostedTool):
    """The tool."""

    schema = FileSearchTool

    def complete(self, tool: JSON) -> JSON:
        """Return an entry of `tools` with the defaults filled in."""
        settings = tool.get("file_search") or {}
        ranking = RANKING | (settings.get("ranking_options") or {})
        return {"type": "file_search", "file_search": {**settings, "ranking_options": ranking}}

    def declare(self, tool: JSON, files: Sequence[str]) -> JSON:
        return {
            "name": "file_search",
            "description": (
                "Search the files that the user has given. Returns passages, each after a mark such as "
                "【0:1†guide.md】. In your answer, repeat the mark of each passage that you use right behind what you "
                "take from it."
            ),
            "parameters": {
                "type": "object",
                "properties": {
                    "queries": {
                        "type": "array",
                        "items": {"type": "string"},
                        "minItems": 1,
                        "maxItems": MAX_QUERIES,
                        "description": "What to search for, in the words of the files",
                    }
                },
                "required": ["queries"],
            },
        }

    def ask(self, question: str) -> str:
        """Return arguments that search for the question itself. Models that can't call tools are small, so they get few
        passages.
        """
        words = _ATTACHED.sub("", question)[:MAX_QUERY]
        return json.dumps({"queries": [words or question[:MAX_QUERY]], "limit": FEW_RESULTS})

    def describe(self, arguments: str) -> JSON:
        return {}

    async def run(self, run: JSON, arguments: str, context: Context) -> Result:
        settings = next(
            (tool.get("file_search") or {} for tool in run["tools"] if tool["type"] == "file_search"), {}
        )
        ranking = settings.get("ranking_options") or RANKING
        shown = {name: ranking.get(name) for name in ("ranker", "score_threshold")}
        queries = _queries(arguments)
        if not queries:
            return Result(
                'Pass {"queries": [...]}, a list of texts to search for.',
                {"ranking_options": shown, "results": []},
            )
        try:
            limit = settings.get("max_num_results") or RESULTS
            found = await context.search(queries, min(limit, _limit(arguments)), ranking)
        except ValueError as error:
            return Result(
                f"The files could not be searched: {error}", {"ranking_options": shown, "results": []}
            )
        results = [
            {
                "file_id": each.file_id,
                "file_name": each.filename,
                "score": each.score,
                "attributes": each.attributes,
                "content": [{"type": "text", "text": each.text}],
            }
            for each in found
        ]
        # An extension of OpenAI's API: the queries.
        return Result(
            _output(results, context.number),
            {"queries": queries, "ranking_options": shown, "results": results},
        )

    def cite(self, text: str, details: Sequence[JSON], paths: Mapping[str, str]) -> list[JSON]:
        """Return the citations of a message, for the marks that refer to a result."""
        return list(_citations(text, details))

    def without_content(self, details: JSON) -> JSON:
        """Return the details without the content of the results."""
        bare = [
            {name: value for name, value in each.items() if name != "content"}
            for each in details.get("results", [])
        ]
        return {**details, "results": bare} if "results" in details else details


def _queries(arguments: str) -> list[str]:
    """Return the queries of a call. Small models don't always follow the declaration."""
    try:
        given: Any = json.loads(arguments)
    except (ValueError, RecursionError):
        given = {"queries": [arguments]}
    if isinstance(given, Mapping):
        given = (
            given.get("queries")
            or given.get("query")
            or [each for each in given.values() if isinstance(each, str)]
        )
    listed = [given] if isinstance(given, str) else given if isinstance(given, list) else []
    texts = [text[:MAX_QUERY] for text in listed if isinstance(text, str) and text.strip()]
    return list(dict.fromkeys(texts))[:MAX_QUERIES]


def _limit(arguments: str) -> int:
    """Return the number of results that the arguments of `ask` request."""
    try:
        limit = json.loads(arguments).get("limit")
    except (ValueError, RecursionError, AttributeError):
        limit = None
    return limit if isinstance(limit, int) and 0 < limit < MAX_RESULTS else MAX_RESULTS


def _output(results: Sequence[JSON], number: int) -> str:
    if not results:
        return "Nothing was found in the files."
    parts = []
    for at, each in enumerate(results):
        name = re.sub(r"[【】†]", " ", excerpt(each["file_name"], 100))
        # Replace the brackets of citation marks, so that a passage can't contain false citations.
        text = each["content"][0]["text"].replace("【", "[").replace("】", "]")
        parts.append(f"【{number}:{at}†{name}】\n{text}")
    return "\n\n".join(parts)


def _citations(text: str, details: Sequence[JSON]) -> Iterator[JSON]:
    for mark in _MARK.finditer(text):
        call, at = int(mark[1]), int(mark[2])
        results = details[call].get("results", []) if call < len(details) else []
        if at < len(results):
            yield {
                "type": "file_citation",
                "text": mark[0],
                "start_index": mark.start(),
                "end_index": mark.end(),
                # The current API description has a quote in message deltas, but not in messages. Older clients and
                # programs read it.
                "file_citation": {
                    "file_id": results[at]["file_id"],
                    "quote": excerpt(results[at]["content"][0]["text"], MAX_QUOTE),
                },
            }
