from pathlib import Path

import pytest

from ocr_core import cpu

HAS_AVX2 = cpu.probe().supported
needs_avx2 = pytest.mark.skipif(not HAS_AVX2, reason="this machine has no AVX2")


def a_cpuinfo(folder: Path, *flags: str) -> Path:
    path = folder / "cpuinfo"
    path.write_text("\n".join(f"processor\t: {n}\nflags\t\t: {line}\n" for n, line in enumerate(flags)))
    return path


@needs_avx2
def test_flag_and_instruction_together_are_enough(tmp_path: Path) -> None:
    assert cpu.probe(a_cpuinfo(tmp_path, "fpu avx avx2 sse")).supported


@pytest.mark.parametrize(
    "flags",
    [("fpu avx sse",), ("fpu avx2", "fpu avx"), (), ("avx2_like xavx2",)],
    ids=["none", "one of two", "empty", "alike"],
)
def test_a_missing_flag_is_named(tmp_path: Path, flags: tuple[str, ...]) -> None:
    found = cpu.probe(a_cpuinfo(tmp_path, *flags))
    assert not found.supported
    assert "AVX2" in found.reason
    assert str(tmp_path) in found.reason


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    found = cpu.probe(tmp_path / "nowhere")
    assert not found.supported
    assert "nowhere" in found.reason


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("0f0b", "illegal"),  # ud2: what AVX2 is on a machine without it
        ("31c0c3", "wrong result"),  # xor eax,eax; ret
        ("31c08b00c3", "SIGSEGV"),  # reads address 0
    ],
)
def test_a_flag_that_lies_costs_a_child_only(tmp_path: Path, code: str, reason: str) -> None:
    found = cpu.probe(a_cpuinfo(tmp_path, "avx2"), code=bytes.fromhex(code))
    assert not found.supported
    assert reason in found.reason


def test_an_instruction_that_hangs_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_CHILD_SECONDS", 1)
    found = cpu.probe(a_cpuinfo(tmp_path, "avx2"), code=bytes.fromhex("ebfe"))  # jumps to itself
    assert not found.supported
    assert "SIGALRM" in found.reason
