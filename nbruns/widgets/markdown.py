"""Render Markdown to safe HTML, block by block, including streaming text.

The text is split into top-level blocks, and each is rendered separately. A block is finished once a complete line below
it starts another block: later text can't change it, so it is rendered only once. Only the open block at the end is
rendered at each update. The split depends only on the text, not on the chunks in which it arrived, so a saved
transcript equals the live view.

The text is untrusted. HTML is escaped, images are links and never loaded, and links must be http(s) addresses with a
host, or mail addresses. The output is sanitized as well, and rendering time is bounded by the length of the text.
Formulas become MathML, which browsers render natively. Citations become links to footnotes, which the caller lists.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from html import escape
from itertools import islice, pairwise
from typing import Any
from urllib.parse import unquote
from xml.etree.ElementTree import tostring

import nh3
from latex2mathml.converter import convert_to_element
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_block import StateBlock
from markdown_it.rules_core import StateCore
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from markdown_it.utils import OptionsDict
from mdit_py_plugins.dollarmath import dollarmath_plugin

from nbruns.text import JSON
from nbruns.widgets.blocks import Block, repair_surrogates
from nbruns.widgets.highlight import GrowingMarks, coloured_html, lexer_for, marks

LINKS = frozenset({"http", "https", "mailto"})
#: Only addresses that every browser resolves to a host: `https:/x` is a path on the page's own server.
_LINK = re.compile(r"https?://[^/\\?#\s]|mailto:[^/\\\s]", re.IGNORECASE)
#: Maximum number of these markers per paragraph or cell; with more they are plain text. markdown-it scans to the end
#: for the closing partner of each.
MAX_MARKERS = {"[": 1_000, "~": 500}
#: Maximum length of a rendered formula; longer ones stay plain text.
MAX_FORMULA_LENGTH = 2_000
#: Above this length, an open block is rendered again only after it has grown by an eighth, so that the total cost is
#: at most nine times that of the last rendering.
THROTTLED_LENGTH = 2_000
#: Maximum length of a rendered block; longer ones are shown as plain text.
MAX_BLOCK_LENGTH = 200_000
#: Citation of a passage by file_search, such as 【4:0†guide.md】: call, result, and name of the file.
MARK = re.compile(r"【(\d{1,6}):(\d{1,6})(?:†([^】\n]{0,300}))?】")
#: Link to a file that code_interpreter has written: `[Download](sandbox:/mnt/data/a.csv)`.
_WRITTEN = re.compile(r"\]\((?P<path>sandbox:[^)\s]{1,1000})\)")
#: Maximum number of different footnotes of a text. Citations beyond it stay plain text.
MAX_FOOTNOTES = 200
MATH = {
    *(
        "math",
        "mrow",
        "mi",
        "mn",
        "mo",
        "ms",
        "mtext",
        "mspace",
        "mfrac",
        "msqrt",
        "mroot",
        "mstyle",
        "mpadded",
    ),
    *("mphantom", "menclose", "msub", "msup", "msubsup", "munder", "mover", "munderover", "mmultiscripts"),
    *("mtable", "mtr", "mtd", "merror"),
}
_MATH_ATTRIBUTES = {
    *(
        "display",
        "alttext",
        "mathvariant",
        "stretchy",
        "fence",
        "form",
        "separator",
        "accent",
        "accentunder",
        "lspace",
    ),
    *(
        "rspace",
        "minsize",
        "maxsize",
        "movablelimits",
        "largeop",
        "linethickness",
        "columnalign",
        "rowspacing",
    ),
    *(
        "columnspacing",
        "columnlines",
        "rowlines",
        "frame",
        "notation",
        "width",
        "height",
        "depth",
        "displaystyle",
    ),
    *("scriptlevel", "symmetric"),
}
TAGS = {
    *("p", "br", "hr", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "li", "blockquote", "pre", "code"),
    *("em", "strong", "s", "a", "span", "table", "thead", "tbody", "tr", "th", "td"),
    *MATH,
}
ATTRIBUTES = {
    **{tag: {"dir"} for tag in ("p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "blockquote", "table")},
    "a": {"href", "title", "target"},
    "span": {"class"},
    "pre": {"data-language"},
    "ol": {"dir", "start"},
    "th": {"style"},
    "td": {"style"},
    **dict.fromkeys(MATH, _MATH_ATTRIBUTES),
}

_BLANK_LINES = re.compile(r"(?:[ \t]*\n)+")
# Possessive quantifiers, so that a mismatch takes linear time.
_FENCE = re.compile(r"( {0,3})(?:(`{3,}+)([^`\n]*+)|(~{3,}+)([^\n]*+))\n")
# Markers at the end that may become a list, heading, rule, table, link or emphasis. They are hidden until complete, so
# that text does not flash as a heading, for example.
_HALF_SIGN = re.compile(
    r"(?:(?<=\n)|\A)[ \t]*(?:[-=*+#>|~`_:][-=*+#>|~`_: ]*|\d{1,9}[.)]?)[ \t]*\Z|[*_~`]+\Z"
)
_HALF_TABLE = re.compile(r"(?:(?<=\n\n)|\A)\|[^\n]*(?:\n[|: -]*)?\Z")
_HALF_LINK = re.compile(r"!?\[([^\]\n]*)\]\([^)\s]*\Z")
_HALF_MARK = re.compile(r"【[\d:]*(?:†[^】\n]{0,300})?\Z")
_HALF_FENCE = re.compile(r"(?:(?<=\n)|\A) {0,3}[`~]+[ \t]*\Z")
#: Line ends that markdown-it adds after these tags, which are not visible.
_LINE_AFTER_TAG = re.compile(r"(</?(?:p|h\d|[uo]l|li|blockquote|table|thead|tbody|tr|t[hd]|pre)\b[^>]*>)\n")
_EMPHASIS = (("`", re.compile(r"`(?!\s)")), ("**", re.compile(r"\*\*(?!\s)[^*]*\Z")))


_CLEANER = nh3.Cleaner(
    tags=TAGS,
    attributes=ATTRIBUTES,
    url_schemes=set(LINKS),
    link_rel="noopener noreferrer",
    filter_style_properties={"text-align"},
)


def sanitised(html: str) -> str:
    """Sanitize HTML: keep only the tags and attributes that Markdown needs."""
    return _CLEANER.clean(html)


def _highlighted(code: str, language: str, _attributes: str) -> str:
    return _pre(code, language)


def _pre(code: str, language: str) -> str:
    coloured = coloured_html(code, marks(code, lexer_for(language)))
    return f'<pre data-language="{escape(language)}"><code>{coloured}</code></pre>\n'


def _named_image(
    renderer: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, env: Any
) -> str:
    """Render a link to the image, because loading it would reveal the reader to a third party."""
    token, url = tokens[index], str(tokens[index].attrGet("src") or "")
    name = (renderer.renderInlineAsText(token.children, options, env) or url)[:200]
    links = [other.type for other in tokens[:index] if other.type in ("link_open", "link_close")]
    is_linked = links[-1:] == ["link_open"]  # the image is inside a link, and links can't be nested
    shown = escape(name) if is_linked or not is_link(url) else link_html(url, name)
    return f'<span class="nbruns-file">[image: {shown}]</span>'


def _link_open(
    renderer: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, env: Any
) -> str:
    if _is_sandbox(str(tokens[index].attrGet("href"))):
        return ""  # the footnote after it is the link
    tokens[index].attrSet("target", "_blank")
    return renderer.renderToken(tokens, index, options, env)


def _link_close(
    renderer: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, env: Any
) -> str:
    opened = next(token for token in reversed(tokens[:index]) if token.type == "link_open")
    href = str(opened.attrGet("href"))
    return _footnote_html(unquote(href), env) if _is_sandbox(href) else "</a>"


def is_link(url: str) -> bool:
    """Whether every browser resolves this to an address with a host, or to a mail address."""
    return bool(_LINK.match(url.strip()))


def _is_sandbox(url: str) -> bool:
    return url.startswith("sandbox:")


def cited_in(text: str) -> dict[str, int]:
    """Return the citations in a text, each once, with their numbers: 1, 2, … in order of appearance."""
    # Two searches, because each pattern begins with a literal: a combined search takes ten times as long.
    marks = [(mark.start(), mark[0]) for mark in MARK.finditer(text)]
    written = [(link.start(), link["path"]) for link in _WRITTEN.finditer(text)]
    cited = dict.fromkeys(citation for _, citation in sorted(marks + written))
    return {citation: number for number, citation in enumerate(islice(cited, MAX_FOOTNOTES), 1)}


def footnote_id(anchor: str, number: int) -> str:
    """Return the id of the element that a footnote links to. `anchor` identifies the text."""
    return f"nbruns-{re.sub(r'[^A-Za-z0-9]', '-', anchor)[:80]}-{number}"


def _mark(state: StateInline, silent: bool) -> bool:
    mark = MARK.match(state.src, state.pos)
    if mark is None or mark[0] not in state.env.get("footnotes", ()):
        return False
    if not silent:
        token = state.push("footnote", "", 0)
        token.content, token.meta = mark[0], {"linked": state.linkLevel == 0}
    state.pos = mark.end()
    return True


def _footnote(
    renderer: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, env: Any
) -> str:
    token = tokens[index]
    html = _footnote_html(token.content, env)
    return html if token.meta["linked"] else re.sub("<[^>]*>", "", html)


def _footnote_html(cited: str, env: Any) -> str:
    number = env.get("footnotes", {}).get(cited)
    return f'<a href="#{footnote_id(env["anchor"], number)}">[{number}]</a>' if number else ""


def link_html(url: str, text: str) -> str:
    """Return a link that opens in a new tab."""
    return sanitised(f'<a href="{escape(url)}" target="_blank">{escape(text)}</a>')


_REFERENCE = re.compile(r"&amp;(#x[0-9A-Fa-f]{2,6};)")


@lru_cache(maxsize=1024)
def math_html(formula: str, display: str) -> str:
    """Return a formula as MathML with its source as alternative text; as code if it can't be parsed."""
    source = escape(formula.strip())
    if len(formula) <= MAX_FORMULA_LENGTH:
        try:
            element = convert_to_element(formula, display=display)
            element.set("alttext", formula.strip())
            element.attrib.pop("xmlns", None)
            # The converter writes symbols as character references, which tostring() escapes again.
            return _REFERENCE.sub(r"&\1", tostring(element, encoding="unicode"))
        except Exception:  # the converter may fail on untrusted text; show the source
            pass
    return f"<code>{source}</code>"


