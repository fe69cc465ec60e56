"""Markdown to safe HTML, block by block, also while the text is still streaming.

The text is cut at its top-level blocks, each of which is rendered on its own. A block is finished as soon as
another one begins below it on a whole line: nothing that follows can change it, so it is rendered once and
never again. Only the open block at the end is rendered at each update. The cuts depend on the text alone,
not on the pieces in which it came: a saved transcript is what the live view showed.

The text is hostile. HTML in it is text; images are named, never loaded; links lead to addresses with a host and to
mail only; what comes out is sanitised all the same; and no text takes more time than its length allows. Formulas
become MathML, which pages set by themselves.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from html import escape
from itertools import pairwise
from typing import Any
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

from nbruns.widgets.blocks import Block, mended
from nbruns.widgets.highlight import GrowingMarks, coloured_html, lexer_for, marks

LINKS = frozenset({"http", "https", "mailto"})
#: Only what every browser takes for an address with a host: `https:/x` is a path on the page's own server.
_LINK = re.compile(r"https?://[^/\\?#\s]|mailto:[^/\\\s]", re.IGNORECASE)
#: From so many signs in one paragraph or cell on they are text: markdown-it looks for the partner of each, to the end.
MOST_SIGNS = {"[": 1_000, "~": 500}
#: Longer formulas stay text.
LONGEST_FORMULA = 2_000
#: An open block of more characters is rendered anew only when it has grown by an eighth, so that all its renderings
#: together take no more than nine times the last one.
LARGE = 2_000
#: A block of more characters is shown as it was written.
LARGEST = 200_000
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
# Possessive: what is no fence is found out in one pass.
_FENCE = re.compile(r"( {0,3})(?:(`{3,}+)([^`\n]*+)|(~{3,}+)([^\n]*+))\n")
# Signs at the end that may yet become a list, a heading, a rule, a table, a link or emphasis: shown once
# they have, so that nothing is a huge heading for the twinkling of an eye.
_HALF_SIGN = re.compile(
    r"(?:(?<=\n)|\A)[ \t]*(?:[-=*+#>|~`_:][-=*+#>|~`_: ]*|\d{1,9}[.)]?)[ \t]*\Z|[*_~`]+\Z"
)
_HALF_TABLE = re.compile(r"(?:(?<=\n\n)|\A)\|[^\n]*(?:\n[|: -]*)?\Z")
_HALF_LINK = re.compile(r"!?\[([^\]\n]*)\]\([^)\s]*\Z")
_HALF_FENCE = re.compile(r"(?:(?<=\n)|\A) {0,3}[`~]+[ \t]*\Z")
#: markdown-it ends a line after each of these; nobody sees that.
_LINE_AFTER_TAG = re.compile(r"(</?(?:p|h\d|[uo]l|li|blockquote|table|thead|tbody|tr|t[hd]|pre)\b[^>]*>)\n")
_EMPHASIS = (("`", re.compile(r"`(?!\s)")), ("**", re.compile(r"\*\*(?!\s)[^*]*\Z")))


def sanitised(html: str) -> str:
    """The HTML with everything taken out that Markdown has no need of."""
    return nh3.clean(
        html,
        tags=TAGS,
        attributes=ATTRIBUTES,
        url_schemes=set(LINKS),
        link_rel="noopener noreferrer",
        filter_style_properties={"text-align"},
    )


def _highlighted(code: str, language: str, _attributes: str) -> str:
    return _pre(code, language)


def _pre(code: str, language: str) -> str:
    coloured = coloured_html(code, marks(code, lexer_for(language)))
    return f'<pre data-language="{escape(language)}"><code>{coloured}</code></pre>\n'


def _named_image(
    renderer: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, env: Any
) -> str:
    """A placeholder in the image's place: to load it would tell a stranger who reads this, and when."""
    token = tokens[index]
    name = renderer.renderInlineAsText(token.children, options, env) or str(token.attrGet("src") or "")
    return f'<span class="nbruns-file">[image: {escape(name[:200])}]</span>'


def _outside_link(
    renderer: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, env: Any
) -> str:
    tokens[index].attrSet("target", "_blank")
    return renderer.renderToken(tokens, index, options, env)


def is_link(url: str) -> bool:
    """Tell whether this is an address with a host, or one of mail, to every browser."""
    return bool(_LINK.match(url.strip()))


def link_html(url: str, text: str) -> str:
    """A link to another page."""
    return sanitised(f'<a href="{escape(url)}" target="_blank">{escape(text)}</a>')


_REFERENCE = re.compile(r"&amp;(#x[0-9A-Fa-f]{2,6};)")


@lru_cache(maxsize=1024)
def math_html(formula: str, display: str) -> str:
    """A formula as MathML, whose alternative text is its source; as code, where it can't be read."""
    source = escape(formula.strip())
    if len(formula) <= LONGEST_FORMULA:
        try:
            element = convert_to_element(formula, display=display)
            element.set("alttext", formula.strip())
            element.attrib.pop("xmlns", None)
            # Signs are there as references to characters, in texts that may hold anything else, too.
            return _REFERENCE.sub(r"&\1", tostring(element, encoding="unicode"))
        except Exception:  # whatever a converter makes of text from anywhere: it is shown as it was written
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
    end = -1 if closing is None else state.src.find(closing, state.pos + 2, state.pos + LONGEST_FORMULA)
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
    """Let each block run in the direction of its first letters, where some run from right to left."""
    for token in state.tokens if _RIGHT_TO_LEFT.search(state.src) else ():
        if token.level == 0 and token.nesting == 1:
            token.attrSet("dir", "auto")


