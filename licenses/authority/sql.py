"""The door to `sqlite_utils`, for `database` alone.

Invariant: who comes in by it has neither numpy nor pandas loaded. `sqlite_utils` takes both where they are installed,
to know their number types; no column here has one, and every command and every process of the service would be larger
and start later.
"""

import sys

_NOT_NEEDED = [name for name in ("numpy", "pandas") if name not in sys.modules]
sys.modules.update(dict.fromkeys(_NOT_NEEDED))  # type: ignore[arg-type]  # None: for an import, it is not installed
try:
    from sqlite_utils.db import Database
    from sqlite_utils.migrations import Migrations
finally:
    for _name in _NOT_NEEDED:
        del sys.modules[_name]

__all__ = ["Database", "Migrations"]
