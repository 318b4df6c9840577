"""What a person may do about the clock: believe it, or set time back with the vendor's leave.

Invariant: every such act is one transaction with its `clock` entry; nobody but the vendor can lower time, and each of
the vendor's tokens does it once, on one device, under one licence.
"""

from __future__ import annotations

from licenses.clock_reset import open_clock_reset
from licenses.errors import LicensesError
from sidecar.clock import Clock, EffectiveTime, instant
from sidecar.errors import ClockRefusedError
from sidecar.ledger import Ledger
from sidecar.license_mount import LicenseMount

_NS = 1_000_000_000


def accept_clock(ledger: Ledger, clock: Clock) -> EffectiveTime:
    """Believe the wall clock although it jumped ahead: an operator has looked at it.

    Returns:
        The effective time before.

    Raises:
        ClockRefusedError: The wall clock is not ahead; there is nothing to accept.
    """
    now = ledger.now()
    if not now.quarantined:
        raise ClockRefusedError(
            "the wall clock is not quarantined, so there is nothing to accept",
            next_step="to set time back, ask the vendor for a clock-reset token",
        )
    return ledger.adopt_time(clock.read().wall_ns, {"action": "accepted"})


def reset_clock(blob: bytes, *, ledger: Ledger, clock: Clock, licenses: LicenseMount) -> EffectiveTime:
    """Set time back to what the wall clock says, with the vendor's token.

    Args:
        blob: The token's file.
        ledger: The ledger.
        clock: Where readings come from.
        licenses: The licence folder and the trust root.

    Returns:
        The effective time before.

    Raises:
        ClockRefusedError: The token is not honoured here and now.
        LedgerConflictError: It was used before.
    """
    # Time is what is wrong, so the licence in force is looked for at the wall clock's time.
    wall = instant(clock.read().wall_ns // _NS * _NS)
    lic = licenses.look(wall).license
    root, device, now = licenses.trust_root, licenses.device, ledger.now()
    if root is None or device is None:
        raise ClockRefusedError(
            "there is no trust root or no device key to judge the token by",
            next_step="check Sidecar:TrustRoot, and start the meter once",
        )
    try:
        token = open_clock_reset(blob, root)
    except LicensesError as exc:
        raise ClockRefusedError(str(exc), next_step=exc.next_step) from exc
    refusal = token.refusal(
        wall=wall, license_id=lic.license_id if lic else "", device_public=device.raw, used_token_ids=()
    )
    if refusal is not None:
        raise ClockRefusedError(refusal, next_step="set the host's clock right, or ask the vendor for another token")
    to_ns = int(token.lowered(wall).timestamp()) * _NS
    ledger.adopt_time(to_ns, {"action": "reset", "token_id": token.token_id}, token_id=token.token_id)
    return now
