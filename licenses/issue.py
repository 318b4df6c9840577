"""The vendor's side: make keys and a trust root, and issue licences. Never imported by an appliance.

Invariants:

* What is issued here opens under the trust root that it was issued with: it is opened again before it is handed out.
* An evaluation key marks what it signs, whatever the terms say.
* Private keys are written once, 0600, and no name is ever overwritten.
* The vendor's list of what is taken back only grows; every licence issued carries it whole.
"""

import dataclasses
import hashlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

from licenses import durable, envelope
from licenses.clock_reset import ClockReset, open_clock_reset
from licenses.errors import IssueError, KeyFileError, LicensesError
from licenses.keyring import SECOND_ISSUING_ROLE, SECOND_ROOT_ROLE, TrustRoot, load_trust_root
from licenses.keys import Algorithm, KeyId, SigningKey, VerifyingKey, load_signing_key, read_small_file
from licenses.model import MAX_REVOKED_KEYS, MAX_REVOKED_LICENSES, License, LicenseId, Revoked
from licenses.revocation import Revocation, open_revocation
from licenses.strict_json import MAX_BYTES, canonical, parse_object
from licenses.verify import open_license

TRUST_ROOT_NAME = "trust-root.json"
REVOKED_NAME = "revoked.json"
EVALUATION_VENDOR = "evaluation.tollgate.example"
UNNAMED_VENDOR = "vendor.tollgate.example"
TRUST_ROOT_YEARS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Vendor:
    """A vendor with all its private keys, as only the vendor has them.

    Attributes:
        trust_root: What customers get.
        trust_root_blob: The same, signed.
        root_keys: Sign trust roots.
        issuing_key: Signs licences.
        ack_key: Signs acknowledgements of usage.
        second_root_keys: Sign trust roots as well (ML-DSA-65), if the trust root demands it.
        second_issuing_key: Signs licences as well, if the trust root demands it.
    """

    trust_root: TrustRoot
    trust_root_blob: bytes
    root_keys: tuple[SigningKey, ...]
    issuing_key: SigningKey
    ack_key: SigningKey
    second_root_keys: tuple[SigningKey, ...] = ()
    second_issuing_key: SigningKey | None = None

    @property
    def root_key(self) -> SigningKey:
        """The first of the root keys."""
        return self.root_keys[0]

    @property
    def all_keys(self) -> tuple[SigningKey, ...]:
        """Every private key: root, issuing, ack, then the second ones."""
        second = () if self.second_issuing_key is None else (self.second_issuing_key,)
        return (*self.root_keys, self.issuing_key, self.ack_key, *self.second_root_keys, *second)


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """What is needed to issue licences.

    Attributes:
        trust_root: Under which they will be opened.
        issuing_key: One of its issuing keys.
        second_key: One of its second issuing keys, if it has any.
        revoked: What the vendor has taken back so far.
    """

    trust_root: TrustRoot
    issuing_key: SigningKey
    second_key: SigningKey | None = None
    revoked: Revoked = field(default_factory=Revoked)

    @property
    def evaluation(self) -> bool:
        """Whether all that is issued is for evaluation."""
        return self.trust_root.evaluation or any(key.verifying.evaluation for key in self.signing_keys)

    @property
    def signing_keys(self) -> tuple[SigningKey, ...]:
        """The keys that sign what is issued."""
        return (self.issuing_key,) if self.second_key is None else (self.issuing_key, self.second_key)


