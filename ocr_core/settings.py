"""What the core is told at its start: `Key=Value` words over environment variables over defaults.

Invariants:

* Names compare without regard to case; `:`, `::` and `__` separate alike.
* Unknown names are ignored: the same words are given to all processes of the appliance.
* Settings are read once, into a frozen value; nothing else looks at the environment.
"""

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast, get_args

from ocr_core.documents.page_image import MAX_PIXELS
from ocr_core.limits import affordable_workers, usable_cpus, usable_memory_bytes
from ocr_core.second_engine import Wish, standing
from ocr_core.tesseract import DEFAULT_TESSDATA

T = TypeVar("T")

_SEPARATORS = re.compile(r"::?|__")
_WORD = re.compile(r"([A-Za-z][A-Za-z0-9_:]*)=(.*)\Z", re.DOTALL)


# Each beats those before it.
_LEVEL_NAMES = (
    "Logging:LogLevel:Default",
    "Logging:LogLevel:ocr_core",
    "Logging:Console:LogLevel:Default",
    "Logging:Console:LogLevel:ocr_core",
)
_LEVELS = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "information": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
    "none": logging.CRITICAL + 1,
}


class SettingsError(ValueError):
    """A setting's value cannot be used; the message names the setting."""


class WordError(SettingsError):
    """A word on the command line is not `Key=Value`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything the core can be told.

    Attributes:
        socket: Where it listens (`Sidecar:CoreSocket`).
        state_directory: Where the device's public key lies (`Sidecar:CoreStateDirectory`, else
            `Sidecar:StateDirectory`).
        trust_root: The vendor's public keys (`Sidecar:TrustRoot`).
        host_id: The operator's own name for this host, which a licence may be bound to (`Sidecar:HostId`).
        license_directory: The licence folder (`Mounts:License`).
        shared_directory: The folder of documents (`Mounts:Shared`).
        workers: How many pages are read at once (`Core:Workers`; the CPUs that may be used, or fewer where memory
            is short).
        is_short_of_memory: Whether memory is why there are fewer workers than CPUs.
        cpu_info: The file that lists the CPU's flags (`Core:CpuInfo`).
        tessdata: The folder of the models (`Core:Tessdata`, or TESSDATA_PREFIX).
        languages: Models to read with when the caller names no language (`Core:Languages`, joined by +); empty has the
            language detected among all that are installed.
        page_timeout_seconds: Deadline for one page (`Core:PageTimeoutSeconds`).
        max_pixels: Pages are shrunk to this many pixels (`Core:MaxMegapixels`).
        memory_bytes: Address space of one worker (`Core:WorkerMemoryMegabytes`).
        recycle_bytes: A worker that holds more than this after a page is replaced (`Core:WorkerRecycleMegabytes`).
        is_confined: Whether processes give up what they do not need (`Core:Confinement`: auto, or off to find faults).
        second_engine: Whether handwriting and photos are shown to a second engine (`Core:SecondEngine`): where it is
            installed, never, or always, so that the core does not start without it.
        second_engine_for_print: Whether it reads print that reads badly, too (`Core:SecondEngineForPrint`).
        log_level: What is logged, from this level on, as the standard library counts levels
            (`Logging:Console:LogLevel:ocr_core`, else `…:Default`, else the same below `Logging:LogLevel`).
        die_with_parent: Stop when the process that started the core is gone (`Core:DieWithParent`).
    """

    socket: Path = Path("/run/sidecar/core.sock")
    state_directory: Path = Path("/var/lib/sidecar")
    trust_root: Path = Path("/etc/tollgate/trust-root.json")
    host_id: str | None = None
    license_directory: Path = Path("/license")
    shared_directory: Path = Path("/share")
    workers: int = 1
    is_short_of_memory: bool = False
    cpu_info: Path = Path("/proc/cpuinfo")
    tessdata: Path = DEFAULT_TESSDATA
    languages: tuple[str, ...] = ()
    page_timeout_seconds: int = 60
    max_pixels: int = MAX_PIXELS
    memory_bytes: int = 2 * 1024**3
    recycle_bytes: int = 256 * 1024**2
    second_engine: Wish = "auto"
    second_engine_for_print: bool = False
    is_confined: bool = True
    log_level: int = logging.INFO
    die_with_parent: bool = False

    @classmethod
    def from_mapping(cls, values: Mapping[str, str]) -> "Settings":
        """Settings from names as people write them.

        Raises:
            SettingsError: A value cannot be used.
        """
        found = {_canonical(name): value.strip() for name, value in values.items()}

        def take(name: str, default: T, read: Callable[[str], T]) -> T:
            value = found.get(_canonical(name), "")
            if not value:
                return default
            try:
                return read(value)
            except ValueError as exc:
                raise SettingsError(f"{name}={value}: {exc}") from exc

        default = cls()
        second_engine = take("Core:SecondEngine", default.second_engine, _wish)
        workers, is_short_of_memory = take("Core:Workers", 0, _between(1, 256)), False
        if not workers:
            cpus, has_second_engine = usable_cpus(), standing(second_engine).available
            workers = affordable_workers(cpus, usable_memory_bytes(), has_second_engine=has_second_engine)
            is_short_of_memory = workers < cpus
        log_level = default.log_level
        for name in _LEVEL_NAMES:
            log_level = take(name, log_level, _level)
        tessdata = take("TESSDATA_PREFIX", default.tessdata, _path)
        return cls(
            socket=take("Sidecar:CoreSocket", default.socket, _path),
            state_directory=take(
                "Sidecar:CoreStateDirectory", take("Sidecar:StateDirectory", default.state_directory, _path), _path
            ),
            trust_root=take("Sidecar:TrustRoot", default.trust_root, _path),
            host_id=take("Sidecar:HostId", default.host_id, str),
            license_directory=take("Mounts:License", default.license_directory, _path),
            shared_directory=take("Mounts:Shared", default.shared_directory, _path),
            workers=workers,
            is_short_of_memory=is_short_of_memory,
            cpu_info=take("Core:CpuInfo", default.cpu_info, _path),
            tessdata=take("Core:Tessdata", tessdata, _path),
            languages=take("Core:Languages", default.languages, _models),
            page_timeout_seconds=take("Core:PageTimeoutSeconds", default.page_timeout_seconds, _between(1, 3600)),
            max_pixels=take("Core:MaxMegapixels", default.max_pixels, _megapixels),
            memory_bytes=1024**2
            * take("Core:WorkerMemoryMegabytes", default.memory_bytes // 1024**2, _between(512, 2**20)),
            recycle_bytes=1024**2
            * take("Core:WorkerRecycleMegabytes", default.recycle_bytes // 1024**2, _between(32, 2**20)),
            is_confined=take("Core:Confinement", default.is_confined, _auto_or_off),
            second_engine=second_engine,
            second_engine_for_print=take("Core:SecondEngineForPrint", default.second_engine_for_print, _boolean),
            log_level=log_level,
            die_with_parent=take("Core:DieWithParent", default.die_with_parent, _boolean),
        )


def read_settings(words: Iterable[str], environment: Mapping[str, str]) -> Settings:
    """Settings from the command line and the environment; a word beats a variable.

    Raises:
        WordError: A word is not `Key=Value`.
        SettingsError: A value cannot be used.
    """
    given = {_canonical(name): value for name, value in environment.items()}
    for word in words:
        match = _WORD.match(word)
        if match is None:
            raise WordError(f"{word!r} is not of the form Key=Value")
        given[_canonical(match[1])] = match[2]
    return Settings.from_mapping(given)


def _canonical(name: str) -> str:
    return name.casefold() if name.casefold() == "tessdata_prefix" else _SEPARATORS.sub(":", name).casefold()


def _path(value: str) -> Path:
    if "\0" in value:
        raise ValueError("a path has no NUL")
    return Path(value).absolute()


def _between(low: int, high: int) -> Callable[[str], int]:
    def read(value: str) -> int:
        if not (value.isascii() and value.isdigit() and len(value) < 10 and low <= int(value) <= high):
            raise ValueError(f"must be a whole number from {low} to {high}")
        return int(value)

    return read


def _megapixels(value: str) -> int:
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not 0.5 <= number <= 100:
        raise ValueError("must be a number from 0.5 to 100")
    return round(number * 1_000_000)


def _models(value: str) -> tuple[str, ...]:
    models = tuple(part.strip() for part in value.split("+") if part.strip())
    if not models:
        raise ValueError("must name at least one model, as in eng+deu")
    return models


def _level(value: str) -> int:
    try:
        return _LEVELS[value.casefold()]
    except KeyError:
        raise ValueError("must be one of Trace, Debug, Information, Warning, Error, Critical, None") from None


def _wish(value: str) -> Wish:
    for wish in get_args(Wish):
        if value.casefold() == wish:
            return cast("Wish", wish)
    raise ValueError("must be one of auto, off, required")


def _auto_or_off(value: str) -> bool:
    if value.casefold() not in ("auto", "off"):
        raise ValueError("must be auto or off")
    return value.casefold() == "auto"


def _boolean(value: str) -> bool:
    if value.casefold() not in ("true", "false"):
        raise ValueError("must be true or false")
    return value.casefold() == "true"
