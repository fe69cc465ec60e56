"""Markdown: safe HTML, the same in whichever pieces it came, finished blocks rendered once."""

from __future__ import annotations

import random
import re

import pytest
from hostile import MARKDOWN_ATTRIBUTES, MARKDOWN_TAGS

from nbruns.widgets import markdown
from nbruns.widgets.highlight import REDRAWN_LENGTH, coloured_html, lexer_for, marks
from nbruns.widgets.markdown import MarkdownBlocks, markdown_html

TEXT = '''# Title
Hello **bold** and `code` with [a link](https://example.com/x?y=1 "title") and <b>html</b>.

- one
- two
  - nested

  ```py
  x = 1
  ```
1. first
2. second

| a | b |
|---|--:|
| 1 | 2 |

```python
def f(x: int) -> str:
    """Doc"""
    return "😀" + str(x)  # comment
```
[ref] before

[ref]: https://ref.example
Setext [ref]
---
> quote

* x
* * *
   ~~~~js
   let a = "😀";
   ~~~
   ~~~~
    indented code

~~gone~~ tail *x*
```
never closed
'''

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](java\tscript:alert(1))",
    "[x](&#106;avascript:alert(1))",
    "[x](data:text/html;base64,PHNjcmlwdD4=)",
    "[x](vbscript:x)",
    "[x](file:///etc/passwd)",
    "[x](/lab/tree)",
    "[x](//evil.example/x)",
    "<javascript:alert(1)>",
    "![x](https://evil.example/pixel.png)",
    "![x](https://evil.example/pixel.png 'a\" onload=\"alert(1)')",
    '[x](https://ok.example/"onmouseover="alert(1))',
    '```"><script>alert(1)</script>\ncode\n```',
    "```<img src=x onerror=alert(1)>\n</code></pre><script>alert(1)</script>\n```",
    '- a\n\n  ```"onx="y\n  </pre><script>alert(1)</script>\n  ```',
    "| <script>alert(1)</script> |\n|---|\n| <style>*{display:none}</style> |",
    "<style>body{display:none}</style>",
    "<iframe src=https://evil.example></iframe>",
    "<svg/onload=alert(1)>",
    "<a href='javascript:alert(1)'>x</a>",
    "[ref]\n\n[ref]: javascript:alert(1)",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "`<script>alert(1)</script>`",
]
TAG = re.compile(r"<\s*(/?)\s*([a-zA-Z][^\s/>]*)([^>]*)>")


def assert_harmless(html: str) -> None:
    """Every tag and attribute is one of ours, every link leads where links may."""
    for _, tag, attributes in TAG.findall(html):
        assert tag in MARKDOWN_TAGS, html
        for name, value in re.findall(r'([^\s="]+)="([^"]*)"', attributes):
            assert name in MARKDOWN_ATTRIBUTES, html
            assert name != "href" or value.partition(":")[0] in ("http", "https", "mailto"), html
        assert "=" not in re.sub(r'[^\s="]+="[^"]*"', "", attributes), html


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_harmless_at_every_length(text: str) -> None:
    assert_harmless(markdown_html(text))
    blocks = MarkdownBlocks("m")
    for end in range(len(text) + 1):
        assert_harmless("".join(block.to_html() for block in blocks.update(text[:end])))


def test_links_open_safely_and_lead_only_where_links_may() -> None:
    html = markdown_html(
        "[a](https://a.example) [b](mailto:b@b.example) [c](ftp://c.example) [d](javascript:d)"
    )
    assert html.count("<a ") == 2
    assert html.count('target="_blank"') == html.count('rel="noopener noreferrer"') == 2


def test_html_is_text() -> None:
    assert markdown_html("A <b>bold</b> word").count("&lt;b&gt;bold&lt;/b&gt;") == 1
    assert "&lt;p&gt;" in markdown_html("<p>block</p>")


def test_images_are_links_and_never_loaded() -> None:
    html = markdown_html("![a chart](https://evil.example/x.png) ![](https://evil.example/y.png)")
    assert "<img" not in html
    assert re.findall(r'\[image: <a href="([^"]*)"[^>]*>([^<]*)</a>\]', html) == [
        ("https://evil.example/x.png", "a chart"),
        ("https://evil.example/y.png", "https://evil.example/y.png"),
    ]


def test_an_image_in_a_link_leads_where_the_link_does() -> None:
    html = markdown_html("[![a](https://a.example/x.png) b](https://b.example) ![c](https://c.example/y.png)")
    assert re.findall(r'href="([^"]*)"', html) == ["https://b.example", "https://c.example/y.png"]
    assert ">[image: a]</span> b</a>" in html.replace('"nbruns-file"', "")


