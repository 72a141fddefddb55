"""Data are found where LATENT_DATA says and read strictly; the cache is where the user wants it."""

import gzip
from pathlib import Path

import pytest

from latent.core.data import cache_folder, data_file, read_json_lines, read_text
from latent.core.errors import ConfigError, FormatError


def test_files_are_found_where_the_variable_says(tmp_path, monkeypatch):
    monkeypatch.delenv("LATENT_DATA", raising=False)
    with pytest.raises(ConfigError, match="LATENT_DATA is not set"):
        data_file("some/file.txt")
    monkeypatch.setenv("LATENT_DATA", str(tmp_path))
    with pytest.raises(ConfigError, match=r"there is no .*some/file\.txt"):
        data_file("some/file.txt")
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "file.txt").write_text("héé")
    assert read_text(data_file("some/file.txt")) == "héé"


def test_lines_are_read_packed_or_not_and_strictly(tmp_path):
    plain, packed = tmp_path / "lines.jsonl", tmp_path / "lines.jsonl.gz"
    plain.write_text('{"a": 1}\n\n{"a": 2}\n')
    with gzip.open(packed, "wt", encoding="utf-8") as file:
        file.write(plain.read_text())
    assert [*read_json_lines(plain)] == [*read_json_lines(packed)] == [{"a": 1}, {"a": 2}]
    plain.write_text('{"a": 1}\n[2]\n')
    with pytest.raises(FormatError, match="line 2: not a JSON object"):
        list(read_json_lines(plain))
    plain.write_text('{"a": 1}\n{"a"\n')
    with pytest.raises(FormatError, match="line 2: "):
        list(read_json_lines(plain))
    packed.write_bytes(packed.read_bytes()[:20])
    with pytest.raises(FormatError, match="Cannot read"):
        read_text(packed)
    plain.write_bytes(b"\xff\xfe")
    with pytest.raises(FormatError, match="Cannot read"):
        read_text(plain)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_a_mark_at_the_beginning_is_no_text(tmp_path, name):
    path, content = tmp_path / name, '{"a": 1}\n'.encode("utf-8-sig")
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert list(read_json_lines(path)) == [{"a": 1}]


def test_the_cache_is_where_the_user_wants_it(monkeypatch):
    monkeypatch.setenv("LATENT_CACHE", "/one")
    monkeypatch.setenv("XDG_CACHE_HOME", "/two")
    assert cache_folder() == Path("/one")
    monkeypatch.delenv("LATENT_CACHE")
    assert cache_folder() == Path("/two/latent")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "latent"
