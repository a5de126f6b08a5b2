"""Stand-ins for programs that draw, film and typeset."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def frames(prompt: str, count: int) -> Iterator[bytes]:
    """The frames of a film, one after the other."""
    for number in range(count):
        yield f"{prompt} {number}\n".encode() * 1000


def typeset(text: str) -> bytes:
    """A PDF of one page."""
    shown = "".join(char if char.isascii() and char not in "()\\" else "?" for char in text)
    page = f"BT /F1 24 Tf 72 720 Td ({shown}) Tj ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R "
        b"/Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(page), page),
    ]
    made, places = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(made))
        made += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    count = len(objects) + 1
    return made + b"xref\n0 %d\n0000000000 65535 f \n%strailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % (
        count,
        table,
        count,
        len(made),
    )


def convert(prompt: str, log: Path) -> bool:
    """Convert something with a log of the steps. Returns whether it succeeded."""
    log.write_text(f"converting {prompt}\n" * 20)
    return "broken" not in prompt