def test_the_pieces_make_no_difference() -> None:
    whole = [(block.key, block.to_html()) for block in MarkdownBlocks("m/").update(TEXT, complete=True)]
    assert [key for key, _ in whole] == [f"m/{number}" for number in range(len(whole))]
    for seed in range(12):
        cuts = random.Random(seed)
        blocks, end = MarkdownBlocks("m/"), 0
        while end < len(TEXT):
            end += cuts.randint(1, 25)
            blocks.update(TEXT[:end])
        assert [(block.key, block.to_html()) for block in blocks.update(TEXT, complete=True)] == whole


def test_finished_blocks_are_rendered_once() -> None:
    blocks = MarkdownBlocks("m/")
    seen: dict[str, object] = {}
    for end in range(0, len(TEXT), 3):
        for block in blocks.update(TEXT[:end])[:-2]:  # the last two may still be open
            assert seen.setdefault(block.key, block) is block
    assert len(seen) > 8


def test_an_open_block_looks_as_it_will() -> None:
    def shown(text: str) -> str:
        return "".join(block.content for block in MarkdownBlocks("").update(text))

    assert shown("Here are:\n-") == "<p>Here are:</p>"  # not yet a heading
    assert shown("So **very") == "<p>So <strong>very</strong></p>"
    assert shown("Call `f(x") == "<p>Call <code>f(x</code></p>"
    assert shown("See [the docs](https://exa") == "<p>See the docs</p>"
    assert shown("Text\n\n| a | b |\n|--") == "<p>Text</p>"


def test_a_rewritten_text_starts_anew() -> None:
    blocks = MarkdownBlocks("m/")
    blocks.update("One\n\ntwo\n\nthree")
    assert [block.content for block in blocks.update("Other\n\ntext", complete=True)] == [
        "<p>Other</p>",
        "<p>text</p>",
    ]


def test_line_ends_of_other_systems_are_line_ends() -> None:
    blocks = MarkdownBlocks("m/")
    text = "One\r\n\r\n- two\r\n- three\rfour"
    for end in range(len(text)):
        blocks.update(text[:end])
    assert [b.content for b in blocks.update(text, complete=True)] == [
        b.content for b in MarkdownBlocks("m/").update("One\n\n- two\n- three\nfour", complete=True)
    ]


def test_colours_add_up_to_the_code_and_escape_it() -> None:
    code = 'def f(x):\n    return "<😀>" + x  # & so on'
    html = coloured_html(code, marks(code, lexer_for("python")))
    assert re.sub(r"<[^>]*>", "", html) == code.replace("&", "&amp;").replace("<", "&lt;").replace(
        ">", "&gt;"
    )
    assert '<span class="nbruns-k">def</span> <span class="nbruns-f">f</span>' in html
    assert '<span class="nbruns-s">"&lt;😀&gt;"</span>' in html


