"""Every setting of the original container, in every spelling: taken, refused with its reason, or named as not used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidecar.errors import SettingsError
from sidecar.log_levels import LEVELS, LogLevels
from sidecar.settings import (
    NOT_USED,
    Proxy,
    Settings,
    described,
    is_setting,
    load_settings,
    named_fields,
    unknown_names,
    unused_names,
)
from tests import settings_table

# The contract's table: name, a value, what it is here. A name that is not used has None.
TABLE: list[tuple[str, str, str | None, Any]] = [
    ("ApiKey", "0123456789abcdef0123456789abcdef", "api_key", "0123456789abcdef0123456789abcdef"),
    ("Billing", "https://x.example/", "billing", "https://x.example/"),
    ("Eula", "accept", "eula", "accept"),
    ("DownloadLicense", "True", "download_license", True),
    ("Mounts:License", "/l", "license_directory", Path("/l")),
    ("Mounts:Output", "/o", "output_directory", Path("/o")),
    ("Mounts:Input", "/i", None, None),
    ("Mounts:Shared", "/s", "shared_directory", Path("/s")),
    ("ApplicationInsights:InstrumentationKey", "secret", None, None),
    ("Fluentd:Host", "fluentd.example", "fluentd_host", "fluentd.example"),
    ("Fluentd:Port", "24225", "fluentd_port", 24225),
    ("Fluentd:HeartbeatMs", "5000", "fluentd_heartbeat_ms", 5000),
    ("Fluentd:SendBufferSize", "65536", "fluentd_buffer_bytes", 65536),
    ("Fluentd:TlsConnectionEstablishmentTimeoutMs", "2000", "fluentd_tls_ms", 2000),
    ("Fluentd:UseTLS", "TRUE", "fluentd_tls", True),
    ("HTTP_PROXY", "http://proxy:3128", "proxy", Proxy(host="proxy", port=3128)),
    ("HTTP_PROXY", "[::1]:3128", "proxy", Proxy(host="::1", port=3128)),
    ("HTTP_PROXY", "proxy.example:3128", "proxy", Proxy(host="proxy.example", port=3128)),
    ("HTTP_PROXY_CREDS", "user:pass:word", "proxy_credentials", "user:pass:word"),
    ("HTTP_PROXY_BYPASS_URLS", "http://a.example,b.example", "proxy_bypass", ("a.example", "b.example")),
    ("Logging:Console:LogLevel:Default", "Debug", "log_levels", LogLevels(rules=(("Console", "", "Debug"),))),
    ("Logging:Console:LogLevel:Tollgate", "none", "log_levels", LogLevels(rules=(("Console", "tollgate", "None"),))),
    ("Logging:LogLevel:Default", "WARNING", "log_levels", LogLevels(rules=(("", "", "Warning"),))),
    ("Logging:Debug:LogLevel:Default", "Debug", None, None),
    ("Logging:Disk:Format", "JSON", "disk_log_format", "json"),
    ("Logging:Disk:LogLevel", "Debug", "log_levels", LogLevels(rules=(("Disk", "", "Debug"),))),
    ("Logging:Disk:MaxFileSize", "7", "disk_log_megabytes", 7),
    ("ReadEngineConfig:ResultExpirationPeriod", "0", "result_hours_v2", 0),
    ("Cache:Redis", "redis:6379,password=secret", None, None),
    ("Cache:Redis:Configuration", "redis:6379,password=secret", None, None),
    ("Queue:RabbitMQ:HostName", "rabbit", None, None),
    ("Queue:RabbitMQ:Port", "5672", None, None),
    ("Queue:RabbitMQ:VirtualHost", "/", None, None),
    ("Queue:RabbitMQ:Username", "guest", None, None),
    ("Queue:RabbitMQ:Password", "secret", None, None),
    ("Queue:Azure:ConnectionString", "secret", None, None),
    ("Queue:Azure:QueueVisibilityTimeoutInMilliseconds", "30000", None, None),
    ("Storage:DocumentStore:MongoDB", "mongodb://secret", None, None),
    ("Storage:ObjectStore:AzureBlob:ConnectionString", "secret", None, None),
    ("Storage:TimeToLiveInDays", "3", "result_days", 3),
    ("StorageTimeToLiveInMinutes", "60", "result_minutes", 60),
    ("Task:MaxRunningTimeSpanInMinutes", "5", "max_running_minutes", 5),
    ("EnableSyncNTPServer", "false", None, None),
    ("NTPServerAddress", "time.windows.com", None, None),
    ("HealthCheck:MemoryUpperboundInMB", "8000", "memory_limit_megabytes", 8000),
]
SPELLINGS: dict[str, Callable[[str], str]] = {
    "as written": lambda name: name,
    "two colons": lambda name: name.replace(":", "::"),
    "underscores": lambda name: name.replace(":", "__"),
    "small": str.lower,
    "capital": str.upper,
}
IDS = [row[0] for row in TABLE]


@pytest.mark.parametrize("source", ["word", "variable", "file"])
@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("row", TABLE, ids=IDS)
def test_each_setting_in_each_spelling(
    row: tuple[str, str, str | None, Any], spelling: str, source: str, tmp_path: Path
) -> None:
    name, value, field, wanted = row
    spelled = SPELLINGS[spelling](name)
    words: list[str] = []
    environment = {"SIDECAR_CONFIG": "/dev/null"}
    file = None
    if source == "word":
        words = [f"{spelled}={value}"]
    elif source == "variable":
        environment[spelled] = value
    else:
        file = tmp_path / "sidecar.conf"
        file.write_text(f"{spelled} = {value}\n")
    settings = load_settings(words, environment, file)
    assert is_setting(spelled)
    assert unknown_names(words, environment, file) == []
    unused = unused_names(words, environment, file)
    if field is None:
        assert settings == Settings()
        ((told, reason),) = unused
        assert name.startswith(told)
        assert reason
        assert "secret" not in told + reason
    elif source == "variable" and name.startswith("HTTP_PROXY") and spelling == "small":
        assert settings == Settings()  # the host's own variable, which is not meant for us
    else:
        assert getattr(settings, field) == wanted
        assert unused == []
        assert load_settings([], settings.to_environment()) == settings


@pytest.mark.parametrize(("name", "value", "field", "wanted"), TABLE, ids=IDS)
def test_words_beat_environment_beats_file(
    name: str, value: str, field: str | None, wanted: Any, tmp_path: Path
) -> None:
    file = tmp_path / "sidecar.conf"
    file.write_text(f"{name} = nonsense \x01\n")
    if field is None:
        return
    assert getattr(load_settings([f"{name.lower()}={value}"], {name: "nonsense \x01"}, file), field) == wanted
    assert getattr(load_settings([], {name.replace(":", "__"): value}, file), field) == wanted


@pytest.mark.parametrize(
    "word",
    [
        "DownloadLicense=yes",
        "Fluentd:Host=two words",
        "Fluentd:Host=http://host",
        "Fluentd:Port=0",
        "Fluentd:Port=65536",
        "Fluentd:HeartbeatMs=-1",
        "Fluentd:SendBufferSize=0",
        "Fluentd:TlsConnectionEstablishmentTimeoutMs=never",
        "Fluentd:UseTLS=1",
        "HTTP_PROXY=foo",
        "HTTP_PROXY=proxy:99999",
        "HTTP_PROXY=//proxy:3128",
        "HTTP_PROXY=http:proxy",
        "HTTP_PROXY=http://:3128",
        "HTTP_PROXY=ftp://proxy:21",
        "HTTP_PROXY=https://proxy:443",
        "HTTP_PROXY=http://proxy:99999",
        "HTTP_PROXY=http://proxy/path",
        "HTTP_PROXY_CREDS=nobody",
        "HTTP_PROXY_BYPASS_URLS=*",
        "HTTP_PROXY_BYPASS_URLS=http://[",
        "Logging:Console:LogLevel:Default=Loud",
        "Logging:LogLevel:Tollgate.Meter=2",
        "Logging:Disk:LogLevel=Info",
        "Logging:Disk:Format=text",
        "Logging:Disk:MaxFileSize=0",
        "Logging:Disk:MaxFileSize=-2",
        "Logging:Disk:MaxFiles=1",
        "ReadEngineConfig:ResultExpirationPeriod=-1",
        "Storage:TimeToLiveInDays=0",
        "Storage:TimeToLiveInDays=8",
        "StorageTimeToLiveInMinutes=59",
        "StorageTimeToLiveInMinutes=10081",
        "Task:MaxRunningTimeSpanInMinutes=0",
        "HealthCheck:MemoryUpperboundInMB=much",
    ],
)
def test_values_out_of_range_are_refused_with_65(word: str) -> None:
    name, _, value = word.partition("=")
    with pytest.raises(SettingsError, match="wants") as caught:
        load_settings([word], {})
    assert caught.value.exit_code == 65
    assert name.lower() in str(caught.value).lower()
    assert caught.value.next_step
    hidden = "PROXY" in name and "BYPASS" not in name
    assert ("(hidden)" in str(caught.value)) is hidden
    assert (value in str(caught.value)) is not hidden


def test_no_secret_is_ever_shown() -> None:
    settings = load_settings(
        ["ApiKey=secret-1", "HTTP_PROXY=http://user:secret-2@proxy:3128", "HTTP_PROXY_CREDS=user:secret-3"], {}
    )
    assert "secret" not in repr(settings)
    assert settings.proxy is not None
    assert settings.proxy.credentials == "user:secret-3"
    assert load_settings([], settings.to_environment()) == settings


@pytest.mark.parametrize(
    ("value", "host", "port"),
    [
        ("http://proxy:3128", "proxy", 3128),
        ("http://proxy:3128/", "proxy", 3128),
        ("http://10.0.0.1", "10.0.0.1", 80),
        ("http://[fd00::1]:8080", "fd00::1", 8080),
        ("http://us%40er:p%3Ass@proxy:1", "proxy", 1),
    ],
)
def test_forms_of_a_proxy(value: str, host: str, port: int) -> None:
    proxy = load_settings([f"HTTP_PROXY={value}"], {}).proxy
    assert proxy is not None
    assert (proxy.host, proxy.port) == (host, port)
    assert load_settings([], {"HTTP_PROXY": str(proxy)}).proxy == proxy


@pytest.mark.parametrize(
    ("words", "seconds", "seconds_v2"),
    [
        ([], 172800, 172800),
        (["Storage:TimeToLiveInDays=1"], 86400, 86400),
        (["Storage:TimeToLiveInDays=7", "StorageTimeToLiveInMinutes=60"], 3600, 3600),
        (["ReadEngineConfig:ResultExpirationPeriod=0"], 172800, 0),
        (["ReadEngineConfig:ResultExpirationPeriod=3", "StorageTimeToLiveInMinutes=90"], 5400, 10800),
    ],
)
def test_lifetimes_of_results(words: list[str], seconds: int, seconds_v2: int) -> None:
    settings = load_settings(words, {})
    assert (settings.result_seconds, settings.result_seconds_v2) == (seconds, seconds_v2)


def test_no_limit_survives_the_way_to_a_child() -> None:
    settings = load_settings(["Logging:Disk:MaxFileSize=-1", "Logging:Disk:MaxFiles=-1"], {})
    assert (settings.disk_log_megabytes, settings.disk_log_files) == (None, None)
    assert load_settings([], settings.to_environment()) == settings


def test_a_name_that_is_nearly_ours_is_told() -> None:
    words = ["Logging:Disk:Frmat=json", "Fluentd:Hots=x", "Mounts:Licence=/x", "Somebody:Else=1"]
    assert unknown_names(words, {}) == ["fluentd:hots", "logging:disk:frmat", "mounts:licence"]


def test_all_that_is_not_used_is_told_once_each() -> None:
    words = [f"{name}={value}" for name, value, field, _ in TABLE if field is None]
    told = unused_names(words, {"MOUNTS__INPUT": "/x", "Mounts:Input": "/y"})
    assert len(told) == len({name for name, _ in told}) == len(NOT_USED)


def test_help_tells_every_setting() -> None:
    told = {name for name, *_ in described()}
    assert told >= {one.metadata["name"] for one in named_fields()}
    assert all(wants and meaning for _, _, wants, meaning in described())


def test_the_document_tells_every_setting_as_it_is() -> None:
    assert settings_table.written() == settings_table.table(), "run python -m tests.settings_table"


# ---- levels ---------------------------------------------------------------------------------------------------------

RULES = {
    "Logging:LogLevel:Default": "Warning",
    "Logging:LogLevel:Tollgate": "Error",
    "Logging:LogLevel:Tollgate.Meter": "Debug",
    "Logging:Disk:LogLevel": "Trace",
    "Logging:Console:LogLevel:tollgate.m": "Critical",
    "Logging:Fluentd:LogLevel:*.Web": "None",
}


@pytest.mark.parametrize(
    ("sink", "category", "level"),
    [
        ("Console", "Other", "Warning"),
        ("Console", "Tollgate.Web", "Error"),
        ("Console", "Tollgate.Meter", "Critical"),  # the sink's own rule beats a longer one for all
        ("Disk", "Tollgate.Meter", "Trace"),
        ("Disk", "Other", "Trace"),
        ("Fluentd", "Tollgate.Meter", "Debug"),
        ("Fluentd", "Tollgate.Metering", "Debug"),
        ("Fluentd", "Tollgate.Web", "None"),
        ("Fluentd", "Other", "Warning"),
    ],
)
def test_which_level_counts(sink: str, category: str, level: str) -> None:
    levels = load_settings([f"{name}={value}" for name, value in RULES.items()], {}).log_levels
    assert levels.level(sink, category) == level
    assert levels.lowest == "Trace"


def test_without_any_rule_it_is_information() -> None:
    assert {LogLevels().level(sink, "X") for sink in ("Console", "Disk", "Fluentd")} == {"Information"}
    assert LogLevels().lowest == "Information"


@pytest.mark.parametrize("level", LEVELS)
def test_each_level_in_any_case(level: str) -> None:
    for spelled in (level, level.lower(), level.upper()):
        assert load_settings([f"Logging:LogLevel:Default={spelled}"], {}).log_levels.level("Disk", "X") == level


def test_default_below_a_sink_beats_the_short_form() -> None:
    words = ["Logging:Disk:LogLevel=Error", "Logging:Disk:LogLevel:Default=Debug"]
    assert load_settings(words, {}).log_levels.level("Disk", "X") == "Debug"
