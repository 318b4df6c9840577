"""Files are whole or absent."""

import hashlib
import os
import stat

import pytest

from licenses.durable import make_folders, sweep, write_file


def test_content_mode_and_digest(tmp_path):
    path = tmp_path / "f"
    digest = write_file(path, [b"a", b"b"], mode=0o440, overwrite=False)
    assert path.read_bytes() == b"ab"
    assert stat.S_IMODE(path.stat().st_mode) == 0o440
    assert digest == hashlib.sha256(b"ab").hexdigest()
    assert list(tmp_path.iterdir()) == [path]


def test_name_taken_is_refused_unless_it_may_be_replaced(tmp_path):
    path = tmp_path / "f"
    write_file(path, [b"old"], mode=0o440, overwrite=False)
    with pytest.raises(FileExistsError):
        write_file(path, [b"new"], mode=0o440, overwrite=False)
    assert path.read_bytes() == b"old"
    write_file(path, [b"new"], mode=0o440, overwrite=True)
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_failure_half_way_leaves_nothing(tmp_path):
    def chunks():
        yield b"half"
        raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        write_file(tmp_path / "f", chunks(), mode=0o440, overwrite=True)
    assert list(tmp_path.iterdir()) == []


def test_leftover_of_a_killed_writer_is_no_obstacle(tmp_path):
    leftover = tmp_path / ".incoming"
    leftover.write_bytes(b"half")
    leftover.chmod(0o400)
    write_file(tmp_path / "f", [b"whole"], mode=0o440, overwrite=False, temporary_name=".incoming")
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_file_system_without_hard_links_is_served(tmp_path, monkeypatch):
    def no_link(*args, **kwargs):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", no_link)
    write_file(tmp_path / "f", [b"x"], mode=0o440, overwrite=False)
    with pytest.raises(FileExistsError):
        write_file(tmp_path / "f", [b"y"], mode=0o440, overwrite=False)
    assert (tmp_path / "f").read_bytes() == b"x"


def test_folders_are_made_once(tmp_path):
    make_folders(tmp_path / "a" / "b", mode=0o700)
    make_folders(tmp_path / "a" / "b", mode=0o755)
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700


def test_sweep_takes_what_the_dead_left_and_nothing_else(tmp_path):
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    for name in (f".checkpoint.{child}-77.tmp", f".checkpoint.{os.getpid()}-77.tmp", "a.tmp", ".hidden", ".a.b-c.tmp"):
        (tmp_path / name).touch()
    assert sweep(tmp_path) == 1
    assert not (tmp_path / f".checkpoint.{child}-77.tmp").exists()
    assert len(list(tmp_path.iterdir())) == 4
    assert sweep(tmp_path / "missing") == 0
