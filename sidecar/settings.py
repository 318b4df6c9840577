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
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, quote, unquote, urlsplit

from sidecar.addresses import DocumentSources, TrustedProxies, read_origins
from sidecar.errors import SettingsError
from sidecar.log_levels import LEVEL_FAMILY, LEVELS, LogLevels, is_level_name, level_name

LAUNCHER_VARIABLE = "TOLLGATE_LAUNCHER"
"""In the environment of what the launcher keeps: the launcher's process id."""
DEFAULT_FILE = Path("/etc/tollgate/sidecar.conf")
LEDGER_NAME = "ledger.db"
DAMAGED_SUFFIX = ".damaged"
STANDARD_MIN_INTERVAL_SECONDS = 600
STANDARD_MAX_INTERVAL_SECONDS = 900
STANDARD_MAX_ATTEMPTS = 10
DEFAULT_RESULT_SECONDS = 48 * 3600
AUTO, CONNECTED, DISCONNECTED = "auto", "connected", "disconnected"
FETCHED_LICENSES = "licenses"
"""Folder below the core's state: the licences of connected mode, fetched by the meter."""
_PROXY_PORT = 80
_MAX_SOCKET_PATH_BYTES = 107
_MAX_NAME_LENGTH = 253


@dataclass(frozen=True, slots=True)
class Kind:
    """What values a setting takes.

    Attributes:
        wants: In words, as messages and the documentation tell it.
        read: The value from its text; ValueError when it is none.
    """

    wants: str
    read: Callable[[str], Any]


def _read_flag(value: str) -> bool:
    return {"true": True, "false": False}[value.lower()]


def _read_path(value: str) -> Path:
    if not value or "\0" in value:
        raise ValueError(value)
    return Path(value)


def _read_socket(value: str) -> Path:
    path = _read_path(value)
    if len(os.fsencode(path.absolute())) > _MAX_SOCKET_PATH_BYTES:
        raise ValueError(value)
    return path


def _read_listen(value: str) -> str:
    host, _, port = value.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) <= 65535:
        raise ValueError(value)
    return value


def _read_host(value: str) -> str:
    """A name or an address, an IPv6 one with or without brackets."""
    bare = value[1:-1] if value.startswith("[") and value.endswith("]") else value
    if len(bare) > _MAX_NAME_LENGTH or not re.fullmatch(r"[A-Za-z0-9_.-]+|[0-9A-Fa-f:.]+(%[A-Za-z0-9_.-]+)?", bare):
        raise ValueError(value)
    return bare


def _read_proxy(value: str) -> Proxy:
    """The proxy's address; many a host's environment has it without a scheme, and then with its port."""
    parts = urlsplit(f"http://{value}" if re.fullmatch(r"[^/@?#]+:\d{1,5}", value) else value)
    if parts.scheme != "http" or not parts.hostname or parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise ValueError(value)
    credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else ""
    return Proxy(host=_read_host(parts.hostname), port=parts.port or _PROXY_PORT, credentials=credentials)


def _read_credentials(value: str) -> str:
    if not value.partition(":")[0] or ":" not in value or not value.isprintable():
        raise ValueError(value)
    return value


def _read_hosts(value: str) -> tuple[str, ...]:
    """The hosts of addresses, in small letters; a name may begin with `.` or `*.`, for all below it."""
    hosts = []
    for one in filter(None, re.split(r"[\s,;]+", value)):
        host = (urlsplit(one if "://" in one else f"//{one}").hostname or "").removeprefix("*")
        _read_host(host)
        hosts.append(host)
    return tuple(hosts)


def _read_models(value: str) -> str:
    if not all(re.fullmatch(r"\s*[\w/.-]*\s*", model) for model in value.split("+")):
        raise ValueError(value)
    return value


def _read_megapixels(value: str) -> float:
    number = float(value)
    if not 0.5 <= number <= 100:
        raise ValueError(value)
    return number