def generate_vendor(
    *,
    domain: str,
    evaluation: bool,
    at: datetime,
    years: int = TRUST_ROOT_YEARS,
    root_count: int = 1,
    threshold: int = 1,
    second_signature: bool = False,
) -> Vendor:
    """Make new keys and the trust root over them.

    Args:
        domain: The vendor's domain, lower case; the first part of every record origin.
        evaluation: Whether keys, and all that they sign, are for evaluation.
        at: The instant of issue, aware UTC.
        years: How long licences may be issued under it.
        root_count: How many root keys to make.
        threshold: How many of them must sign a trust root.
        second_signature: Whether to demand ML-DSA-65 signatures as well.

    Raises:
        FormatError: The domain is not one, or the threshold is out of reach.
        UnsupportedKeyError: This installation has no ML-DSA-65.
    """

    def keys(role: str, count: int, algorithm: Algorithm = Algorithm.ED25519) -> tuple[SigningKey, ...]:
        return tuple(SigningKey.generate(role, evaluation=evaluation, algorithm=algorithm) for _ in range(count))

    root_keys, (issuing_key,), (ack_key,) = keys("root", root_count), keys("issuing", 1), keys("ack", 1)
    second_root_keys = keys(SECOND_ROOT_ROLE, root_count, Algorithm.ML_DSA_65) if second_signature else ()
    second_issuing = keys(SECOND_ISSUING_ROLE, 1, Algorithm.ML_DSA_65) if second_signature else ()
    begins = at.astimezone(UTC).replace(microsecond=0)
    trust_root = TrustRoot(
        version=1,
        vendor=domain,
        evaluation=evaluation,
        threshold=threshold,
        root_keys=public_halves(root_keys),
        issuing_keys=public_halves([issuing_key]),
        ack_keys=public_halves([ack_key]),
        issued_at=begins,
        expires_at=begins + timedelta(days=365 * years),
        second_root_keys=public_halves(second_root_keys),
        second_issuing_keys=public_halves(second_issuing),
    )
    return Vendor(
        trust_root=trust_root,
        trust_root_blob=trust_root.seal([*root_keys, *second_root_keys]),
        root_keys=root_keys,
        issuing_key=issuing_key,
        ack_key=ack_key,
        second_root_keys=second_root_keys,
        second_issuing_key=second_issuing[0] if second_issuing else None,
    )


def public_halves(keys: Sequence[SigningKey]) -> dict[KeyId, VerifyingKey]:
    """The public keys under their ids."""
    return {key.key_id: key.verifying for key in keys}


def save_vendor(vendor: Vendor, folder: Path, *, force: bool = False) -> list[Path]:
    """Write the keys (0600, named by their ids) and the trust root (0644) of a vendor.

    Args:
        vendor: What to write.
        folder: Made with mode 0700 if it is not there.
        force: Replace a trust root that is there. The old one is kept under a name of its own, as are its keys.

    Returns:
        The files written, the trust root first.

    Raises:
        IssueError: There is a trust root already, and `force` is false.
        KeyFileError: The folder cannot be written.
    """
    root_path = folder / TRUST_ROOT_NAME
    keys = {key_path(folder, key.key_id): key for key in vendor.all_keys}
    try:
        durable.make_folders(folder, mode=0o700)
        if root_path.exists():
            if not force:
                raise IssueError(
                    f"{root_path} exists: new keys would make every licence issued so far worthless for new customers",
                    next_step="Choose another folder, or give --force; the old trust root is then kept beside it.",
                )
            old = root_path.read_bytes()
            durable.write_file(
                folder / f"trust-root-{hashlib.sha256(old).hexdigest()[:12]}.json", [old], mode=0o644, overwrite=True
            )
        for path, key in keys.items():
            durable.write_file(path, [key.to_pem()], mode=0o600, overwrite=False)
        durable.write_file(root_path, [vendor.trust_root_blob, b"\n"], mode=0o644, overwrite=force)
    except OSError as exc:
        raise KeyFileError.from_os_error(exc, folder, doing="write the vendor's keys", mode="0700") from exc
    return [root_path, *keys]


def key_path(folder: Path, key_id: KeyId) -> Path:
    """Where a private key lies in a vendor's folder."""
    return folder / f"{key_id}.key"


def load_issuer(folder: Path) -> Issuer:
    """Read the trust root, one of its issuing keys and the list of revocations from a vendor's folder.

    Raises:
        LicensesError: A file is missing, damaged or open to others, or no issuing key of the trust root is there.
    """
    trust_root = load_trust_root(folder / TRUST_ROOT_NAME)
    second = None
    if trust_root.second_issuing_keys:
        second = _one_of(folder, trust_root.second_issuing_keys, SECOND_ISSUING_ROLE, Algorithm.ML_DSA_65)
    return Issuer(
        trust_root=trust_root,
        issuing_key=_one_of(folder, trust_root.issuing_keys, "issuing", Algorithm.ED25519),
        second_key=second,
        revoked=load_revoked(folder),
    )


