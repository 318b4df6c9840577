"""Settings: the forms in which people write them, and what is refused with which exit code."""

from dataclasses import replace
from pathlib import Path

import pytest

from sidecar.errors import SettingsError
from sidecar.settings import (
    Settings,
    canonical_name,
    load_settings,
    load_what_is_valid,
    parse_words,
    require_start,
)

ENVIRONMENT: dict[str, str] = {}


@pytest.mark.parametrize(
    "word",
    [
        "Mounts:License=/x",
        "mounts:license=/x",
        "MOUNTS:LICENSE=/x",
        "Mounts__License=/x",
        "Mounts::License=/x",
        "'Mounts:License=/x'",
        'Mounts:License="/x"',
        "--Mounts:License=/x",
        " Mounts:License = /x ",
    ],
)
def test_forms_of_a_word(word: str) -> None:
    assert load_settings([word], ENVIRONMENT).license_directory == Path("/x")


@pytest.mark.parametrize("name", ["Mounts:License", "Mounts__License", "MOUNTS__LICENSE", "mounts:license"])
def test_forms_of_a_variable(name: str) -> None:
    assert load_settings([], {name: "/x"}).license_directory == Path("/x")


def test_words_beat_environment_beats_file(tmp_path: Path) -> None:
    file = tmp_path / "sidecar.conf"
    file.write_text("[Mounts]\nLicense=/file\nOutput=/file\nShared=/file\n")
    settings = load_settings(["Mounts:License=/word"], {"Mounts__License": "/env", "Mounts__Output": "/env"}, file)
    assert [settings.license_directory, settings.output_directory, settings.shared_directory] == [
        Path("/word"),
        Path("/env"),
        Path("/file"),
    ]


def test_ini_without_sections_and_toml(tmp_path: Path) -> None:
    ini, toml = tmp_path / "a.conf", tmp_path / "b.toml"
    ini.write_text("# words\nMounts:License = /x\nMetering__Strict=true\n")
    toml.write_text('[Mounts]\nLicense = "/x"\n[Metering]\nStrict = true\n')
    for file in (ini, toml):
        settings = load_settings([], ENVIRONMENT, file)
        assert settings.license_directory == Path("/x")
        assert settings.strict


