"""Admission with a decision that a test has made."""

from dataclasses import dataclass

from sidecar.admission import NotServingError, Standing


@dataclass
class FixedAdmission:
    """Tells the same standing to whoever asks, until a test sets another."""

    standing: Standing

    def recent(self) -> Standing:
        return self.standing

    def require(self) -> Standing:
        if not self.standing.verdict.serves:
            raise NotServingError(self.standing.verdict)
        return self.standing
