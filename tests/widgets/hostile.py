"""What people send who mean harm: for the page, for Markdown, for style sheets, for terminals and for readers."""

from __future__ import annotations

from typing import Any

from scripted import Told, call_json, needs, run_is, says, step_is

from nbruns.widgets import markdown

#: Where a request would go that leaves the machine; `alert` and `pwned` would show that a script ran.
AWAY = "http://evil.invalid"

#: Every element and attribute that a message's Markdown is made of.
MARKDOWN_TAGS = {
    *{"p", "br", "hr", "blockquote", "pre", "code", "div", "ul", "ol", "li"},
    *{f"h{level}" for level in range(1, 7)},
    *{"em", "strong", "s", "a", "span"},
    *{"table", "thead", "tbody", "tr", "th", "td"},
}
MARKDOWN_TAGS |= markdown.MATH
MARKDOWN_ATTRIBUTES = {"class", "dir", "href", "title", "target", "rel", "start", "style", "data-language"}
MARKDOWN_ATTRIBUTES |= markdown.ATTRIBUTES["math"]

PAYLOADS = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    f"<img src='{AWAY}/pixel.png'>",
    "<svg/onload=alert(1)><animate onbegin=alert(1) attributeName=x>",
    "<svg><style><img src=x onerror=alert(1)></style></svg>",
    "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=x onerror=alert(1)&gt;'>",
    "</div></div></pre></code></details><style>* { display: none !important }</style>",
    f"<style>@import '{AWAY}/x.css'; body {{ background: url({AWAY}/bg.png) }}</style>",
    f"<link rel=stylesheet href={AWAY}/x.css><base href={AWAY}/><meta http-equiv=refresh content='0;url={AWAY}'>",
    f"<iframe srcdoc='<script>parent.pwned=1</script>' src={AWAY}></iframe><object data={AWAY}></object>",
    "<input autofocus onfocus=alert(1)><details open ontoggle=alert(1)><summary>x</summary></details>",
    "<form action=javascript:alert(1)><button formaction=javascript:alert(1) autofocus>x</button></form>",
    "\"><script>alert(1)</script>' onmouseover='alert(1)' x=\"",
    "javascript:alert(1)//",
    "{{constructor.constructor('alert(1)')()}}${alert(1)}<%= alert(1) %>",
    "<ScRiPt\x0b>alert(1)</ScRiPt\x0b><a href='java\tscript:alert(1)'>x</a>",
    "&lt;script&gt;alert(1)&lt;/script&gt;&#60;img src=x onerror=alert(1)&#62;",
    "\x1b]0;pwned\x07\x1b[2J\x1b[31mred\x1b]8;;http://evil.invalid\x07link\x9b31m",
    "\u202egnp.exe\u2066\u2069\u200b\ufeff\u2028\u2029",
    "\x00\x01\ud83d\ufffe\uffff\U000e0001",
    "$$\\href{javascript:alert(1)}{x}$$ \\(\\class{x}{y}\\)",
)
#: And what Markdown makes links, images and blocks of.
MARKDOWN_PAYLOADS = (
    f"![x]({AWAY}/pixel.png) ![x](data:text/html,<script>alert(1)</script>) [![x]({AWAY}/a.png)]({AWAY})",
    "[x](javascript:alert(1)) [x](JaVaScRiPt:alert(1)) [x](&#106;avascript:alert(1)) [x](\x01javascript:alert(1))",
    "[x](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==) [x](vbscript:alert(1)) [x](file:///etc/passwd)",
    '<javascript:alert(1)> <http://a.invalid/"onmouseover=alert(1)>',
    "[x]: javascript:alert(1) 'onmouseover=alert(1)'\n\n[x] [y][x]",
    '[x](http://a.invalid "onmouseover=alert(1) \' > <img src=x onerror=alert(1)>")',
    '```"><script>alert(1)</script>\n</code></pre><script>alert(1)</script>\n```',
    "```html onload=alert(1)\n<script>alert(1)</script>\n```",
    "| <img src=x onerror=alert(1)> | b |\n|---|:-:|\n| </td></table><script>alert(1)</script> | x |",
    "# <style>*{display:none}</style>\n\n> <svg onload=alert(1)>\n\n- </ul><script>alert(1)</script>",
    "`<script>alert(1)</script>` ~~<b onmouseover=alert(1)>~~ **</strong><script>alert(1)</script>**",
    "<!-- --><![CDATA[<script>alert(1)</script>]]><?php alert(1) ?>",
)
EVIL = "\n".join(PAYLOADS)
EVIL_NAME = " ".join(PAYLOADS)


def hostile_run(ending: str = "failed") -> list[Told]:
    """The events of a run with hostile text in every field."""
    call = call_json(EVIL, id='c"><script>alert(1)</script>', name=EVIL_NAME)
    answered = {**call, "function": {**call["function"], "output": EVIL}}
    logs = {"type": "logs", "logs": EVIL}
    image = {"type": "image", "image": {"file_id": EVIL_NAME}}
    code = {
        "id": "k",
        "type": "code_interpreter",
        "code_interpreter": {"input": EVIL, "outputs": [logs, image]},
    }
    found = {"file_name": EVIL_NAME, "score": 0.5}
    passage = {**found, "file_id": EVIL_NAME, "content": [{"type": "text", "text": EVIL}]}
    searched = {"queries": [EVIL_NAME, EVIL], "results": [found, passage]}
    search = {"id": "s", "type": "file_search", "file_search": searched}
    odd = {"id": "o", "type": EVIL_NAME, EVIL_NAME: {EVIL_NAME: EVIL}}
    error = {"code": EVIL_NAME, "message": EVIL}
    fields: dict[str, Any] = {
        "model": EVIL_NAME,
        "metadata": {EVIL_NAME: EVIL},
        "assistant_id": EVIL_NAME,
        "instructions": EVIL,
        "last_error": error,
        "incomplete_details": {"reason": EVIL_NAME},
    }
    texts = [EVIL, *MARKDOWN_PAYLOADS, *PAYLOADS]
    messages = [event for n, text in enumerate(texts) for event in says(*text.partition("a"), id=f"m{n}")]
    annotation = {"type": "file_citation", "text": EVIL_NAME, "file_citation": {"file_id": EVIL_NAME}}
    mark = f"【0:1†{EVIL_NAME[:300]}】"
    marked = annotation | {"text": mark}
    content = [
        {"type": "image_file", "image_file": {"file_id": EVIL_NAME}},
        {"type": "image_url", "image_url": {"url": f"{AWAY}/image.png"}},
        {"type": "text", "text": {"value": f"cited{mark}", "annotations": [annotation, marked]}},
    ]
    cited = {"id": "cited", "object": "thread.message", "role": "assistant", "status": "completed"}
    return [
        run_is("in_progress", **fields),
        step_is("failed", answered, code, search, odd, last_error=error),
        *messages,
        ("thread.message.completed", {**cited, "content": content}),
        run_is(ending, **fields) if ending != "requires_action" else needs(call, **fields),
    ]