def test_a_settings_file_that_cannot_be_read_is_named_once(tmp_path: Path) -> None:
    for file, cause in ((tmp_path / "none.conf", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(SettingsError) as refused:
            load_settings([], ENVIRONMENT, file)
        assert str(refused.value) == f"settings file {file}: {cause}"


def test_defaults() -> None:
    settings = load_settings([], ENVIRONMENT)
    assert settings == Settings()
    assert settings.has_standard_cadence
    assert (settings.host, settings.port) == ("0.0.0.0", 5000)


@pytest.mark.parametrize(
    "word",
    [
        "Metering:MinIntervalSeconds=0",
        "Metering:MinIntervalSeconds=ten",
        "Metering:MinIntervalSeconds=901",
        "Metering:Strict=maybe",
        "Sidecar:Listen=nowhere",
        "Sidecar:Listen=0.0.0.0:99999",
        "Core:Workers=-1",
        "Core:Languages=deu,eng",
        "Core:MaxMegapixels=many",
        "Core:MaxMegapixels=nan",
        "Core:WorkerMemoryMegabytes=511",
        "Core:WorkerRecycleMegabytes=1.5",
        "ErrorCompat=other",
        "StorageTimeToLiveInMinutes=59",
        "Mounts:License=\0",
    ],
)
def test_bad_values_are_refused_with_65(word: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings([word], ENVIRONMENT)
    assert caught.value.exit_code == 65
    name = word.split("=", maxsplit=1)[0]
    assert caught.value.next_step.startswith(f"set {name} to ") or "901" in word
    assert name in str(caught.value)


def test_what_the_core_alone_goes_by_is_taken_as_the_core_takes_it() -> None:
    words = {
        "Core:Languages": "deu + eng",
        "Core:Tessdata": "/models",
        "Core:MaxMegapixels": "2.5",
        "Core:WorkerMemoryMegabytes": "512",
        "Core:WorkerRecycleMegabytes": "1048576",
    }
    settings = load_settings([f"{name}={value}" for name, value in words.items()], ENVIRONMENT)
    assert (settings.core_languages, settings.core_tessdata) == ("deu + eng", Path("/models"))
    assert settings.core_max_megapixels == 2.5
    assert (settings.core_worker_memory, settings.core_worker_recycle) == (512, 1048576)
    left_empty = load_settings([f"{name}=" for name in words], ENVIRONMENT)
    assert left_empty.core_max_megapixels is None


def test_a_bad_choice_is_told_with_what_may_be_chosen() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(["Core:SecondEngine=maybe"], ENVIRONMENT)
    assert "one of auto, off, required" in caught.value.next_step


def test_what_is_valid_is_kept_where_something_is_not() -> None:
    words = ["Core:SecondEngine=maybe", "Core:Workers=3", "Logging:LogLevel:Default=loud", "Metering:Strict=true"]
    settings, refused = load_what_is_valid(words, ENVIRONMENT)
    names = [str(problem).partition("=")[0].casefold() for problem in refused]
    assert names == ["core:secondengine", "logging:loglevel:default"]
    assert settings == load_settings(["Core:Workers=3", "Metering:Strict=true"], ENVIRONMENT)


def test_windows_that_do_not_fit_each_other_leave_both_at_their_defaults() -> None:
    settings, (problem,) = load_what_is_valid(["Metering:MinIntervalSeconds=901"], ENVIRONMENT)
    assert "Metering:MaxIntervalSeconds" in str(problem)
    assert settings.has_standard_cadence


def test_a_word_that_is_no_setting_is_bad_usage() -> None:
    with pytest.raises(SettingsError) as caught:
        parse_words(["accept"])
    assert caught.value.exit_code == 64


def test_unknown_names_are_ignored() -> None:
    assert load_settings(["Some:Thing=1"], {"PATH": "/bin"}) == Settings()


@pytest.mark.parametrize("value", ["", "no", "yes"])
def test_eula_must_be_accepted(value: str) -> None:
    with pytest.raises(SettingsError, match="EULA=accept") as caught:
        require_start(load_settings([f"eula={value}"], ENVIRONMENT))
    assert caught.value.exit_code == 64


def test_an_eula_that_is_not_accepted_is_told_from_one_that_is_missing() -> None:
    with pytest.raises(SettingsError, match="The EULA=accept command-line option is missing"):
        require_start(load_settings([], ENVIRONMENT))
    with pytest.raises(SettingsError, match=r"Eula='reject' is not 'accept'.*EULA=accept must be provided") as caught:
        require_start(load_settings(["eula=reject"], ENVIRONMENT))
    assert "missing" not in str(caught.value)


@pytest.mark.parametrize("port", ["0", "65536", "x", ""])
def test_the_ports_there_are_are_told(port: str) -> None:
    with pytest.raises(SettingsError, match="wants HOST:PORT with a port from 1 to 65535"):
        load_settings([f"Sidecar:Listen=127.0.0.1:{port}"], ENVIRONMENT)


@pytest.mark.parametrize("value", ["accept", "ACCEPT", '"accept"'])
def test_eula_accepted(value: str) -> None:
    require_start(load_settings([f"EULA={value}"], ENVIRONMENT))


def test_billing_must_be_a_uri() -> None:
    with pytest.raises(SettingsError, match=r"Invalid Billing Endpoint URI\.") as caught:
        require_start(load_settings(["eula=accept", "billing=nonsense"], ENVIRONMENT))
    assert caught.value.exit_code == 65


def test_settings_survive_the_way_to_a_child() -> None:
    settings = load_settings(
        ["eula=accept", "Mounts:License=/x", "Metering:Strict=true", "Core:Workers=3", "ApiKey=secret"], ENVIRONMENT
    )
    assert load_settings([], settings.to_environment()) == settings


def test_api_key_is_never_shown() -> None:
    environment = Settings(api_key="secret").to_environment()
    assert environment["ApiKey"] == "secret"
    assert canonical_name("API__KEY") != canonical_name("ApiKey")


# ---- connected or disconnected ---------------------------------------------------------------------------------------

BOTH = ("Billing=https://billing.example", "ApiKey=abc")


@pytest.mark.parametrize(
    ("words", "connected"),
    [
        ((), False),
        (BOTH, True),
        (BOTH[:1], True),
        (BOTH[1:], True),
        ((*BOTH, "Mounts:License=/license"), False),
        ((*BOTH, "Mounts__License=/elsewhere"), False),
        ((*BOTH, "Mounts:License="), True),
        ((*BOTH, "DownloadLicense=True"), False),
        ((*BOTH, "DownloadLicense=True", "Mounts:License=/license"), False),
        ((*BOTH, "DownloadLicense=False"), True),
        (("Mounts:License=/license",), False),
        (("Sidecar:Mode=connected",), True),
        ((*BOTH, "Mounts:License=/license", "Sidecar:Mode=CONNECTED"), True),
        ((*BOTH, "Sidecar:Mode=disconnected"), False),
        ((*BOTH, "Sidecar:Mode=auto"), True),
    ],
)
def test_what_chooses_the_mode(words: tuple[str, ...], *, connected: bool) -> None:
    assert load_settings(words, ENVIRONMENT).is_connected is connected
    environ = dict(word.split("=", 1) for word in words)
    assert (
        load_settings([], {name.replace(":", "__"): value for name, value in environ.items()}).is_connected is connected
    )


def test_the_mode_holds_in_a_child_that_is_told_no_key() -> None:
    parent = load_settings(["eula=accept", *BOTH, "Sidecar:StateDirectory=/s"], ENVIRONMENT)
    child = load_settings([], parent.to_environment(secrets=False))
    assert (child.is_connected, child.api_key) == (True, "")
    assert child.license_folder == parent.license_folder == Path("/s/licenses")
    require_start(child)
    with pytest.raises(SettingsError, match="ApiKey is missing"):
        require_start(child, reports=True)


def test_the_folder_of_fetched_licences_lies_where_the_core_may_look() -> None:
    words = [*BOTH, "Sidecar:StateDirectory=/s", "Sidecar:CoreStateDirectory=/c"]
    assert load_settings(words, ENVIRONMENT).license_folder == Path("/c/licenses")
    assert load_settings([*words, "Mounts:License=/l"], ENVIRONMENT).license_folder == Path("/l")


@pytest.mark.parametrize(
    ("words", "missing"),
    [(BOTH[:1], "ApiKey is"), (BOTH[1:], "Billing is"), (("Sidecar:Mode=connected",), "Billing and ApiKey are")],
)
def test_connected_mode_wants_all_three(words: tuple[str, ...], missing: str) -> None:
    settings = load_settings(["eula=accept", *words], ENVIRONMENT)
    with pytest.raises(SettingsError, match=f"{missing} missing") as caught:
        require_start(settings, reports=True)
    assert caught.value.exit_code == 65
    with pytest.raises(SettingsError) as caught:
        require_start(replace(settings, eula=""), reports=True)
    assert caught.value.exit_code == 64


@pytest.mark.parametrize("address", ["nonsense", "ftp://x", "https://", "https://x:99999", "https://:443", "//x"])
def test_an_endpoint_that_is_no_uri(address: str) -> None:
    settings = load_settings(["eula=accept", f"Billing={address}", "ApiKey=abc"], ENVIRONMENT)
    with pytest.raises(SettingsError, match=r"Invalid Billing Endpoint URI\."):
        require_start(settings, reports=True)


def test_the_place_that_is_shown_has_no_path_and_no_password() -> None:
    settings = load_settings(["Billing=https://user:secret@billing.example:8443/vision?x=1", "ApiKey=abc"], ENVIRONMENT)
    assert settings.endpoint_place == "https://billing.example:8443"
    assert Settings().endpoint_place == ""
