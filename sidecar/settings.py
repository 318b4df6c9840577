"""Settings: the contract's names, from words, environment and a file, into one frozen value.

Invariant: settings are read once, at start, and never change after that. Names are compared without regard to letter
case; `:`, `::` and `__` are the same separator; a word on the command line beats the environment, which beats the
file, which beats the default (contract A.1). Unknown names are ignored.
"""

from __future__ import annotations

import configparser
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sidecar.errors import SettingsError

DEFAULT_FILE = Path("/etc/tollgate/sidecar.conf")
STANDARD_MIN_INTERVAL_SECONDS = 600
STANDARD_MAX_INTERVAL_SECONDS = 900
STANDARD_MAX_ATTEMPTS = 10
_MAX_SOCKET_PATH_BYTES = 107
_LEVELS = ("Trace", "Debug", "Information", "Warning", "Error", "Critical", "None")


def _text(value: str) -> str:
    return value


def _flag(value: str) -> bool:
    lowered = value.lower()
    if lowered not in {"true", "false"}:
        raise ValueError("wants true or false")
    return lowered == "true"


def _path(value: str) -> Path:
    if not value or "\0" in value:
        raise ValueError("wants a path")
    return Path(value)


def _socket(value: str) -> Path:
    path = _path(value)
    if len(os.fsencode(path.absolute())) > _MAX_SOCKET_PATH_BYTES:
        raise ValueError(f"wants a path of at most {_MAX_SOCKET_PATH_BYTES} bytes, as the kernel does for sockets")
    return path


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(value: str) -> int:
        if not re.fullmatch(r"\d{1,9}", value) or not low <= int(value) <= high:
            raise ValueError(f"wants a whole number from {low} to {high}")
        return int(value)

    return parse


def _optional_whole(low: int, high: int) -> Callable[[str], int | None]:
    parse = _whole(low, high)
    return lambda value: parse(value) if value else None


def _listen(value: str) -> str:
    host, _, port = value.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) <= 65535:
        raise ValueError("wants HOST:PORT")
    return value


