"""Documents that do harm to those who read them, made when they are needed."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable

_SPACE = "http://schemas.openxmlformats.org"
_TYPE = "application/vnd.openxmlformats-officedocument"
_MEGABYTE = b"a" * (1 << 20)


def archive(parts: dict[str, str | Iterable[bytes]]) -> bytes:
    """A ZIP archive of these files."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as made:
        for name, content in parts.items():
            with made.open(name, "w", force_zip64=True) as file:
                file.writelines([content.encode()] if isinstance(content, str) else content)
    return packed.getvalue()


def _office(main: str, kind: str, parts: dict[str, str | Iterable[bytes]]) -> bytes:
    types = (
        f'<Types xmlns="{_SPACE}/package/2006/content-types"><Default Extension="rels" ContentType='
        '"application/vnd.openxmlformats-package.relationships+xml"/><Default Extension="xml" ContentType='
        f'"application/xml"/><Override PartName="/{main}" ContentType="{_TYPE}.{kind}.main+xml"/></Types>'
    )
    return archive({"[Content_Types].xml": types, "_rels/.rels": _link("officeDocument", main), **parts})


def _link(kind: str, target: str) -> str:
    return (
        f'<Relationships xmlns="{_SPACE}/package/2006/relationships"><Relationship Id="rId1" '
        f'Type="{_SPACE}/officeDocument/2006/relationships/{kind}" Target="{target}"/></Relationships>'
    )


def docx(megabytes: int) -> bytes:
    """A Word document that becomes so many megabytes of text."""
    name = "word/document.xml"
    head = f'<w:document xmlns:w="{_SPACE}/wordprocessingml/2006/main"><w:body><w:p><w:r><w:t>'
    body = [head.encode(), *[_MEGABYTE] * megabytes, b"</w:t></w:r></w:p></w:body></w:document>"]
    return _office(name, "wordprocessingml.document", {name: body})


def xlsx(megabytes: int) -> bytes:
    """An Excel workbook that becomes so many megabytes of rows."""
    row = b'<row><c t="inlineStr"><is><t>x</t></is></c></row>'
    head = f'<worksheet xmlns="{_SPACE}/spreadsheetml/2006/main"><sheetData>'.encode()
    rows = [row * ((1 << 20) // len(row))] * megabytes
    links = f'xmlns:r="{_SPACE}/officeDocument/2006/relationships"'
    name = "xl/workbook.xml"
    return _office(name, "spreadsheetml.sheet", {
        name: f'<workbook xmlns="{_SPACE}/spreadsheetml/2006/main" {links}><sheets>'
        '<sheet name="a" sheetId="1" r:id="rId1"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": _link("worksheet", "worksheets/sheet1.xml"),
        "xl/worksheets/sheet1.xml": [head, *rows, b"</sheetData></worksheet>"],
    })  # fmt: skip


def pptx(megabytes: int) -> bytes:
    """A PowerPoint presentation that becomes so many megabytes of text."""
    spaces = f'xmlns:a="{_SPACE}/drawingml/2006/main" xmlns:p="{_SPACE}/presentationml/2006/main"'
    head = f"<p:sld {spaces}><p:cSld><p:spTree><p:sp><p:txBody><a:p><a:r><a:t>".encode()
    tail = b"</a:t></a:r></a:p></p:txBody></p:sp></p:spTree></p:cSld></p:sld>"
    links = f'xmlns:r="{_SPACE}/officeDocument/2006/relationships"'
    name = "ppt/presentation.xml"
    return _office(name, "presentationml.presentation", {
        name: f'<p:presentation {spaces} {links}><p:sldIdLst><p:sldId id="256" r:id="rId1"/></p:sldIdLst>'
        "</p:presentation>",
        "ppt/_rels/presentation.xml.rels": _link("slide", "slides/slide1.xml"),
        "ppt/slides/slide1.xml": [head, *[_MEGABYTE] * megabytes, tail],
    })  # fmt: skip


def pdf(pages: int, *, is_protected: bool = False) -> bytes:
    """A PDF with a line of text on each page; its password is nothing that anybody knows."""
    kids = " ".join(f"{4 + 2 * page} 0 R" for page in range(pages))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {pages} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for page in range(pages):
        text = f"BT /F1 12 Tf 72 720 Td (Page {page} is about deep water) Tj ET"
        objects += [
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {5 + 2 * page} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>",
            f"<< /Length {len(text)} >>\nstream\n{text}\nendstream",
        ]
    trailer = f"/Size {len(objects) + 1 + is_protected} /Root 1 0 R"
    if is_protected:
        objects.append(f"<< /Filter /Standard /V 1 /R 2 /O <{'41' * 32}> /U <{'42' * 32}> /P -4 >>")
        trailer += f" /Encrypt {len(objects)} 0 R /ID [<00> <00>]"
    made, places = ["%PDF-1.4\n"], []
    end = len(made[0])
    for number, each in enumerate(objects, 1):
        places.append(f"{end:010d} 00000 n \n")
        made.append(f"{number} 0 obj\n{each}\nendobj\n")
        end += len(made[-1])
    table = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{''.join(places)}"
    return f"{''.join(made)}{table}trailer\n<< {trailer} >>\nstartxref\n{end}\n%%EOF\n".encode()
