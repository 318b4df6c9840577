"""The usage log: entries, their Merkle tree, signed checkpoints, record files, and the auditor's verifier.

Invariant: needs the standard library and `cryptography` alone, because an auditor installs nothing else.
"""
