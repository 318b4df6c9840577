"""Puts Tollgate on a machine, from a bundle, and takes it off again.

Invariants:

* Nothing of a machine is changed before every byte of the bundle was held against a manifest that a trusted release
  key signed.
* Needs what a bare Debian has: Python's standard library and the OpenSSL that it comes with. The package is a leaf.
* Ledger, usage records, licences and settings are never removed, and never brought back to an earlier state.
* Whatever it is interrupted in, the same command run again ends well.
"""
