"""The sidecar: gate, meter and wire contract in front of the OCR core.

Invariant: what was acknowledged to a client is counted once and only once, and nothing pending is ever dropped;
when that cannot be promised, the service stops serving first.
"""

__version__ = "0.1.0"