_text = Kind("a text", str)
_models = Kind("names of models as eng, joined by +", _read_models)
_megapixels = Kind("a number from 0.5 to 100", _read_megapixels)
_flag = Kind("true or false", _read_flag)
_path = Kind("a path", _read_path)
_socket = Kind(f"a path of at most {_MAX_SOCKET_PATH_BYTES} bytes, as the kernel does for sockets", _read_socket)
_listen = Kind("HOST:PORT with a port from 1 to 65535", _read_listen)
_host = Kind("a host name or an IP address", _read_host)
_proxy = Kind("http://HOST:PORT", _read_proxy)
_credentials = Kind("USER:PASSWORD", _read_credentials)
_urls = Kind("addresses or host names, separated by commas, semicolons or blanks", _read_hosts)


_sources = Kind(
    "places as https://HOST[:PORT][/PATH] and address ranges as 10.1.0.0/16, separated by commas or blanks",
    DocumentSources.from_text,
)
_proxies = Kind("true, false, or the address ranges of proxies as 10.1.0.0/16", TrustedProxies.from_text)
_origins = Kind("* or origins as https://HOST[:PORT], separated by commas or blanks", read_origins)


def _whole(low: int, high: int, *, unlimited: bool = False) -> Kind:
    """A whole number; with `unlimited`, -1 too, which the field holds as None."""

    def read(value: str) -> int | None:
        if unlimited and value == "-1":
            return None
        if not re.fullmatch(r"[0-9]{1,9}", value) or not low <= int(value) <= high:
            raise ValueError(value)
        return int(value)

    return Kind(f"a whole number from {low} to {high}{', or -1 for no limit' if unlimited else ''}", read)


def _choice(*allowed: str) -> Kind:
    def read(value: str) -> str:
        return {one.lower(): one for one in allowed}[value.lower()]

    return Kind(f"one of {', '.join(allowed)}" if len(allowed) > 1 else allowed[0], read)


