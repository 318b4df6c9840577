"""The services behind the routes, as the application carries them."""

from __future__ import annotations

from typing import cast

from flask import Flask

from sidecar.bootstrap import Services

EXTENSION = "sidecar"

__all__ = ["EXTENSION", "Services", "services"]


def services(app: Flask) -> Services:
    """The services of an application."""
    return cast(Services, app.extensions[EXTENSION])
