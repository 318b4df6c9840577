"""The person at the command, as deploying sees one."""

from __future__ import annotations

from typing import Protocol


class Console(Protocol):
    """The person at the command."""

    def tell(self, line: str) -> None:
        """Say something that stays."""

    def wait(self, what: str) -> None:
        """Say what is waited for, in the place of what was said so before."""

    def progress(self, what: str, done: int, whole: int) -> None:
        """The same with how far it is."""

    def agrees(self, question: str) -> bool:
        """Whether the person says yes; false when there is nobody to ask."""
