"""Which languages are read here, with what, and how to add more: a page for people and the same as JSON.

Invariant: both tell what the running core says; while it does not answer they say so with 503.
"""

from __future__ import annotations

from http import HTTPStatus

import msgspec
from flask import Blueprint, Response, current_app, render_template, request

from sidecar import __version__
from sidecar.bootstrap import build_core_client
from sidecar.core_client import CoreLanguages
from sidecar.errors import CoreUnavailableError
from sidecar.web.described import Answer, Described, described
from sidecar.web.origin import root
from sidecar.web.responses import json_response
from sidecar.web.service_pages import DOCUMENT
from sidecar.web.services import services

bp = Blueprint("languages", __name__)


class LanguageStatus(msgspec.Struct, frozen=True, rename="camel"):
    """One language that requests may name; `servedBy` is null where its model is not installed."""

    code: str
    name: str
    served_by: str | None
    own_model: str
    debian_package: str


class Languages(msgspec.Struct, frozen=True, rename="camel"):
    """All languages that requests may name, the models installed, and where to put more."""

    core_answers: bool
    tessdata: str
    models: list[str]
    default_models: list[str]
    detects: bool
    languages: list[LanguageStatus]


@bp.get("/languages.json")
@described(
    Described(
        document=DOCUMENT,
        summary="Languages, and the models that read them",
        operation_id="languages",
        answers={
            HTTPStatus.OK: Answer(meaning="The languages.", model=Languages),
            HTTPStatus.SERVICE_UNAVAILABLE: Answer(meaning="The core does not answer.", model=Languages),
        },
    )
)
def languages_json() -> Response:
    """All languages, as JSON."""
    told = _told()
    return json_response(languages_told(told), _status(told))


@bp.get("/languages")
def languages() -> Response:
    """All languages: a page, or JSON where the caller prefers it."""
    told = _told()
    if request.accept_mimetypes.best_match(["text/html", "application/json"], default="text/html") != "text/html":
        response = json_response(languages_told(told), _status(told))
    else:
        page = render_template("languages.html", told=told, version=__version__, root=root())
        response = Response(page, status=int(_status(told)), content_type="text/html; charset=utf-8")
    response.vary.add("Accept")
    return response


def _told() -> CoreLanguages | None:
    try:
        return build_core_client(services(current_app).settings).languages()
    except CoreUnavailableError:
        return None


def _status(told: CoreLanguages | None) -> HTTPStatus:
    return HTTPStatus.OK if told is not None else HTTPStatus.SERVICE_UNAVAILABLE


def languages_told(told: CoreLanguages | None) -> Languages:
    """What the core says, in the form of `/languages.json`; None: it does not answer."""
    if told is None:
        return Languages(core_answers=False, tessdata="", models=[], default_models=[], detects=False, languages=[])
    return Languages(
        core_answers=True,
        tessdata=told.tessdata,
        models=list(told.models),
        default_models=list(told.default_models),
        detects=told.detects,
        languages=[
            LanguageStatus(
                code=one.code,
                name=one.name,
                served_by=one.served_by,
                own_model=one.own_model,
                debian_package=one.debian_package,
            )
            for one in told.languages
        ],
    )
