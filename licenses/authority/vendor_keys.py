"""The vendor's signing keys: from the folder that `licenses keygen` wrote, or from a command that prints one.

Invariants:

* A private key is in a file that its owner alone may read, or in no file at all; never in the database, in an argument,
  in the environment or in a message. Here it is in memory, from when it was first needed.
* A key counts only if the trust root lists it for the role that it is asked for.

What signs is known by `licenses.keys.SigningKey`, whose private half is anything that can sign: a token behind PKCS #11
would be one more way to come by such a key, here and nowhere else.
"""

import shlex
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path

from licenses import issue
from licenses.errors import IssueError, LicensesError
from licenses.issue import Issuer
from licenses.keyring import SECOND_ISSUING_ROLE, TrustRoot, load_trust_root
from licenses.keys import MAX_KEY_FILE_BYTES, KeyId, SigningKey, VerifyingKey, signing_key_from_pem

COMMAND_SECONDS = 60.0
"""How long the command may take, in seconds; long enough for a person to touch a token."""
PLACEHOLDER = "{key_id}"


class VendorKeys:
    """What a vendor signs with. Safe to share between threads.

    Args:
        folder: With the trust root and the list of what is revoked; and the private keys, unless a command has them.
        key_command: Prints a private key (PEM, unencrypted PKCS #8) to its standard output. `{key_id}` in it stands for
            the id of the key that is wanted. It is split into words as a shell would split it; no shell runs.

    Raises:
        LicensesError: The trust root cannot be read, or the command is none.
    """

    def __init__(self, folder: Path, *, key_command: str | None = None) -> None:
        self._folder = folder
        self._words = None if key_command is None else _words_of(key_command)
        self._lock = threading.Lock()
        self._kept: dict[str, SigningKey] = {}
        self._trust_root = load_trust_root(folder / issue.TRUST_ROOT_NAME)

    @property
    def trust_root(self) -> TrustRoot:
        """Under which everything is issued; read once, so a service is started anew after a rotation."""
        return self._trust_root

    @property
    def evaluation(self) -> bool:
        """Whether the keys are for evaluation, so that nothing under them is a basis for an invoice."""
        issuing = self._trust_root.issuing_keys.values()
        return self._trust_root.evaluation or all(key.evaluation for key in issuing)

    def issuing_key(self) -> SigningKey:
        """The key that signs licences.

        Raises:
            LicensesError: It cannot be had.
        """
        return self._key("issuing", self._trust_root.issuing_keys)

    def ack_key(self) -> SigningKey:
        """The key that signs acknowledgements.

        Raises:
            LicensesError: It cannot be had.
        """
        return self._key("ack", self._trust_root.ack_keys)

    def issuer(self) -> Issuer:
        """What is needed to issue a licence, with the list of what is revoked as it is now.

        Raises:
            LicensesError: A key or the list cannot be had.
        """
        seconds = self._trust_root.second_issuing_keys
        return Issuer(
            trust_root=self._trust_root,
            issuing_key=self.issuing_key(),
            second_key=self._key(SECOND_ISSUING_ROLE, seconds) if seconds else None,
            revoked=issue.load_revoked(self._folder),
        )

    def _key(self, role: str, listed: Mapping[KeyId, VerifyingKey]) -> SigningKey:
        """The first of the listed keys that is to be had; asked for once."""
        with self._lock:
            if role not in self._kept:
                found = self._from_folder(role, listed) if self._words is None else self._from_command(role, listed)
                self._kept[role] = found
            return self._kept[role]

    def _from_folder(self, role: str, listed: Mapping[KeyId, VerifyingKey]) -> SigningKey:
        for key_id, public in listed.items():
            path = issue.key_path(self._folder, key_id)
            if path.exists():
                return issue.load_listed_key(path, public, role)
        raise IssueError(
            f"no {role} key of the trust root is in {self._folder}; looked for "
            + ", ".join(f"{key_id}.key" for key_id in listed),
            next_step="Give --keys the folder that 'licenses keygen' wrote, or --key-command.",
        )

    def _from_command(self, role: str, listed: Mapping[KeyId, VerifyingKey]) -> SigningKey:
        refusal = "the trust root lists none"
        for key_id, public in listed.items():
            pem, refusal = self._printed(key_id)
            if refusal:
                continue
            try:
                key = signing_key_from_pem(pem, role, source=f"{key_id}.key", algorithm=public.algorithm)
            except LicensesError:
                refusal = f"what it printed for {key_id} is no unencrypted private key in PEM form"
                continue
            if key.verifying == public:
                return key
            refusal = f"it printed another key than {key_id}"
        raise IssueError(
            f"the key command gave no {role} key of the trust root: {refusal}",
            next_step="Run the command by hand: it must print the PEM of the key that {key_id} names, and end with 0.",
        )

    def _printed(self, key_id: KeyId) -> tuple[bytes, str]:
        """What the command prints for a key, or why it printed nothing that is of use."""
        words = [word.replace(PLACEHOLDER, key_id) for word in self._words or ()]
        try:
            done = subprocess.run(
                words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=COMMAND_SECONDS, check=False
            )
        except OSError as exc:
            return b"", f"{words[0]} cannot be run: {exc.strerror or exc}"
        except subprocess.TimeoutExpired:
            return b"", f"it did not end within {COMMAND_SECONDS:.0f} s"
        if done.returncode:
            return b"", f"it ended with exit code {done.returncode} for {key_id}"
        if len(done.stdout) > MAX_KEY_FILE_BYTES:
            return b"", f"it printed more than {MAX_KEY_FILE_BYTES} bytes for {key_id}"
        return done.stdout, ""


def _words_of(key_command: str) -> list[str]:
    try:
        words = shlex.split(key_command)
    except ValueError as exc:
        raise IssueError(f"the key command cannot be split into words: {exc}") from exc
    if not words:
        raise IssueError("the key command is empty", next_step="Leave it out to take the keys from the folder.")
    return words
