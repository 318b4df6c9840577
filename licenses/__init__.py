"""What is signed, and who may sign it: licences, leases, trust roots and the usage log.

Invariant: bytes are verified before they are believed, and whatever goes wrong here is a `LicensesError` that names
its cause and a next step. The package is a leaf; it imports nothing else of the product, so that an auditor can
install it alone.
"""

__version__ = "0.1.0"
