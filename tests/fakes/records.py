"""A meter for tests: writes real record files and checkpoints, as long or as broken as a test wants them.

meter = FakeMeter(tmp_path)
meter.window(uses=3)
meter.window(uses=2)
verify_records(meter.folder, vendor.trust_root, device_keys=[meter.device.verifying])
"""

import json
import uuid
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from licenses.ack import Ack, acknowledge
from licenses.device_key import device_id_of, instance_id_of
from licenses.keyring import SigningKey
from licenses.keys import public_pem
from licenses.model import READ_PAGES_METER
from licenses.usage_log.entry import encode_entry, leaf_hash
from licenses.usage_log.files import header_line, record_name, render, trailer_line, write_once, write_replacing
from licenses.usage_log.merkle import Frontier
from licenses.usage_log.note import sign_checkpoint, unverified_checkpoint
from tests.fakes.licences import NOW, VENDOR_DOMAIN, FakeVendor

WINDOW_MS = 12 * 60 * 1000


class FakeMeter:
    """Writes one instance's records below `<output>/computervisionread/<instance>`."""

    license_sequence = 1

    def __init__(
        self,
        output: Path,
        *,
        device: SigningKey | None = None,
        vendor: str = VENDOR_DOMAIN,
        with_frontier: bool = True,
        with_context: bool = True,
        at: datetime = NOW,
    ) -> None:
        """Write below `output`, from `at` on; without frontier or context as the versions did that knew neither."""
        self.with_frontier, self.with_context = with_frontier, with_context
        self.device = device or SigningKey.generate("device")
        raw = self.device.verifying.raw
        self.instance = instance_id_of(raw)
        self.origin = f"{vendor}/{device_id_of(raw)}"
        self.folder = output / "computervisionread" / self.instance
        self.frontier = Frontier()
        self.lines: list[bytes] = []
        self.files: list[Path] = []
        self.previous_sha256 = ""
        self.boot_id = "2f0d6c9a-91f5-4b43-8d8d-1c5f7a6f0e11"
        self.now_ms = int(at.timestamp() * 1000)
        self.boottime_ms = 1_000_000
        self.evaluation = False
        self.license_id = "6f1c2a9e-0d2b-4d8e-9a57-3f1f6d1f2b10"
        self._opened = self.moment()
        self._pending: list[bytes] = []
        self.entry("boot", boot_id=self.boot_id)
        self.entry("license", in_force=True, license_id=self.license_id, sequence=1, evaluation=False)

    @property
    def size(self) -> int:
        """Entries so far, sealed or not."""
        return len(self.lines)

    def moment(self) -> dict[str, object]:
        """The present, as header and window entry tell it."""
        return {
            "wall_ms": self.now_ms,
            "effective_ms": self.now_ms,
            "boottime_ms": self.boottime_ms,
            "boot_id": self.boot_id,
        }

    def wait(self, milliseconds: int) -> None:
        """Let time pass."""
        self.now_ms += milliseconds
        self.boottime_ms += milliseconds

    def entry(self, kind: str, **members: object) -> bytes:
        """Append an entry."""
        times = {"wall_ms": self.now_ms, "effective_ms": self.now_ms, "boottime_ms": self.boottime_ms}
        line = encode_entry({"seq": self.size, "kind": kind, **times, **members})
        self.lines.append(line)
        self._pending.append(line)
        return line

    def use(self, *, operation: str | None = None, page: int = 1, quantity: int = 1) -> bytes:
        """Append the entry of one page read."""
        return self.entry(
            "use",
            apiType="computervision",
            containerId=self.instance,
            containerType="ComputerVision.ComputerVisionRead",
            containerVersion="0.1.0",
            id=operation or str(uuid.uuid4()),
            page=page,
            meter={"name": READ_PAGES_METER, "quantity": quantity},
            requestTime=self.now_ms // 1000,
        )

    def window(self, *, uses: int = 0, seal: bool = True, reason: str = "interval") -> Path:
        """Let a window pass with so many uses, and write its record file and checkpoint."""
        for _ in range(uses):
            self.wait(1000)
            self.use()
        self.wait(WINDOW_MS)
        first_seq, closed = self.size - len(self._pending), self.moment()
        bounds = {"opened": self._opened, "closed": closed, "reason": reason, "first_seq": first_seq}
        sums: Counter[str] = Counter()
        for line in map(json.loads, self._pending):
            if line["kind"] == "use":
                sums[line["meter"]["name"]] += line["meter"]["quantity"]
        context = {
            "product_version": "0.1.0",
            "license_id": self.license_id,
            "license_sequence": self.license_sequence,
            "evaluation": self.evaluation,
        }
        meters = [{"name": name, "quantity": quantity} for name, quantity in sorted(sums.items()) if quantity]
        self.entry("window", **bounds, **(context if self.with_context else {}), meters=meters)
        frontier_before = self.frontier.hashes
        self.frontier.extend(map(leaf_hash, self._pending))
        root = self.frontier.root()
        header = header_line(
            {
                **bounds,
                **context,
                "instance": self.instance,
                "origin": self.origin,
                "previous_file_sha256": self.previous_sha256,
                "frontier": frontier_before if self.with_frontier else None,
            }
        )
        at = datetime.fromtimestamp(self.now_ms / 1000, UTC)
        path = self.folder / "usage" / record_name(first_seq, self.size, at)
        path.parent.mkdir(parents=True, exist_ok=True)
        trailer = trailer_line(self._pending, size=self.size, root=root)
        self.previous_sha256 = write_once(path, render(header, self._pending, trailer))
        self.files.append(path)
        if seal:
            self.seal(self.size, root)
        self._pending, self._opened = [], closed
        return path

    def seal(self, size: int, root: bytes, *, key: SigningKey | None = None) -> None:
        """Sign and publish a checkpoint."""
        note = sign_checkpoint(self.origin, size, root, key or self.device).encode()
        checkpoints = self.folder / "checkpoints"
        checkpoints.mkdir(parents=True, exist_ok=True)
        write_replacing(checkpoints / str(size), note)
        write_replacing(self.folder / "checkpoint", note)

    def prune(self, files: int) -> int:
        """Take away the oldest record files and the checkpoints on them, as the retention does.

        Returns:
            The first entry that is left.
        """
        for path in self.files[:files]:
            size = path.stem.partition("-")[2]
            path.unlink()
            (self.folder / "checkpoints" / size).unlink()
        del self.files[:files]
        return int(self.files[0].stem.partition("-")[0])

    def checkpoint(self, size: int) -> str:
        """The checkpoint that was published at so many entries."""
        return (self.folder / "checkpoints" / str(size)).read_text("utf-8")

    def ack(self, vendor: FakeVendor, note: str, *, totals: Mapping[str, int] | None = None) -> Ack:
        """The vendor's acknowledgement of a checkpoint; by default with the totals that the entries up to it have."""
        size = unverified_checkpoint(note).size
        uses = [entry["meter"] for entry in map(json.loads, self.lines[:size]) if entry["kind"] == "use"]
        return acknowledge(
            note,
            device=self.device.verifying,
            key=vendor.keys.ack_key,
            trust_root=vendor.trust_root,
            at=NOW + timedelta(days=1),
            totals={READ_PAGES_METER: sum(use["quantity"] for use in uses)} if totals is None else totals,
        )

    def file_ack(self, vendor: FakeVendor, ack: Ack) -> Path:
        """Put an acknowledgement where the sidecar puts those that it imported."""
        path = self.folder / "acks" / ack.file_name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(ack.seal(vendor.keys.ack_key))
        return path

    def save_device_key(self, path: Path) -> Path:
        """Write the public key, as an auditor pins it."""
        path.write_bytes(public_pem(self.device.verifying.public))
        return path
