"""Rotation: the vendor's next trust root, with new keys, without the keys it drops, and with those it takes back.

Invariants:

* A rotation is a successor that every appliance with the version before accepts: that is tried before it is written.
* The old trust root stays beside the new one under its version's name: a customer who missed a version can catch up.
* New keys are on the disk before the trust root that names them; replaced ones are put into `retired/`, never deleted.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from licenses import durable, issue
from licenses.errors import FormatError, IssueError, KeyFileError
from licenses.keyring import SECOND_ISSUING_ROLE, SECOND_ROOT_ROLE, TrustRoot, load_trust_root, version_name
from licenses.keys import Algorithm, KeyId, SigningKey, VerifyingKey, read_small_file
from licenses.strict_json import MAX_BYTES

RETIRED_FOLDER = "retired"

_Keys = Mapping[KeyId, VerifyingKey]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is to change.

    Attributes:
        root: Replace the root keys, all of them.
        issuing: Add an issuing key and issue with it from now on; what the old one signed stays good.
        ack: Add an acknowledgement key, likewise.
        second_signature: Demand ML-DSA-65 signatures from now on.
        revoke: Keys to take back; what they signed is refused.
        drop: Keys to leave out; what they signed is untrusted.
    """

    root: bool = False
    issuing: bool = False
    ack: bool = False
    second_signature: bool = False
    revoke: tuple[KeyId, ...] = ()
    drop: tuple[KeyId, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """What came of it.

    Attributes:
        trust_root: The new version.
        blob: The same, signed by the old threshold and its own.
        new_keys: Made for it.
        retired: Ids of the keys that are no longer used by the vendor.
    """

    trust_root: TrustRoot
    blob: bytes
    new_keys: tuple[SigningKey, ...]
    retired: frozenset[KeyId]


def plan(
    old: TrustRoot,
    root_keys: Sequence[SigningKey],
    wish: Wish,
    *,
    at: datetime,
    years: int = issue.TRUST_ROOT_YEARS,
) -> Rotation:
    """Make the next trust root; nothing is written.

    Args:
        old: The version in force.
        root_keys: The private root keys at hand, second ones included: at least the threshold of each kind.
        wish: What is to change.
        at: The instant of issue, aware UTC.
        years: How long licences may be issued under the new version.

    Raises:
        IssueError: The wish cannot be granted; the next step says how to put it.
        UnsupportedKeyError: This installation has no ML-DSA-65.
    """
    if wish == Wish():
        raise IssueError(
            "nothing is to change", next_step="Give at least one of --root, --issuing, --ack, --revoke, --drop."
        )
    _refuse_unknown(old, {*wish.revoke, *wish.drop})
    new_keys: list[SigningKey] = []

    def made(role: str, count: int, algorithm: Algorithm = Algorithm.ED25519) -> _Keys:
        keys = [SigningKey.generate(role, evaluation=old.evaluation, algorithm=algorithm) for _ in range(count)]
        new_keys.extend(keys)
        return issue.public_halves(keys)

    gone = {*wish.revoke, *wish.drop}
    ml_dsa, demand = Algorithm.ML_DSA_65, wish.second_signature
    root = made("root", len(old.root_keys)) if wish.root else old.root_keys
    issuing = {**old.issuing_keys, **(made("issuing", 1) if wish.issuing else {})}
    ack = {**old.ack_keys, **(made("ack", 1) if wish.ack else {})}
    second_root, second_issuing = old.second_root_keys, dict(old.second_issuing_keys)
    if (second_root and wish.root) or (demand and not second_root):
        second_root = made(SECOND_ROOT_ROLE, len(root), ml_dsa)
    if (second_issuing and wish.issuing) or (demand and not second_issuing):
        second_issuing |= made(SECOND_ISSUING_ROLE, 1, ml_dsa)
    if old.second_issuing_keys and gone >= set(second_issuing):
        raise IssueError(
            "no second issuing key would be left, and the second signature would no longer be demanded",
            next_step="Give --issuing too: it makes new keys of both kinds.",
        )
    try:
        new = dataclasses.replace(
            old,
            version=old.version + 1,
            root_keys=_without(root, gone),
            issuing_keys=_without(issuing, gone),
            ack_keys=_without(ack, gone),
            second_root_keys=_without(second_root, gone),
            second_issuing_keys=_without(second_issuing, gone),
            revoked_key_ids=(*old.revoked_key_ids, *wish.revoke),
            issued_at=at,
            expires_at=max(old.expires_at, at + timedelta(days=365 * years)),
        )
        signers = [*root_keys, *(key for key in new_keys if key.key_id in {**new.root_keys, **new.second_root_keys})]
        blob = new.seal(signers)
        old.successor(blob)
    except FormatError as exc:
        raise IssueError(
            f"there can be no such trust root: {exc}", next_step="Give --issuing, --ack or --root too: they make keys."
        ) from exc
    retired = {*old.root_keys, *old.second_root_keys} if wish.root else set()
    retired |= {*old.issuing_keys, *old.second_issuing_keys} if wish.issuing else set()
    retired |= set(old.ack_keys) if wish.ack else set()
    return Rotation(trust_root=new, blob=blob, new_keys=tuple(new_keys), retired=frozenset(retired | gone))


def load_root_keys(folder: Path, trust_root: TrustRoot) -> list[SigningKey]:
    """The private root keys of a trust root that lie in a folder.

    Raises:
        IssueError: They are fewer than the threshold.
        LicensesError: A file is damaged, or open to others.
    """
    found: list[SigningKey] = []
    for role, keys in (("root", trust_root.root_keys), (SECOND_ROOT_ROLE, trust_root.second_root_keys)):
        here = [
            issue.load_listed_key(issue.key_path(folder, key_id), public, role)
            for key_id, public in keys.items()
            if issue.key_path(folder, key_id).exists()
        ]
        if keys and len(here) < trust_root.threshold:
            raise IssueError(
                f"{len(here)} of the {role} keys lie in {folder}, {trust_root.threshold} must sign; looked for "
                + ", ".join(f"{key_id}.key" for key_id in keys),
                next_step="Give --root-keys the folder where the root keys are kept.",
            )
        found += here
    return found


def rotate(
    folder: Path, wish: Wish, *, at: datetime, root_keys_folder: Path | None = None, years: int = issue.TRUST_ROOT_YEARS
) -> tuple[Rotation, list[Path]]:
    """Make the next trust root of a vendor's folder and write it there.

    Args:
        folder: As 'licenses keygen' wrote it.
        wish: What is to change.
        at: The instant of issue, aware UTC.
        root_keys_folder: Where the private root keys lie, old and new; by default in the same folder.
        years: How long licences may be issued under the new version.

    Returns:
        The rotation, and the files written: the trust root, then the new private keys.

    Raises:
        LicensesError: It cannot be done; a trust root that is there stays as it was.
    """
    path = folder / issue.TRUST_ROOT_NAME
    old = load_trust_root(path)
    root_folder = root_keys_folder or folder
    rotation = plan(old, load_root_keys(root_folder, old), wish, at=at, years=years)
    root_ids = {**rotation.trust_root.root_keys, **rotation.trust_root.second_root_keys}
    written = [path]
    try:
        for key in rotation.new_keys:
            place = issue.key_path(root_folder if key.key_id in root_ids else folder, key.key_id)
            durable.write_file(place, [key.to_pem()], mode=0o600, overwrite=False)
            written.append(place)
        old_blob = read_small_file(path, doing="read the trust root", mode="0644", max_bytes=MAX_BYTES)
        durable.write_file(version_name(path, old.version), [old_blob], mode=0o644, overwrite=True)
        durable.write_file(path, [rotation.blob, b"\n"], mode=0o644, overwrite=True)
        _retire({folder, root_folder}, rotation.retired)
    except OSError as exc:
        raise KeyFileError.from_os_error(exc, folder, doing="write the new trust root", mode="u+rwx") from exc
    return rotation, written


def _retire(folders: Collection[Path], key_ids: Collection[KeyId]) -> None:
    for folder in folders:
        for key_id in key_ids:
            path = issue.key_path(folder, key_id)
            if path.exists():
                durable.make_folders(folder / RETIRED_FOLDER, mode=0o700)
                path.rename(folder / RETIRED_FOLDER / path.name)


def _without(keys: _Keys, gone: Collection[KeyId]) -> dict[KeyId, VerifyingKey]:
    return {key_id: key for key_id, key in keys.items() if key_id not in gone}


def _refuse_unknown(old: TrustRoot, key_ids: Collection[KeyId]) -> None:
    known = {
        *old.root_keys, *old.issuing_keys, *old.ack_keys, *old.second_root_keys, *old.second_issuing_keys,
    }  # fmt: skip
    for key_id in key_ids:
        if key_id not in known:
            raise IssueError(
                f"the trust root lists no key {key_id}",
                next_step=f"It lists {', '.join(sorted(known))}; 'licenses inspect FILE' shows who signed a licence.",
            )
