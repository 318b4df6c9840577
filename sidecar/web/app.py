"""The application: which routes there are, and what every answer carries."""

from __future__ import annotations

from flask import Flask, Response

from sidecar.web import (
    cors,
    errors,
    image_analysis,
    language_pages,
    ocr,
    openapi,
    paths,
    read_v2,
    read_v3,
    rendered,
    service_pages,
)
from sidecar.web.services import EXTENSION, Services


def create_app(services: Services) -> Flask:
    """Build the application around services already built; opens nothing, starts nothing."""
    app = Flask("sidecar.web")
    app.extensions[EXTENSION] = services
    app.extensions[rendered.EXTENSION] = rendered.RenderedAnswers()
    app.url_map.merge_slashes = False
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False  # a method like another, except for the pages of `cors`
    dialects: dict[str, errors.Dialect] = {}
    observed = services.settings.error_compat == "observed"
    for version in read_v3.VERSIONS:
        bp = read_v3.blueprint(version)
        app.register_blueprint(bp)
        dialects[bp.name] = version.dialect(observed=observed)
    for early in read_v2.VERSIONS:
        bp = read_v2.blueprint(early)
        app.register_blueprint(bp)
        dialects[bp.name] = read_v2.DIALECT
    for older in ocr.VERSIONS:
        bp = ocr.blueprint(older)
        app.register_blueprint(bp)
        dialects[bp.name] = older.dialect
    app.register_blueprint(image_analysis.bp)
    dialects[image_analysis.bp.name] = image_analysis.DIALECT
    app.register_blueprint(service_pages.bp)
    app.register_blueprint(language_pages.bp)
    app.register_blueprint(openapi.bp)
    errors.register(app, dialects)
    app.after_request(_harden)
    cors.register(app, services.settings.cors_origins, not_shared={service_pages.bp.name, language_pages.bp.name})
    paths.register(app)
    return app


def _harden(response: Response) -> Response:
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    if response.mimetype == "text/html":
        # 'unsafe-inline' for styles alone: the bundled API page sets some on its elements.
        response.headers.setdefault(
            "Content-Security-Policy",
            "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'",
        )
    elif response.mimetype == "application/json":
        response.headers.setdefault("Cache-Control", "no-store")
    return response