_level = _choice(*LEVELS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """The proxy through which the billing endpoint is reached.

    Attributes:
        host: Its name or address.
        port: Its port.
        credentials: `user:password` where the address itself carried them; never logged.
    """

    host: str
    port: int
    credentials: str = field(default="", repr=False)

    def __str__(self) -> str:
        user, _, password = self.credentials.partition(":")
        before = f"{quote(user, safe='')}:{quote(password, safe='')}@" if user else ""
        return f"http://{before}{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def _setting(name: str, kind: Kind, default: Any, meaning: str, *, secret: bool = False) -> Any:
    return field(
        default=default,
        metadata={"name": name, "kind": kind, "meaning": meaning, "secret": secret},
        repr=not secret,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Every setting that this service acts on; see each field's `meaning` (shown by `sidecar --help`)."""

    eula: str = _setting("Eula", _text, "", "'accept' to accept the licence terms; nothing starts without it")
    billing: str = _setting(
        "Billing",
        _text,
        "",
        "billing endpoint: with ApiKey, and without Mounts:License, usage is reported to it",
    )
    api_key: str = _setting("ApiKey", _text, "", "key for the billing endpoint; never logged", secret=True)
    download_license: bool = _setting("DownloadLicense", _flag, False, "fetch the licence file, then exit")
    mode: str = _setting(
        "Sidecar:Mode",
        _choice(AUTO, CONNECTED, DISCONNECTED),
        AUTO,
        "connected: the meter fetches the licence from Billing and reports to it; auto: so without Mounts:License",
    )
    license_directory: Path = _setting(
        "Mounts:License", _path, Path("/license"), "folder of licence files; set, it means disconnected"
    )
    output_directory: Path = _setting("Mounts:Output", _path, Path("/output"), "folder for usage records")
    shared_directory: Path = _setting("Mounts:Shared", _path, Path("/share"), "spool: documents and results")
    state_directory: Path = _setting(
        "Sidecar:StateDirectory", _path, Path("/var/lib/sidecar"), "ledger, device key and lease"
    )
    state_on_output: bool = _setting(
        "Sidecar:StateOnOutput",
        _flag,
        False,
        "in a container with no volume for the state: keep it on the output mount (the image sets it)",
    )
    device_key: Path | None = _setting(
        "Sidecar:DeviceKeyDirectory",
        _path,
        None,
        "where the meter keeps the device key, apart from what web writes to (the state directory)",
    )
    core_state: Path | None = _setting(
        "Sidecar:CoreStateDirectory",
        _path,
        None,
        "what the core must know of the state: device.pub, the licence in force, revocations (the state directory)",
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
    document_sources: DocumentSources = _setting(
        "Sidecar:AllowedImageSources", _sources, DocumentSources(), "from where documents are fetched by URL; else none"
    )
    trusted_proxies: TrustedProxies = _setting(
        "Sidecar:TrustForwardedHeaders", _proxies, TrustedProxies(), "whose X-Forwarded- headers are believed"
    )
    cors_origins: tuple[str, ...] = _setting(
        "Sidecar:CorsAllowedOrigins", _origins, (), "web pages of other origins that may call this service"
    )
    core_workers: int | None = _setting(
        "Core:Workers",
        _whole(1, 256),
        None,
        "pages recognised side by side (default: usable CPUs, fewer if memory is short)",
    )
    cpu_info: Path = _setting("Core:CpuInfo", _path, Path("/proc/cpuinfo"), "where CPU flags are read")
    core_languages: str = _setting(
        "Core:Languages", _models, "", "models when no language is asked for, as deu+eng; empty detects"
    )
    core_tessdata: Path | None = _setting(
        "Core:Tessdata", _path, None, "folder of language data (where Debian installs it)"
    )
    core_max_megapixels: float | None = _setting(
        "Core:MaxMegapixels",
        _megapixels,
        None,
        "pages are read at this size at most (3), large print smaller; above 3 as they come",
    )
    core_worker_memory: int | None = _setting(
        "Core:WorkerMemoryMegabytes", _whole(512, 2**20), None, "memory limit of a core worker (2048)"
    )
    core_worker_recycle: int | None = _setting(
        "Core:WorkerRecycleMegabytes",
        _whole(32, 2**20),
        None,
        "a core worker that holds more after a page is replaced (256)",
    )
    core_second_engine: str = _setting(
        "Core:SecondEngine", _choice("auto", "off", "required"), "auto", "a second engine for handwriting and photos"
    )
    core_second_engine_for_print: bool = _setting(
        "Core:SecondEngineForPrint",
        _flag,
        False,
        "the second engine reads receipts and poor typescript, too: better, in several times the time",
    )
    core_confinement: str = _setting(
        "Core:Confinement",
        _choice("auto", "off"),
        "auto",
        "the core gives up what it does not need; off to find faults",
    )
    page_timeout_seconds: int = _setting("Core:PageTimeoutSeconds", _whole(1, 3600), 60, "longest time for one page")
    min_interval_seconds: int = _setting(
        "Metering:MinIntervalSeconds",
        _whole(1, 86400),
        STANDARD_MIN_INTERVAL_SECONDS,
        "shortest window; less than 600 under an evaluation licence only",
    )
    max_interval_seconds: int = _setting(
        "Metering:MaxIntervalSeconds",
        _whole(1, 86400),
        STANDARD_MAX_INTERVAL_SECONDS,
        "longest window; more than 900 under an evaluation licence only",
    )
    max_attempts: int = _setting(
        "Metering:MaxAttempts",
        _whole(1, 1000),
        STANDARD_MAX_ATTEMPTS,
        "failed cycles before serving stops; other than 10 under an evaluation licence only",
    )
    output_timeout_seconds: int = _setting(
        "Metering:OutputTimeoutSeconds", _whole(1, 300), 20, "how long the output mount may give no sign of life"
    )
    strict: bool = _setting("Metering:Strict", _flag, False, "refuse from the first failed cycle")
    result_minutes: int | None = _setting(
        "StorageTimeToLiveInMinutes", _whole(60, 10080), None, "how long results can be fetched (48 hours)"
    )
    result_days: int | None = _setting(
        "Storage:TimeToLiveInDays", _whole(1, 7), None, "the same in days, where no minutes are set"
    )
    result_hours_v2: int | None = _setting(
        "ReadEngineConfig:ResultExpirationPeriod",
        _whole(0, 87600),
        None,
        "the same in hours for results of v2.0 and v2.1; 0: gone after they were fetched once",
    )
    max_running_minutes: int = _setting(
        "Task:MaxRunningTimeSpanInMinutes", _whole(1, 10080), 60, "an operation is failed after this long"
    )
    error_compat: str = _setting(
        "ErrorCompat", _choice("observed", "documented"), "observed", "error bodies: wrapped or flat"
    )
    log_levels: LogLevels = field(default_factory=LogLevels)
    disk_log_format: str = _setting(
        "Logging:Disk:Format", _choice("json"), "", "json: log to files on the output mount too"
    )
    disk_log_megabytes: int | None = _setting(
        "Logging:Disk:MaxFileSize", _whole(1, 1024, unlimited=True), 1, "megabytes after which a new file begins"
    )
    disk_log_files: int | None = _setting(
        "Logging:Disk:MaxFiles", _whole(2, 10000, unlimited=True), 20, "files kept for each process, the oldest goes"
    )
    fluentd_host: str = _setting("Fluentd:Host", _host, "", "Fluentd server that the log is sent to; else none is")
    fluentd_port: int = _setting("Fluentd:Port", _whole(1, 65535), 24224, "its port")
    fluentd_heartbeat_ms: int = _setting(
        "Fluentd:HeartbeatMs", _whole(1000, 86400000), 60000, "a heartbeat is sent after so long a silence"
    )
    fluentd_buffer_bytes: int = _setting(
        "Fluentd:SendBufferSize", _whole(1024, 16777216), 32768, "the socket's send buffer"
    )
    fluentd_tls_ms: int = _setting(
        "Fluentd:TlsConnectionEstablishmentTimeoutMs", _whole(100, 600000), 10000, "longest time for TLS to stand"
    )
    fluentd_tls: bool = _setting("Fluentd:UseTLS", _flag, False, "whether to use TLS; the certificate is verified")
    fluentd_ca_file: Path | None = _setting(
        "Sidecar:FluentdCaFile", _path, None, "certificates to verify Fluentd's by (the system's)"
    )
    billing_ca_file: Path | None = _setting(
        "Sidecar:BillingCaFile", _path, None, "certificates to verify the billing endpoint's by (the system's)"
    )
    proxy: Proxy | None = _setting("HTTP_PROXY", _proxy, None, "proxy on the way to the billing endpoint", secret=True)
    proxy_credentials: str = _setting("HTTP_PROXY_CREDS", _credentials, "", "for the proxy; never logged", secret=True)
    proxy_bypass: tuple[str, ...] = _setting(
        "HTTP_PROXY_BYPASS_URLS", _urls, (), "billing endpoints that are reached without the proxy"
    )
    memory_limit_megabytes: int | None = _setting(
        "HealthCheck:MemoryUpperboundInMB", _whole(64, 16777216), None, "/ContainerLiveness answers 503 above it"
    )

    @property
    def host(self) -> str:
        """Host part of `listen`."""
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """Port part of `listen`."""
        return int(self.listen.rpartition(":")[2])

    @property
    def ledger_path(self) -> Path:
        """Where the ledger is."""
        return self.state_directory / LEDGER_NAME

    @property
    def damage_mark(self) -> Path:
        """The mark that is left by a process which met damage in the ledger."""
        return self.state_directory / f"{LEDGER_NAME}{DAMAGED_SUFFIX}"

    @property
    def device_key_directory(self) -> Path:
        """Where the private half of the device key lies."""
        return self.device_key or self.state_directory

    @property
    def core_state_directory(self) -> Path:
        """Where the public part of the state lies, which the core reads too."""
        return self.core_state or self.state_directory

    @property
    def is_connected(self) -> bool:
        """Whether the meter lives on a licence that it fetches, and reports usage to `billing`."""
        return self.mode == CONNECTED

    @property
    def license_folder(self) -> Path:
        """The folder of licence files: the operator's, or the meter's own when it fetches them."""
        return self.core_state_directory / FETCHED_LICENSES if self.is_connected else self.license_directory

    @property
    def endpoint_place(self) -> str:
        """Scheme, host and port of the billing endpoint, for people: without path and credentials."""
        parts = urlsplit(self.billing)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.netloc else ""

    @property
    def has_standard_cadence(self) -> bool:
        """Whether windows and attempts are within what a production licence allows (600-900 s, ten attempts)."""
        return (
            self.min_interval_seconds >= STANDARD_MIN_INTERVAL_SECONDS
            and self.max_interval_seconds <= STANDARD_MAX_INTERVAL_SECONDS
            and self.max_attempts == STANDARD_MAX_ATTEMPTS
        )

    @property
    def result_seconds(self) -> int:
        """How long results can be fetched: the minutes where they are set, else the days, else 48 hours."""
        if self.result_minutes is not None:
            return self.result_minutes * 60
        return self.result_days * 86400 if self.result_days is not None else DEFAULT_RESULT_SECONDS

    @property
    def result_seconds_v2(self) -> int:
        """The same for results of v2.0 and v2.1; zero means until they were fetched once."""
        return self.result_hours_v2 * 3600 if self.result_hours_v2 is not None else self.result_seconds

    def to_environment(self, *, secrets: bool = True) -> dict[str, str]:
        """All settings, as environment variables for a child process.

        Args:
            secrets: Whether it is to get those that are secret, or may hold a secret.
        """
        out = {}
        for one in named_fields():
            if not secrets and (one.metadata["secret"] or one.metadata["kind"] is _proxy):
                continue
            value = getattr(self, one.name)
            if value is None and one.default is not None:
                value = -1  # no limit, where there is one by default
            if value not in (None, "", ()):
                text = " ".join(value) if isinstance(value, tuple) else str(value)
                out[one.metadata["name"].replace(":", "__")] = text
        return out | {name.replace(":", "__"): level for name, level in self.log_levels.to_settings().items()}


def named_fields() -> list[Field[Any]]:
    """The fields that are one setting each; the levels of the log are told by a family of names instead."""
    return [one for one in fields(Settings) if one.metadata]


def described() -> list[tuple[str, str, str, str]]:
    """Every setting that has an effect, for people: name, default, what it takes, what it means."""
    out = []
    for one in named_fields():
        default = "" if one.default in (None, "", ()) else str(one.default).replace("False", "false")
        out.append((one.metadata["name"], default, one.metadata["kind"].wants, one.metadata["meaning"]))
    return out + [(name, default, _level.wants, meaning) for name, default, meaning in LEVEL_FAMILY]


@dataclass(frozen=True, slots=True, kw_only=True)
class NotUsed:
    """A setting of the original container that is accepted, and has no effect here.

    Attributes:
        name: Its name; one that ends in `:*` stands for all names below it.
        reason: Why, in a few words.
    """

    name: str
    reason: str

    def is_meant_by(self, canonical: str) -> bool:
        """Whether a folded name is this setting."""
        own = canonical_name(self.name)
        return canonical.startswith(own[:-1]) or canonical == own[:-2] if own.endswith(":*") else canonical == own


_SPOOL = "documents and results lie in the folder Mounts:Shared"
_NO_QUEUE = "each instance reads its own documents"
_NO_NTP = "the host keeps its clock; this service never asks a time server"
NOT_USED = (
    NotUsed(name="Mounts:Input", reason="the OCR models are installed with the core"),
    NotUsed(name="ApplicationInsights:*", reason="no telemetry is ever sent"),
    NotUsed(name="Logging:Debug:*", reason="there is no debugger that it could go to"),
    NotUsed(name="Cache:Redis:*", reason=_SPOOL),
    NotUsed(name="Queue:RabbitMQ:*", reason=_NO_QUEUE),
    NotUsed(name="Queue:Azure:*", reason=_NO_QUEUE),
    NotUsed(name="Storage:DocumentStore:*", reason=_SPOOL),
    NotUsed(name="Storage:ObjectStore:*", reason=_SPOOL),
    NotUsed(name="EnableSyncNTPServer", reason=_NO_NTP),
    NotUsed(name="NTPServerAddress", reason=_NO_NTP),
)


def canonical_name(name: str) -> str:
    """Fold a setting's name: lower case, one `:` between parts."""
    return re.sub(r"_{2,}|:+", ":", name.strip()).lower()


def is_setting(name: str) -> bool:
    """Whether a name, in any spelling, is a setting, used here or not."""
    canonical = canonical_name(name)
    return (
        canonical in {canonical_name(one.metadata["name"]) for one in named_fields()}
        or is_level_name(canonical)
        or _not_used(canonical) is not None
    )


def _not_used(canonical: str) -> NotUsed | None:
    return next((one for one in NOT_USED if one.is_meant_by(canonical)), None)


def unknown_names(words: Iterable[str], environ: Mapping[str, str], file: Path | None = None) -> list[str]:
    """Names that look like ours and are none, most likely misspelt; they are ignored, and a person should know."""
    ours = ("sidecar:", "core:", "metering:", "mounts:", "logging:", "fluentd:", "healthcheck:", "readengineconfig:")
    return sorted(name for name in gather(words, environ, file) if name.startswith(ours) and not is_setting(name))


def unused_names(words: Iterable[str], environ: Mapping[str, str], file: Path | None = None) -> list[tuple[str, str]]:
    """Settings that were given and are accepted without effect: name and reason. Their values are nobody's concern.

    Raises:
        SettingsError: The file cannot be read.
    """
    found = {}
    for canonical in gather(words, environ, file):
        one = _not_used(canonical)
        if one is not None:
            found[one.name.removesuffix(":*")] = one.reason
    return sorted(found.items())


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
        cause = exc.strerror if isinstance(exc, OSError) and exc.strerror else exc
        raise SettingsError(f"settings file {path}: {cause}", next_step="check its path, owner and encoding") from exc
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
    settings, refused = load_what_is_valid(words, environ, file)
    if refused:
        raise refused[0]
    return settings


def load_what_is_valid(
    words: Iterable[str] = (), environ: Mapping[str, str] | None = None, file: Path | None = None
) -> tuple[Settings, list[SettingsError]]:
    """As `load_settings`, but a setting that cannot be used keeps its default.

    Returns:
        The settings, and what is wrong with those that were left out.

    Raises:
        SettingsError: A word is no `Key=Value`, or the file cannot be read.
    """
    gathered = gather(words, os.environ if environ is None else environ, file)
    refused: list[SettingsError] = []
    values: dict[str, Any] = {}
    for one in named_fields():
        raw = gathered.get(canonical_name(one.metadata["name"]), "")
        if raw:
            try:
                values[one.name] = _parsed(
                    one.metadata["name"], raw, one.metadata["kind"], secret=one.metadata["secret"]
                )
            except SettingsError as exc:
                refused.append(exc)
    levels = {}
    for name, raw in gathered.items():
        if raw and is_level_name(name):
            try:
                levels[name] = _parsed(level_name(name), raw, _level)
            except SettingsError as exc:
                refused.append(exc)
    settings = Settings(**values, log_levels=LogLevels.from_settings(levels))
    if settings.proxy is not None and settings.proxy_credentials:
        settings = replace(settings, proxy=replace(settings.proxy, credentials=settings.proxy_credentials))
    if settings.mode == AUTO and _is_meant_connected(settings, mounted=bool(gathered.get("mounts:license"))):
        settings = replace(settings, mode=CONNECTED)
    if settings.min_interval_seconds > settings.max_interval_seconds:
        refused.append(
            SettingsError(
                f"Metering:MinIntervalSeconds={settings.min_interval_seconds} is more than "
                f"Metering:MaxIntervalSeconds={settings.max_interval_seconds}",
                next_step="set both, the smaller one first",
            )
        )
        settings = replace(
            settings,
            min_interval_seconds=STANDARD_MIN_INTERVAL_SECONDS,
            max_interval_seconds=STANDARD_MAX_INTERVAL_SECONDS,
        )
    return settings, refused


def _is_meant_connected(settings: Settings, *, mounted: bool) -> bool:
    """How metering is done where nobody says so (contract A.2): a licence folder decides, whatever else is given."""
    return not mounted and not settings.download_license and bool(settings.billing or settings.api_key)


def gather(words: Iterable[str], environ: Mapping[str, str], file: Path | None = None) -> dict[str, str]:
    """All names that were given, folded, with the value that counts; most of the environment is none of ours.

    Raises:
        SettingsError: A word is no `Key=Value`, or the file cannot be read.
    """
    path = file or (Path(environ["SIDECAR_CONFIG"]) if environ.get("SIDECAR_CONFIG") else None)
    gathered: dict[str, str] = {}
    if path is not None:
        gathered |= read_file(path)
    elif DEFAULT_FILE.is_file():
        gathered |= read_file(DEFAULT_FILE)
    # `http_proxy` is what the host's own programs go by; ours is the contract's name, as the contract spells it.
    gathered |= {
        canonical_name(name): _unquote(value.strip())
        for name, value in environ.items()
        if name == name.upper() or not canonical_name(name).startswith("http_proxy")
    }
    return gathered | parse_words(words)


def _parsed(name: str, raw: str, kind: Kind, *, secret: bool = False) -> Any:
    try:
        return kind.read(raw)
    except (ValueError, LookupError) as exc:
        shown = "(hidden)" if secret else f"'{raw[:80]}'"
        raise SettingsError(
            f"{name}={shown}: wants {kind.wants}",
            next_step=f"set {name} to {kind.wants}; or leave it out, for its default",
        ) from exc


def require_start(settings: Settings, *, reports: bool = False) -> None:
    """Refuse to start without the EULA, or with a billing endpoint that is no URI (contract A.6).

    Args:
        settings: The settings.
        reports: Whether this process is the one that reports, or starts it: it needs Billing and ApiKey, the others
            are better off without the key.

    Raises:
        SettingsError: With exit code 64 for the EULA, 65 otherwise.
    """
    if settings.eula.lower() != "accept":
        raise SettingsError(
            f"Eula='{settings.eula[:80]}' is not 'accept'; EULA=accept must be provided to continue."
            if settings.eula
            else "The EULA=accept command-line option is missing; it must be provided to continue.",
            next_step="add eula=accept to the arguments, or EULA=accept to the environment",
            exit_code=64,
        )
    if settings.billing:
        parts = urlsplit(settings.billing)
        if parts.scheme not in {"http", "https"} or not parts.hostname or not _has_port(parts):
            raise SettingsError("Invalid Billing Endpoint URI.", next_step="Billing wants an absolute http(s) address")
    if reports and settings.is_connected and not settings.download_license:
        absent = [name for name, value in (("Billing", settings.billing), ("ApiKey", settings.api_key)) if not value]
        if absent:
            raise SettingsError(
                "connected mode needs Eula, Billing and ApiKey, all three; "
                f"{' and '.join(absent)} {'are' if len(absent) > 1 else 'is'} missing",
                next_step="add billing=ADDRESS and apikey=KEY, as the vendor gave them; or name a folder with a "
                "licence file by Mounts:License, to work disconnected",
            )
    if settings.download_license and not (settings.billing and settings.api_key):
        raise SettingsError(
            "DownloadLicense=True needs Billing and ApiKey",
            next_step="add billing=ADDRESS and apikey=KEY, as the vendor gave them",
        )


def _has_port(parts: SplitResult) -> bool:
    """Whether the port, if there is one, is a number from 1 to 65535."""
    try:
        return parts.port != 0
    except ValueError:
        return False


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