def _choice(*allowed: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        for one in allowed:
            if value.lower() == one.lower():
                return one
        raise ValueError(f"wants one of {', '.join(allowed)}")

    return parse


def _setting(name: str, parse: Callable[[str], Any], default: Any, meaning: str) -> Any:
    return field(default=default, metadata={"name": name, "parse": parse, "meaning": meaning})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Every setting that this service acts on; see each field's `meaning` (shown by `sidecar --help`)."""

    eula: str = _setting("Eula", _text, "", "'accept' to accept the licence terms; nothing starts without it")
    billing: str = _setting("Billing", _text, "", "billing endpoint (connected mode, licence download)")
    api_key: str = _setting("ApiKey", _text, "", "key for the billing endpoint; never logged")
    download_license: bool = _setting("DownloadLicense", _flag, False, "fetch the licence file, then exit")
    license_directory: Path = _setting("Mounts:License", _path, Path("/license"), "folder of licence files")
    output_directory: Path = _setting("Mounts:Output", _path, Path("/output"), "folder for usage records")
    shared_directory: Path = _setting("Mounts:Shared", _path, Path("/share"), "spool: documents and results")
    state_directory: Path = _setting(
        "Sidecar:StateDirectory", _path, Path("/var/lib/sidecar"), "ledger, device key and lease"
    )
    trust_root: Path = _setting(
        "Sidecar:TrustRoot", _path, Path("/etc/tollgate/trust-root.json"), "the vendor's public keys"
    )
    listen: str = _setting("Sidecar:Listen", _listen, "0.0.0.0:5000", "address of the HTTP API")
    core_socket: Path = _setting(
        "Sidecar:CoreSocket", _socket, Path("/run/sidecar/core.sock"), "Unix socket of the core"
    )
    host_id: str = _setting(
        "Sidecar:HostId", _text, "", "operator-set id that a licence may be bound to, for containers"
    )
    web_threads: int = _setting("Sidecar:WebThreads", _whole(4, 256), 64, "requests answered side by side")
    web_workers: int = _setting("Sidecar:WebWorkers", _whole(1, 16), 1, "web processes")
    max_document_bytes: int = _setting(
        "Sidecar:MaxDocumentBytes", _whole(1024, 536870912), 52428800, "largest document accepted, bytes"
    )
    max_queued_operations: int = _setting(
        "Sidecar:MaxQueuedOperations", _whole(1, 100000), 1000, "unfinished operations kept before 503"
    )
    core_workers: int | None = _setting(
        "Core:Workers", _optional_whole(1, 256), None, "pages recognised side by side (default: usable CPUs)"
    )
    cpu_info: Path = _setting("Core:CpuInfo", _path, Path("/proc/cpuinfo"), "where CPU flags are read")
    core_languages: str = _setting("Core:Languages", _text, "", "Tesseract languages when none is asked for (eng)")
    core_tessdata: str = _setting("Core:Tessdata", _text, "", "folder of language data")
    core_max_megapixels: str = _setting("Core:MaxMegapixels", _text, "", "pages are read at this size at most (3)")
    core_worker_memory: str = _setting("Core:WorkerMemoryMegabytes", _text, "", "memory limit of a core worker (2048)")
    page_timeout_seconds: int = _setting("Core:PageTimeoutSeconds", _whole(1, 3600), 60, "longest time for one page")
    min_interval_seconds: int = _setting(
        "Metering:MinIntervalSeconds", _whole(1, 86400), STANDARD_MIN_INTERVAL_SECONDS, "shortest window"
    )
    max_interval_seconds: int = _setting(
        "Metering:MaxIntervalSeconds", _whole(1, 86400), STANDARD_MAX_INTERVAL_SECONDS, "longest window"
    )
    max_attempts: int = _setting(
        "Metering:MaxAttempts", _whole(1, 1000), STANDARD_MAX_ATTEMPTS, "failed cycles before serving stops"
    )
    output_timeout_seconds: int = _setting(
        "Metering:OutputTimeoutSeconds", _whole(1, 300), 20, "how long the output mount may give no sign of life"
    )
    strict: bool = _setting("Metering:Strict", _flag, False, "refuse from the first failed cycle")
    result_minutes: int = _setting(
        "StorageTimeToLiveInMinutes", _whole(60, 10080), 2880, "how long results can be fetched"
    )
    max_running_minutes: int = _setting(
        "Task:MaxRunningTimeSpanInMinutes", _whole(1, 10080), 60, "an operation is failed after this long"
    )
    error_compat: str = _setting(
        "ErrorCompat", _choice("observed", "documented"), "observed", "error bodies: wrapped or flat"
    )
    log_level: str = _setting("Logging:Console:LogLevel:Default", _choice(*_LEVELS), "Information", "console level")

    @property
    def host(self) -> str:
        """Host part of `listen`."""
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """Port part of `listen`."""
        return int(self.listen.rpartition(":")[2])

    @property
    def has_standard_cadence(self) -> bool:
        """Whether windows and attempts are within what a production licence allows (600-900 s, ten attempts)."""
        return (
            self.min_interval_seconds >= STANDARD_MIN_INTERVAL_SECONDS
            and self.max_interval_seconds <= STANDARD_MAX_INTERVAL_SECONDS
            and self.max_attempts == STANDARD_MAX_ATTEMPTS
        )

    def to_environment(self) -> dict[str, str]:
        """All settings, as environment variables for a child process."""
        values = {one.metadata["name"].replace(":", "__"): getattr(self, one.name) for one in fields(self)}
        return {name: str(value) for name, value in values.items() if value not in (None, "")}


def canonical_name(name: str) -> str:
    """Fold a setting's name: lower case, one `:` between parts."""
    return re.sub(r"_{2,}|:+", ":", name.strip()).lower()


def is_setting(name: str) -> bool:
    """Whether a name, in any spelling, is one of our settings."""
    return canonical_name(name) in {canonical_name(one.metadata["name"]) for one in fields(Settings)}


def unknown_names(words: Iterable[str], environ: Mapping[str, str]) -> list[str]:
    """Names that look like ours and are none, most likely misspelt; they are ignored, and a person should know."""
    given = [*parse_words(words), *map(canonical_name, environ)]
    ours = ("sidecar:", "core:", "metering:", "mounts:")
    return sorted({name for name in given if name.startswith(ours) and not is_setting(name)} - {"mounts:input"})


def parse_words(words: Iterable[str]) -> dict[str, str]:
    """Read `Key=Value` words; quotes around the value or the whole word are taken off.

    Raises:
        SettingsError: A word has no `=`, or no name before it.
    """
    out: dict[str, str] = {}
    for word in words:
        bare = _unquote(word.strip())
        name, equals, value = bare.partition("=")
        name = name.strip().lstrip("-/")
        if not equals or not name:
            raise SettingsError(
                f"'{word}' is not a setting of the form Key=Value",
                next_step="write settings like eula=accept Mounts:License=/license",
                exit_code=64,
            )
        out[canonical_name(name)] = _unquote(value.strip())
    return out


def read_file(path: Path) -> dict[str, str]:
    """Read an INI or TOML file of settings; a section or table name is the part before the last `:`.

    Raises:
        SettingsError: The file cannot be read or is neither.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as exc:
        raise SettingsError(f"settings file {path}: {exc}", next_step="check its path, owner and encoding") from exc
    if path.suffix == ".toml":
        try:
            return dict(_flatten(tomllib.loads(text)))
        except tomllib.TOMLDecodeError as exc:
            raise SettingsError(f"settings file {path}: {exc}", next_step="mend the line named") from exc
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",), strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    try:
        parser.read_string(text if re.search(r"^\s*\[", text, re.MULTILINE) else f"[DEFAULT]\n{text}")
    except configparser.Error as exc:
        raise SettingsError(f"settings file {path}: {exc}", next_step="mend the line named") from exc
    out = {canonical_name(key): _unquote(value) for key, value in parser.defaults().items()}
    for section in parser.sections():
        for key, value in parser.items(section):
            if key not in parser.defaults():
                out[canonical_name(f"{section}:{key}")] = _unquote(value)
    return out


def load_settings(
    words: Iterable[str] = (), environ: Mapping[str, str] | None = None, file: Path | None = None
) -> Settings:
    """Gather all settings by their precedence and parse them.

    Args:
        words: `Key=Value` words of the command line.
        environ: The environment; `os.environ` by default.
        file: A settings file; without one, `SIDECAR_CONFIG` or `/etc/tollgate/sidecar.conf` is read if it is there.

    Raises:
        SettingsError: A value is out of its range; the text names the setting, the value (unless secret) and what
            was wanted.
    """
    environ = os.environ if environ is None else environ
    path = file or (Path(environ["SIDECAR_CONFIG"]) if environ.get("SIDECAR_CONFIG") else None)
    gathered: dict[str, str] = {}
    if path is not None:
        gathered |= read_file(path)
    elif DEFAULT_FILE.is_file():
        gathered |= read_file(DEFAULT_FILE)
    gathered |= {canonical_name(name): _unquote(value.strip()) for name, value in environ.items()}
    gathered |= parse_words(words)

    values: dict[str, Any] = {}
    for one in fields(Settings):
        name = one.metadata["name"]
        raw = gathered.get(canonical_name(name))
        if raw is None or (raw == "" and one.default is not MISSING):
            continue
        try:
            values[one.name] = one.metadata["parse"](raw)
        except ValueError as exc:
            shown = "(hidden)" if one.name == "api_key" else f"'{raw[:80]}'"
            raise SettingsError(f"{name}={shown}: {exc}", next_step=f"{name} is: {one.metadata['meaning']}") from exc
    settings = Settings(**values)
    if settings.min_interval_seconds > settings.max_interval_seconds:
        raise SettingsError(
            f"Metering:MinIntervalSeconds={settings.min_interval_seconds} is more than "
            f"Metering:MaxIntervalSeconds={settings.max_interval_seconds}",
            next_step="set both, the smaller one first",
        )
    return settings


def require_start(settings: Settings) -> None:
    """Refuse to start without the EULA, or with a billing endpoint that is no URI (contract A.6).

    Raises:
        SettingsError: With exit code 64 for the EULA, 65 otherwise.
    """
    if settings.eula.lower() != "accept":
        raise SettingsError(
            "The EULA=accept command-line option is missing; it must be provided to continue.",
            next_step="add eula=accept to the arguments, or EULA=accept to the environment",
            exit_code=64,
        )
    if settings.billing:
        parts = urlsplit(settings.billing)
        if parts.scheme not in {"http", "https"} or not parts.netloc:
            raise SettingsError("Invalid Billing Endpoint URI.", next_step="Billing wants an absolute http(s) address")
    if settings.download_license and not (settings.billing and settings.api_key):
        raise SettingsError(
            "DownloadLicense=True needs Billing and ApiKey",
            next_step="add billing=ADDRESS and apikey=KEY, as the vendor gave them",
        )


def _unquote(value: str) -> str:
    if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
        return value[1:-1]
    return value


def _flatten(table: Mapping[str, object], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in table.items():
        name = f"{prefix}:{key}" if prefix else key
        if isinstance(value, dict):
            yield from _flatten(value, name)
        else:
            yield canonical_name(name), str(value)