def _math(renderer: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, env: Any) -> str:
    token = tokens[index]
    if token.block:
        return f"<p>{math_html(token.content, 'block')}</p>\n"
    return math_html(token.content, "block" if token.type.startswith("math_inline_double") else "inline")


def _brackets(state: StateInline, silent: bool) -> bool:
    r"""Formulas between `\(` and `\)`, and between `\[` and `\]`."""
    opening = state.src[state.pos : state.pos + 2]
    closing = {r"\(": r"\)", r"\[": r"\]"}.get(opening)
    end = -1 if closing is None else state.src.find(closing, state.pos + 2, state.pos + MAX_FORMULA_LENGTH)
    if end < 0:
        return False
    if not silent:
        kind = "math_inline" if closing == r"\)" else "math_inline_double"
        state.push(kind, "math", 0).content = state.src[state.pos + 2 : end]
    state.pos = end + 2
    return True


def _bracket_block(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    r"""A formula between a line that begins with `\[` and one that ends with `\]`."""
    begin = state.bMarks[start] + state.tShift[start]
    if not state.src.startswith(r"\[", begin) or state.is_code_block(start):
        return False
    for line in range(start, min(end, start + 100)):
        if state.src[state.bMarks[line] : state.eMarks[line]].rstrip().endswith(r"\]"):
            break
    else:
        return False
    if not silent:
        token = state.push("math_block", "math", 0)
        token.block, token.map = True, [start, line + 1]
        token.content = state.src[begin + 2 : state.eMarks[line]].rstrip().removesuffix(r"\]")
        state.line = line + 1
    return True


def _as_text_from(most: int, sign: str, rule: Callable[[StateInline, bool], bool]) -> Any:
    return lambda state, silent: state.src.count(sign) <= most and rule(state, silent)


def _directions(state: StateCore) -> None:
    """Set `dir="auto"` on top-level blocks if the text contains right-to-left letters."""
    for token in state.tokens if _RIGHT_TO_LEFT.search(state.src) else ():
        if token.level == 0 and token.nesting == 1:
            token.attrSet("dir", "auto")


def _tasks(state: StateCore) -> None:
    """Show `[ ]` and `[x]` at the start of a list item as checkboxes."""
    for before, token in pairwise(state.tokens):
        text = token.children[0] if token.type == "inline" and token.children else None
        in_item = before.type == "paragraph_open" and before.level > 0
        if text is not None and in_item and (box := _BOXES.get(text.content[:4].lower().rstrip() + " ")):
            text.content = box + text.content[4:] if text.content[3:4] == " " else text.content


#: Hebrew, Arabic and other right-to-left scripts.
_RIGHT_TO_LEFT = re.compile(
    "[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufeff\U00010800-\U00010fff\U0001e800-\U0001efff]"
)
_BOXES = {"[ ] ": "☐ ", "[x] ": "☑ "}


def _markdown() -> MarkdownIt:
    markdown = MarkdownIt("commonmark", {"html": False, "highlight": _highlighted, "linkify": True})
    markdown.enable(["table", "strikethrough", "linkify"])
    markdown.use(
        dollarmath_plugin, allow_labels=False, allow_space=False, allow_digits=False, double_inline=True
    )
    markdown.inline.ruler.before("escape", "brackets", _brackets)
    markdown.block.ruler.before(
        "fence", "brackets", _bracket_block, {"alt": ["paragraph", "blockquote", "list"]}
    )
    if markdown.linkify is not None:  # require a scheme, so that `python.py` and `me@here` are not links
        markdown.linkify.set({"fuzzy_link": False, "fuzzy_email": False, "fuzzy_ip": False})
    # The hook for link validation.
    markdown.validateLink = lambda url: is_link(url) or _is_sandbox(url)  # type: ignore[method-assign]
    markdown.inline.add_terminator_char("【")
    markdown.inline.ruler.before("escape", "mark", _mark)
    for name, sign in (("link", "["), ("image", "["), ("strikethrough", "~")):
        [rule] = [each.fn for each in markdown.inline.ruler.__rules__ if each.name == name]
        markdown.inline.ruler.at(name, _as_text_from(MAX_MARKERS[sign], sign, rule))
    markdown.core.ruler.push("directions", _directions)
    markdown.core.ruler.push("tasks", _tasks)
    markdown.add_render_rule("image", _named_image)
    markdown.add_render_rule("link_open", _link_open)
    markdown.add_render_rule("link_close", _link_close)
    markdown.add_render_rule("footnote", _footnote)
    for kind in ("math_inline", "math_inline_double", "math_block", "math_block_eqno"):
        markdown.add_render_rule(kind, _math)
    return markdown


_RENDER = _markdown()
_SPLIT = _markdown().disable("inline")  # top-level blocks only, which is several times faster


def markdown_html(text: str) -> str:
    """Return a complete text as HTML."""
    return "".join(block.to_html() for block in MarkdownBlocks("").update(text, complete=True))


class MarkdownBlocks:
    """The blocks of a streaming text. Keys consist of `prefix` and a number.

    With an `anchor`, an id of the text, citations become links to footnotes: see `cited_in` and `footnote_id`.
    """

    def __init__(self, prefix: str, anchor: str = "") -> None:
        self._prefix, self._anchor = prefix, anchor
        self._text = ""
        self._start = 0  # of the open block
        self._finished: list[Block] = []
        #: State for later blocks: "references" has the link definitions ([name]: url), "footnotes" the numbers.
        self._known: JSON = {"anchor": anchor}
        self._code: GrowingMarks | None = None
        #: The last rendering of the open block: start, length, blocks.
        self._shown: tuple[int, int, list[Block]] = (0, 0, [])

    def update(self, text: str, complete: bool = False) -> list[Block]:
        """Return the blocks of `text`. Finished blocks are the same objects as before."""
        text = repair_surrogates(text).removesuffix("\r").replace("\r\n", "\n").replace("\r", "\n")
        if not text.startswith(self._text):  # replaced instead of extended
            self.__init__(self._prefix, self._anchor)  # type: ignore[misc]  # start over
        self._text = text
        if self._anchor:
            self._known["footnotes"] = cited_in(text)
        size, (start, shown, blocks) = len(text) - self._start, self._shown
        if not complete and start == self._start and shown > THROTTLED_LENGTH and size < shown * 9 // 8:
            return self._finished + blocks
        while self._finish_some(complete):
            pass
        blocks = self._open()
        self._shown = self._start, len(text) - self._start, blocks
        return self._finished + blocks

    def _finish_some(self, complete: bool) -> bool:
        """Render blocks that can no longer change; return whether there were any."""
        if blank := _BLANK_LINES.match(self._text, self._start):
            self._start = blank.end()
        if fence := _FENCE.match(self._text, self._start):
            return self._finish_code(fence, complete)
        lines = self._text[self._start : None if complete else self._text.rfind("\n") + 1]
        cuts = self._cuts(lines) + ([len(lines)] if complete and lines else [])
        for begin, end in zip([0, *cuts], cuts, strict=False):
            self._finish(lines[begin:end])
        self._start += cuts[-1] if cuts else 0
        return bool(cuts)

    @staticmethod
    def _cuts(lines: str) -> list[int]:
        """Return the offsets of the second and later top-level blocks in `lines`."""
        tokens = _SPLIT.parse(lines)
        firsts = [token.map[0] for token in tokens if token.level == 0 and token.map and token.nesting >= 0]
        offsets = [0]
        for line in lines.split("\n"):
            offsets.append(offsets[-1] + len(line) + 1)
        return [offsets[first] for first in firsts[1:]]

    def _finish_code(self, fence: re.Match[str], complete: bool) -> bool:
        end = _closing(fence).search(self._text, fence.end())
        if end is None and not complete:
            return False
        code = self._text[fence.end() : end.start() if end else None]
        self._finished.append(self._code_block(fence, code, complete=True))
        self._start = end.end() if end else len(self._text)
        return True

    def _finish(self, markdown: str) -> None:
        if fence := _FENCE.match(markdown):
            end = _closing(fence).search(markdown, fence.end())
            code = markdown[fence.end() : end.start() if end else None]
            self._finished.append(self._code_block(fence, code, complete=True))
        elif html := self._html(markdown, self._known):
            self._finished.append(self._block("text", html))

    def _open(self) -> list[Block]:
        """Render unfinished blocks: the last one, and those above it that may still absorb its line.

        They already have their final keys, so that pages need no second update.
        """
        rest = self._text[self._start :]
        if fence := _FENCE.match(rest):
            code = _HALF_FENCE.sub("", rest[fence.end() :])
            return [self._code_block(fence, code, complete=False)]
        rest = _tidy(rest)
        cuts = [0, *self._cuts(rest), len(rest)]
        # A copy, so that incomplete link definitions are not kept.
        known = self._known | {"references": dict(self._known.get("references", {}))}
        htmls = [self._html(rest[begin:end], known) for begin, end in pairwise(cuts)]
        return [self._block("text", html, ahead=ahead) for ahead, html in enumerate(filter(None, htmls))]

    def _html(self, markdown: str, known: JSON) -> str:
        if len(markdown) > MAX_BLOCK_LENGTH:
            return f"<pre>{escape(markdown, quote=False)}</pre>"
        html = sanitised(_RENDER.render(markdown, known)).strip() if markdown.strip() else ""
        return _LINE_AFTER_TAG.sub(r"\1", html)

    def _code_block(self, fence: re.Match[str], code: str, complete: bool) -> Block:
        language = ((fence[3] or fence[5] or "").split() or [""])[0]
        code = re.sub(rf"^ {{1,{len(fence[1])}}}", "", code, flags=re.MULTILINE) if fence[1] else code
        code = code.removesuffix("\n")
        self._code = self._code or GrowingMarks(language)
        block = self._block("code", code, self._code.update(code, complete), language)
        if complete:
            self._code = None
        return block

    def _block(
        self, kind: str, content: str, marked: str = "", language: str = "", *, ahead: int = 0
    ) -> Block:
        return Block(f"{self._prefix}{len(self._finished) + ahead}", kind, content, marked, language)


def _closing(fence: re.Match[str]) -> re.Pattern[str]:
    sign = fence[2] or fence[4]
    return re.compile(rf"^ {{0,3}}{re.escape(sign[0])}{{{len(sign)},}}[ \t]*\n", re.MULTILINE)


def _tidy(markdown: str) -> str:
    """Guess the final form of an open block: drop incomplete markers, close emphasis and code."""
    shown = _HALF_MARK.sub("", markdown)
    shown = _HALF_LINK.sub(r"\1", _HALF_SIGN.sub("", _HALF_TABLE.sub("", shown)))
    last = shown.rpartition("\n\n")[2]
    if "```" in last or "~~~" in last:
        return shown
    for sign, opened in _EMPHASIS:
        if last.count(sign) % 2 and opened.search(last):
            return shown.rstrip() + sign
    return shown