def _tasks(state: StateCore) -> None:
    """Show `[ ]` and `[x]` at the beginning of a list's item as boxes."""
    for before, token in pairwise(state.tokens):
        text = token.children[0] if token.type == "inline" and token.children else None
        in_item = before.type == "paragraph_open" and before.level > 0
        if text is not None and in_item and (box := _BOXES.get(text.content[:4].lower().rstrip() + " ")):
            text.content = box + text.content[4:] if text.content[3:4] == " " else text.content


#: Hebrew, Arabic and their relatives.
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
    if markdown.linkify is not None:  # with a scheme: `python.py` and `me@here` are no addresses
        markdown.linkify.set({"fuzzy_link": False, "fuzzy_email": False, "fuzzy_ip": False})
    markdown.validateLink = is_link  # type: ignore[method-assign]  # how markdown-it is told
    for name, sign in (("link", "["), ("image", "["), ("strikethrough", "~")):
        [rule] = [each.fn for each in markdown.inline.ruler.__rules__ if each.name == name]
        markdown.inline.ruler.at(name, _as_text_from(MOST_SIGNS[sign], sign, rule))
    markdown.core.ruler.push("directions", _directions)
    markdown.core.ruler.push("tasks", _tasks)
    markdown.add_render_rule("image", _named_image)
    markdown.add_render_rule("link_open", _outside_link)
    for kind in ("math_inline", "math_inline_double", "math_block", "math_block_eqno"):
        markdown.add_render_rule(kind, _math)
    return markdown


_RENDER = _markdown()
_SPLIT = _markdown().disable("inline")  # top-level blocks only: several times as fast


def markdown_html(text: str) -> str:
    """A whole text as HTML."""
    return "".join(block.to_html() for block in MarkdownBlocks("").update(text, complete=True))


class MarkdownBlocks:
    """The blocks of a text that grows. Keys are `prefix` and a number."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._text = ""
        self._start = 0  # of the open block
        self._finished: list[Block] = []
        self._references: dict[str, Any] = {}  # [name]: url, which later blocks may use
        self._code: GrowingMarks | None = None
        #: What was shown last of the open block: where it began, its length, its blocks.
        self._shown: tuple[int, int, list[Block]] = (0, 0, [])

    def update(self, text: str, complete: bool = False) -> list[Block]:
        """The blocks of `text`: the finished ones are the same objects as last time."""
        text = mended(text).removesuffix("\r").replace("\r\n", "\n").replace("\r", "\n")
        if not text.startswith(self._text):  # not grown but rewritten
            self.__init__(self._prefix)  # type: ignore[misc]  # from the start
        self._text = text
        size, (start, shown, blocks) = len(text) - self._start, self._shown
        if not complete and start == self._start and shown > LARGE and size < shown * 9 // 8:
            return self._finished + blocks
        while self._finish_some(complete):
            pass
        blocks = self._open()
        self._shown = self._start, len(text) - self._start, blocks
        return self._finished + blocks

    def _finish_some(self, complete: bool) -> bool:
        """Render blocks that can't change any more, once; whether there were any."""
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
        """Where the second and every later top-level block of `lines` begins."""
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
        elif html := self._html(markdown, self._references):
            self._finished.append(self._block("text", html))

    def _open(self) -> list[Block]:
        """What is not finished: the last block, and those above it that its line may yet belong to. Each has
        the key already that it will have, so that a page need not hear of it twice."""
        rest = self._text[self._start :]
        if fence := _FENCE.match(rest):
            code = _HALF_FENCE.sub("", rest[fence.end() :])
            return [self._code_block(fence, code, complete=False)]
        rest = _tidy(rest)
        cuts = [0, *self._cuts(rest), len(rest)]
        # A copy: half a link definition must not stay.
        known = {"references": dict(self._references.get("references", {}))}
        htmls = [self._html(rest[begin:end], known) for begin, end in pairwise(cuts)]
        return [self._block("text", html, ahead=ahead) for ahead, html in enumerate(filter(None, htmls))]

    def _html(self, markdown: str, references: dict[str, Any]) -> str:
        if len(markdown) > LARGEST:
            return f"<pre>{escape(markdown, quote=False)}</pre>"
        html = sanitised(_RENDER.render(markdown, references)).strip() if markdown.strip() else ""
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
    """An open block as it will most likely look: half signs left out, emphasis and code closed."""
    shown = _HALF_LINK.sub(r"\1", _HALF_SIGN.sub("", _HALF_TABLE.sub("", markdown)))
    last = shown.rpartition("\n\n")[2]
    if "```" in last or "~~~" in last:
        return shown
    for sign, opened in _EMPHASIS:
        if last.count(sign) % 2 and opened.search(last):
            return shown.rstrip() + sign
    return shown