def test_code_that_streams_has_its_colours_at_once_and_the_right_ones_in_the_end() -> None:
    code = "".join(f"def function_{i}(x):\n    return x + {i}\n\n" for i in range(REDRAWN_LENGTH // 20))
    code += '"""' + "\ndef not_code(x):\n    pass\n" * (REDRAWN_LENGTH // 10) + '"""\n'
    text = f"```python\n{code}"
    blocks = MarkdownBlocks("m/")
    for end in range(11, len(text), 97):
        (block,) = blocks.update(text[:end])
        coloured = sum(int(length) for length in re.findall(r"[a-z_](\d+)", block.marks))
        assert coloured == len(block.content)
    (whole,) = blocks.update(text, complete=True)
    assert whole.marks == marks(whole.content, lexer_for("python"))


@pytest.mark.parametrize("line_end", ["\n", "; "], ids=["no empty lines", "one long line"])
def test_code_that_streams_without_a_place_to_cut_has_its_colours_too(line_end: str) -> None:
    code = line_end.join(f"x{i} = {i}" for i in range(REDRAWN_LENGTH))
    blocks, text = MarkdownBlocks("m/"), f"```python\n{code}"
    for end in range(11, len(text), 397):
        (block,) = blocks.update(text[:end])
        assert sum(map(int, re.findall(r"[a-z_](\d+)", block.marks))) == len(block.content)
        assert block.marks.count("m") >= block.content.count(line_end)  # the numbers have theirs
    (whole,) = blocks.update(text, complete=True)
    assert whole.marks == marks(whole.content, lexer_for("python"))


def test_where_links_lead_is_no_text_of_its_own() -> None:
    assert MarkdownBlocks("m/").update("[docs]: https://docs.example\n", complete=True) == []
    blocks = MarkdownBlocks("m/").update("See [docs].\n\n[docs]: https://docs.example\n", complete=True)
    assert [block.content for block in blocks if 'href="https://docs.example"' in block.content]
    assert len(blocks) == 1


def test_code_of_no_or_an_unknown_language_is_plain() -> None:
    for language in ("", "no-such-language", "../../etc"):
        (block,) = MarkdownBlocks("m/").update(f"```{language}\nx = 1\n```\n")
        assert (block.content, block.marks) == ("x = 1", "")


@pytest.mark.parametrize(
    ("text", "source", "display"),
    [
        (r"so \(x = \frac{-b}{2a}\) it is", r"x = \frac{-b}{2a}", "inline"),
        (
            r"so \[ \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} \] it is",
            r"\begin{pmatrix} 1 &amp; 2 \\ 3 &amp; 4 \end{pmatrix}",
            "block",
        ),
        ("so $a_1*b*c$ it is", "a_1*b*c", "inline"),
        (r"so $$\{x \mid x \le 2\}$$ it is", r"\{x \mid x \le 2\}", "block"),
        ("$$\nx^2\n+ y\n$$", "x^2\n+ y", "block"),
        ("\\[\nx^2\n- y\n= z\n\\]", "x^2\n- y\n= z", "block"),
    ],
)
def test_formulas_are_set_and_their_source_is_kept(text: str, source: str, display: str) -> None:
    html = markdown_html(text)
    assert f'alttext="{source}"' in html.replace("&#10;", "\n")
    assert f'display="{display}"' in html and "<mrow>" in html
    assert "<em>" not in html and "<li>" not in html and "<h" not in html
    if text.startswith("so "):
        assert "<p>so <math" in html and "</math> it is</p>" in html


@pytest.mark.parametrize("text", ["It costs $5 and $6.", "$ 7", "`$x$`", r"\(x", r"\[x", "a $b", "**$**"])
def test_what_is_no_formula_stays_text(text: str) -> None:
    assert "<math" not in markdown_html(text)


@pytest.mark.parametrize(
    "formula", [r"\foo{", r"\frac", "{" * 200, "x" * 2001, r"\begin{matrix}", "^_^", "&&"]
)
def test_a_formula_that_cannot_be_read_is_shown_as_it_was_written(formula: str) -> None:
    html = markdown_html(f"a ${formula}$ b")
    assert "<math" in html or formula.replace("&", "&amp;") in html


def test_a_formula_is_no_way_in() -> None:
    for formula in (
        r"\href{javascript:alert(1)}{x}",
        r"\text{<img src=x onerror=alert(1)>}",
        r"\class{a}{<script>}",
    ):
        html = markdown_html(f"${formula}$")
        assert "<img" not in html and "<script" not in html and "href" not in html.replace("\\href", "")


def test_text_from_right_to_left_says_so() -> None:
    html = markdown_html("مرحبا! نسخة `pandas` هي 3.1.\n\n- ثانياً: افتح الدفتر.\n\n> שלום\n\nHello")
    assert re.findall(r'<(\w+) dir="auto">', html) == ["p", "ul", "blockquote"]
    assert "<p>Hello</p>" in html


def test_tasks_are_boxes() -> None:
    html = markdown_html("- [x] done\n- [ ] open\n- [X] **too**\n- [y] no\n\n[x] no item")
    assert re.findall(r"<li>(.)", html) == ["☑", "☐", "☑", "["]
    assert "<p>[x] no item</p>" in html


def test_bare_addresses_are_links_and_names_of_files_are_not() -> None:
    html = markdown_html("See https://example.org/a?b=c, not python.py, me@example.org or //x.example.")
    assert re.findall(r'href="([^"]*)"', html) == ["https://example.org/a?b=c"]


@pytest.mark.parametrize(
    "url",
    [
        "https:/hub/logout",
        "https:hub",
        "http:///x",
        r"https:\\x",
        r"https:/\x",
        "HTTPS:/x",
        "https://",
        "//x",
        "/x",
        "https:",
        "mailto:",
    ],
)
def test_what_some_browser_reads_as_a_path_is_no_link(url: str) -> None:
    for text in (f"[x]({url})", f"[x](<{url}>)", f"[x][y]\n\n[y]: {url}", f"<{url}>"):
        assert "<a" not in markdown_html(text)


@pytest.mark.parametrize(
    "sign", ["[", "![", "~", "*", "`", "<", "[a](", "$", r"\(", r"\[", "> ", "|", "&", "**a "]
)
def test_no_text_takes_more_time_than_its_length_allows(sign: str) -> None:
    """Many of them take minutes where each looks for its partner to the end: more than a test may take."""
    assert markdown_html(sign * 10_000)


def test_a_long_table_in_many_pieces_is_rendered_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    rendered: list[int] = []
    render = markdown._RENDER.render

    def counted(text: str, *more: object) -> str:
        rendered.append(len(text))
        return render(text, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(markdown._RENDER, "render", counted)
    row = "| Oslo | 3 °C | light rain | **wind** 8 m/s |\n"
    table = "| City | Temperature | Sky | Wind |\n|---|---|---|---|\n" + row * 440
    blocks = MarkdownBlocks("x")
    for end in range(0, len(table), 50):
        blocks.update(table[:end])
    shown = blocks.update(table, complete=True)
    assert "".join(block.content for block in shown) in markdown_html(table)
    assert sum(rendered) < 15 * len(table)  # 200 times and more where each piece renders all
