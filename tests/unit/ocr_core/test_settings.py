from pathlib import Path

import pytest

from ocr_core.settings import Settings, SettingsError, WordError, read_settings


def test_words_beat_variables_and_variables_beat_defaults() -> None:
    environment = {"Core__Workers": "3", "CORE:PAGETIMEOUTSECONDS": "7", "HOME": "/root"}
    found = read_settings(["core:workers=5"], environment)
    assert (found.workers, found.page_timeout_seconds) == (5, 7)
    assert found.socket == Path("/run/sidecar/core.sock")


@pytest.mark.parametrize("name", ["Mounts:License", "mounts::license", "MOUNTS__LICENSE", "Mounts__License"])
def test_a_name_is_one_name_however_it_is_written(name: str) -> None:
    assert read_settings([], {name: "/here"}).license_directory == Path("/here")


def test_names_of_others_are_ignored() -> None:
    assert read_settings(["eula=accept", "Sidecar:Listen=x", "Metering:MaxAttempts=10"], {"Core:Unknown": "1"})


def test_every_setting_is_read() -> None:
    found = Settings.from_mapping(
        {
            "Sidecar:CoreSocket": "/a", "Sidecar:StateDirectory": "/b", "Sidecar:TrustRoot": "/c",
            "Sidecar:HostId": "ward 7", "Mounts:License": "/d", "Mounts:Shared": "/e", "Core:Workers": "4",
            "Core:CpuInfo": "/f", "Core:Tessdata": "/g", "Core:Languages": "eng+deu",
            "Core:PageTimeoutSeconds": "30", "Core:MaxMegapixels": "2.5", "Core:WorkerMemoryMegabytes": "1024",
            "Core:DieWithParent": "True", "Core:SecondEngine": "Required",
            "Core:SecondEngineForPrint": "true",
        }
    )  # fmt: skip
    assert found == Settings(
        socket=Path("/a"), state_directory=Path("/b"), trust_root=Path("/c"), host_id="ward 7",
        license_directory=Path("/d"), shared_directory=Path("/e"), workers=4, cpu_info=Path("/f"),
        tessdata=Path("/g"), languages=("eng", "deu"), page_timeout_seconds=30, max_pixels=2_500_000,
        memory_bytes=1024**3, die_with_parent=True, second_engine="required",
        second_engine_for_print=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "level"),
    [
        ([], 20),
        (["Logging:LogLevel:Default=Debug"], 10),
        (["Logging:Console:LogLevel:Default=error", "Logging:LogLevel:Default=Debug"], 40),
        (["Logging:Console:LogLevel:ocr_core=None", "Logging:Console:LogLevel:Default=Trace"], 51),
        (["Logging:LogLevel:OCR_CORE=Warning", "Logging:LogLevel:Default=Trace"], 30),
    ],
)
def test_levels_of_the_log(words: list[str], level: int) -> None:
    assert read_settings(words, {}).log_level == level


def test_tessdata_prefix_is_the_default_of_tessdata() -> None:
    assert read_settings([], {"TESSDATA_PREFIX": "/models"}).tessdata == Path("/models")
    assert read_settings(["Core:Tessdata=/mine"], {"TESSDATA_PREFIX": "/models"}).tessdata == Path("/mine")


def test_an_empty_value_is_no_value() -> None:
    assert read_settings(["Core:PageTimeoutSeconds="], {}).page_timeout_seconds == 60


@pytest.mark.parametrize(
    "word",
    [
        "Core:Workers=0", "Core:Workers=many", "Core:Workers=-1", "Core:Workers=257", "Core:Workers=²",
        "Core:PageTimeoutSeconds=1.5", "Core:MaxMegapixels=nan", "Core:MaxMegapixels=1000", "Core:Languages=+",
        "Core:SecondEngine=yes", "Core:SecondEngineForPrint=all", "Core:DieWithParent=perhaps",
        "Core:WorkerMemoryMegabytes=1", "Core:WorkerRecycleMegabytes=31", "Mounts:Shared=/a\0b",
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_used_is_named(word: str) -> None:
    with pytest.raises(SettingsError, match=word.partition("=")[0]):
        read_settings([word], {})


@pytest.mark.parametrize("word", ["Core", "=1", "--workers", "a b=1"])
def test_a_word_that_is_no_setting_is_refused(word: str) -> None:
    with pytest.raises(WordError):
        read_settings([word], {})


def test_workers_are_fewer_where_memory_is_short_unless_their_number_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ocr_core.settings.usable_cpus", lambda: 8)
    monkeypatch.setattr("ocr_core.settings.usable_memory_bytes", lambda: 1024 * 2**20)
    short = read_settings(["Core:SecondEngine=off"], {})
    assert (short.workers, short.is_short_of_memory) == (2, True)
    told = read_settings(["Core:SecondEngine=off", "Core:Workers=8"], {})
    assert (told.workers, told.is_short_of_memory) == (8, False)


def test_the_core_looks_for_the_device_where_it_is_told_to() -> None:
    found = read_settings(["Sidecar:CoreStateDirectory=/known"], {"Sidecar__StateDirectory": "/secret"})
    assert found.state_directory == Path("/known")