def load_listed_key(path: Path, listed: VerifyingKey, role: str) -> SigningKey:
    """Read the private half of a key that a trust root lists.

    Raises:
        IssueError: The file holds another key.
        LicensesError: It cannot be read, or is open to others.
    """
    key = load_signing_key(path, role, algorithm=listed.algorithm)
    if key.verifying != listed:
        raise IssueError(f"the key in {path} is not {listed.key_id}", next_step="Restore the key file from the backup.")
    return key


def _one_of(folder: Path, keys: Mapping[KeyId, VerifyingKey], role: str, algorithm: Algorithm) -> SigningKey:
    for key_id, public in keys.items():
        if key_path(folder, key_id).exists():
            return load_listed_key(key_path(folder, key_id), public, role)
    raise IssueError(
        f"no issuing key ({algorithm.value}) of the trust root is in {folder}; looked for "
        + ", ".join(f"{key_id}.key" for key_id in keys),
        next_step="Give --keys the folder that 'licenses keygen' wrote.",
    )


def load_revoked(folder: Path) -> Revoked:
    """What the vendor has taken back so far; nothing where there is no such file.

    Raises:
        LicensesError: The file cannot be read or is damaged.
    """
    path = folder / REVOKED_NAME
    if not path.exists():
        return Revoked()
    blob = read_small_file(path, doing="read the list of revocations", mode="0600", max_bytes=MAX_BYTES)
    return Revoked.from_fields(parse_object(blob, what=str(path)))


def revoke(folder: Path, *, license_ids: Sequence[str], key_ids: Sequence[str]) -> Revoked:
    """Add to the vendor's list of what is taken back; its sequence grows unless all of it was on the list before.

    Raises:
        IssueError: Too many, or the very key that would sign it.
        LicensesError: The folder cannot be read or written.
    """
    issuer = load_issuer(folder)
    unknown = sorted(set(key_ids) - set(issuer.trust_root.issuing_keys) - set(issuer.trust_root.revoked_key_ids))
    if unknown:
        raise IssueError(
            f"the trust root lists no issuing key {', '.join(unknown)}",
            next_step=f"It lists {', '.join(issuer.trust_root.issuing_keys)}; 'licenses inspect' tells who signed.",
        )
    old = issuer.revoked
    new = Revoked(
        sequence=old.sequence + 1,
        license_ids=tuple(dict.fromkeys((*old.license_ids, *map(LicenseId, license_ids)))),
        key_ids=tuple(dict.fromkeys((*old.key_ids, *map(KeyId, key_ids)))),
    )
    if (new.license_ids, new.key_ids) == (old.license_ids, old.key_ids):
        return old
    if len(new.license_ids) > MAX_REVOKED_LICENSES or len(new.key_ids) > MAX_REVOKED_KEYS:
        raise IssueError(
            f"a revocation holds at most {MAX_REVOKED_LICENSES} licences and {MAX_REVOKED_KEYS} keys",
            next_step="Make a new issuing key and revoke the old one: licenses rotate --issuing --revoke KEY_ID.",
        )
    _refuse_own_key(new, issuer)
    try:
        durable.write_file(folder / REVOKED_NAME, [canonical(new.to_members()), b"\n"], mode=0o600, overwrite=True)
    except OSError as exc:
        raise KeyFileError.from_os_error(exc, folder, doing="write the list of revocations", mode="u+rwx") from exc
    return new


