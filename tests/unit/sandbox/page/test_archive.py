"""A zip file of artifacts: its names, and its parts."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from mr_celery.sandbox.page.archive import safe_names, zipped


@pytest.mark.parametrize(
    ("names", "safe"),
    [
        (["a.png", "b.png"], ["a.png", "b.png"]),
        (["a.png", "A.PNG", "a.png", "a (2).png"], ["a.png", "A (2).PNG", "a (3).png", "a (2) (2).png"]),
        (["../../etc/passwd", "/etc/passwd", "C:\\x\\y.txt", "a/"], ["passwd", "passwd (2)", "y.txt", "a"]),
        (["", "/", ".", "..", "..."], ["file", "file (2)", "_", "_ (2)", "_ (3)"]),
        (["con.txt", "NUL", "lpt1.tar.gz", "console.log"], ["_con.txt", "_NUL", "_lpt1.tar.gz", "console.log"]),
        (['a"b<c>?.txt', "x\ny\x00.txt", " .hidden. "], ["a_b_c__.txt", "x_y_.txt", "_hidden_"]),
        (["Zürich 🎨.png"], ["Zürich 🎨.png"]),
        (["a" * 300 + ".png", "a" * 300], ["a" * 116 + ".png", "a" * 120]),
    ],
)
def test_safe_names(names: list[str], safe: list[str]) -> None:
    assert safe_names(names) == safe


def test_zipped_is_a_zip_file_in_parts(tmp_path: Path) -> None:
    files = {"large.bin": b"1234567" * 500_000, "empty": b"", "ü.txt": b"text"}
    for number, data in enumerate(files.values()):
        (tmp_path / str(number)).write_bytes(data)
    parts = list(zipped((name, tmp_path / str(number)) for number, name in enumerate(files)))
    assert max(map(len, parts)) < 1_100_000
    with zipfile.ZipFile(io.BytesIO(b"".join(parts))) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == files