def seal_revocation(issuer: Issuer, *, at: datetime) -> bytes:
    """Sign the vendor's list as a file of its own, for the licence folders of customers.

    Raises:
        IssueError: An appliance would not open it, or there is nothing on the list.
    """
    if issuer.revoked.sequence == 0:
        raise IssueError("nothing is revoked yet", next_step="Give --license-id or --key-id.")
    _refuse_own_key(issuer.revoked, issuer)
    revocation = Revocation(
        revoked=issuer.revoked, issued_at=at, key_id=issuer.issuing_key.key_id, evaluation=issuer.evaluation
    )
    blob = envelope.seal(revocation.to_payload(), envelope.REVOCATION_TYPE, issuer.signing_keys)
    if open_revocation(blob, issuer.trust_root) != revocation:
        raise IssueError("the revocation would not say after issue what it says now")
    return blob


def seal_clock_reset(reset: ClockReset, issuer: Issuer) -> bytes:
    """Sign a clock reset, and open it again as an appliance would.

    Raises:
        LicensesError: An appliance with this trust root would not open it.
    """
    reset = dataclasses.replace(reset, key_id=issuer.issuing_key.key_id, evaluation=issuer.evaluation)
    blob = envelope.seal(reset.to_payload(), envelope.CLOCK_RESET_TYPE, issuer.signing_keys)
    if open_clock_reset(blob, issuer.trust_root) != reset:
        raise IssueError("the clock reset would not say after issue what it says now")
    return blob


def seal_license(lic: License, issuer: Issuer) -> bytes:
    """Sign a licence, and open it again as an appliance would.

    Args:
        lic: The terms; `key_id` and the evaluation mark are set from the key, and what the issuer has revoked is
            carried along unless the terms carry a list of their own.
        issuer: Whose licence it is.

    Returns:
        The licence file.

    Raises:
        IssueError: An appliance with this trust root would not open it, or it is revoked.
    """
    key = issuer.issuing_key
    lic = dataclasses.replace(
        lic,
        key_id=key.key_id,
        evaluation=lic.evaluation or issuer.evaluation,
        revoked=issuer.revoked if lic.revoked == Revoked() else lic.revoked,
    )
    if lic.license_id in issuer.revoked.license_ids:
        raise IssueError(
            f"the licence id {lic.license_id} is revoked", next_step="Issue under a new id: leave --license-id out."
        )
    _refuse_own_key(issuer.revoked, issuer)
    blob = envelope.seal(lic.to_payload(), envelope.LICENSE_TYPE, issuer.signing_keys)
    try:
        opened = open_license(blob, issuer.trust_root)
    except LicensesError as exc:
        raise IssueError(f"the licence would not open: {exc}", next_step=exc.next_step) from exc
    if opened != lic:
        raise IssueError("the licence would not say after issue what it says now")
    return blob


def _refuse_own_key(revoked: Revoked, issuer: Issuer) -> None:
    own = {key.key_id for key in issuer.signing_keys} & set(revoked.key_ids)
    if own:
        raise IssueError(
            f"{', '.join(sorted(own))} signs what is issued and is, or would be, revoked",
            next_step="Make a new issuing key first: licenses rotate --issuing.",
        )


def read_license_file(path: Path) -> bytes:
    """Read one licence file.

    Raises:
        KeyFileError: It cannot be read.
        FormatError: It is too long.
    """
    return read_small_file(path, doing="read the licence", mode="0644", max_bytes=MAX_BYTES)


def write_license_file(path: Path, blob: bytes, *, force: bool = False) -> str:
    """Write one licence file, whole or not at all, and return its SHA-256.

    Raises:
        KeyFileError: It cannot be written, or is there already and `force` is false.
    """
    try:
        return durable.write_file(path, [blob], mode=0o644, overwrite=force)
    except OSError as exc:
        blamed = path if isinstance(exc, FileExistsError) else path.parent
        raise KeyFileError.from_os_error(exc, blamed, doing=f"write {path.name}", mode="u+rwx") from exc


def new_license_id() -> LicenseId:
    """A random id, for the first licence of a customer; renewals keep it."""
    return LicenseId(str(uuid.uuid4()))


def end_of_day(day: date) -> datetime:
    """The instant at which a term that names this as its last day ends: 23:59:59 UTC."""
    return datetime.combine(day, time(23, 59, 59), UTC)


def start_of_day(day: date) -> datetime:
    """The first instant of a day, UTC."""
    return datetime.combine(day, time(0, 0), UTC)
