"""What a route says of itself: its parameters, the documents it takes, its answers.

Invariant: a parameter is read from the request by the very object that describes it, and the OpenAPI documents are made
from nothing but the application's routes, these descriptions and the models that the routes encode. Names of the query
match in any letter case, as those of ASP.NET do, and nothing that is given twice is passed over in silence.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, TypeVar

from werkzeug.datastructures import MultiDict

from sidecar.core_client import DocumentRules
from sidecar.errors import DocumentRefusedError

DOCUMENT_ERRORS = (400, 403, 415, 500, 503)
"""What may be answered to whoever sends a document."""

OPERATION_ERRORS = (404, 500)
"""What may be answered to whoever asks for an operation."""

_ATTRIBUTE = "descriptions"
_View = TypeVar("_View", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiDocument:
    """One OpenAPI document.

    Attributes:
        name: Its name in the path, as in `/swagger/vision-v3.2-read/swagger.json`.
        title: Its name for people.
    """

    name: str
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A parameter of the query or of the path.

    Attributes:
        name: As clients write it.
        meaning: For people.
        choices: The values that there are; none means that `pattern` says.
        pattern: Anchored regular expression for a value, or for each of `many`; ASCII.
        default: What an absent or empty one means.
        required: Whether it must be there.
        many: Whether it holds several values, separated by commas.
        any_case: Whether the case of letters does not matter.
        refusal: Neutral reason (contract E.1.4) with which anything else is refused.
        advice: What to use instead, for people; as "use 'basic' or 'natural'".
    """

    name: str
    meaning: str
    choices: tuple[str, ...] = ()
    pattern: str = ""
    default: str = ""
    required: bool = False
    many: bool = False
    any_case: bool = False
    refusal: str = "BadArgument"
    advice: str = ""

    def is_given(self, values: MultiDict[str, str]) -> bool:
        """Whether a query holds it, and not only empty."""
        return bool(self._given(values))

    def read(self, values: MultiDict[str, str]) -> str:
        """The value in a query; the default when it is absent or empty. Of `many`, all of them as they came.

        Raises:
            DocumentRefusedError: With the reason of `refusal`: it is required and absent, is none of what it may be, or
                is given more than once with different values where there is but one.
        """
        given = self._given(values)
        if not given:
            if self.required:
                raise DocumentRefusedError(self.refusal, f"The {self.name} parameter is missing: {self._advice()}.")
            return self.default
        if not self.many and len(set(given)) > 1:
            raise DocumentRefusedError(self.refusal, f"The {self.name} parameter is given more than once.")
        found = [self._one(item) for item in (",".join(given).split(",") if self.many else given[:1])]
        if None in found:
            raise DocumentRefusedError(self.refusal, f"The {self.name} parameter is invalid: {self._advice()}.")
        return ",".join(item for item in found if item is not None)

    def read_many(self, values: MultiDict[str, str]) -> tuple[str, ...]:
        """The values of one that may have `many`.

        Raises:
            DocumentRefusedError: As `read`.
        """
        joined = self.read(values)
        return tuple(joined.split(",")) if joined else ()

    def holds(self, value: str) -> bool:
        """Whether a single value is one that this parameter may have."""
        return self._one(value) is not None

    def schema(self) -> dict[str, Any]:
        """The same as a JSON schema."""
        one: dict[str, Any] = {"type": "string"}
        if set(self.choices) == {"true", "false"}:
            one = {"type": "boolean"}
        elif self.choices:
            one["enum"] = list(self.choices)
        elif self.pattern:
            one["pattern"] = self.pattern
        if self.many:
            return {"type": "array", "items": one, "minItems": 1}
        if self.default:
            one["default"] = self.default == "true" if one["type"] == "boolean" else self.default
        return one

    def _given(self, values: MultiDict[str, str]) -> list[str]:
        """Its values in a query, whatever the case of its name; an empty one is none."""
        name = self.name.lower()
        return [value for key, several in values.lists() if key.lower() == name for value in several if value]

    def _one(self, value: str) -> str | None:
        """The value as it is spelled here; None when it is none."""
        value = value.strip() if self.many else value
        if self.choices:
            wanted = value.lower() if self.any_case else value
            return next(
                (known for known in self.choices if (known.lower() if self.any_case else known) == wanted), None
            )
        flags = re.ASCII | re.IGNORECASE if self.any_case else re.ASCII
        return value if not self.pattern or re.fullmatch(self.pattern, value, flags) else None

    def _advice(self) -> str:
        if self.advice:
            return self.advice
        if self.choices:
            return "use " + " or ".join(f"'{one}'" for one in self.choices)
        return f"use what matches {self.pattern}" if self.pattern else "give a value"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer of a route.

    Attributes:
        meaning: For people.
        model: The struct that is encoded; None when there is no body.
        headers: Headers that go with it, each with its meaning.
        media: Its Content-Type when there is no model but a body; empty for no body.
    """

    meaning: str
    model: type | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    media: str = ""


ACCEPTED = Answer(
    meaning="Accepted, without a body; the result is fetched from Operation-Location.",
    headers={"Operation-Location": "Where to fetch the result; ends in the operation's id, 36 characters."},
)
"""The answer to a document that is read later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """One operation of a route in one OpenAPI document.

    Attributes:
        document: The document that it is in.
        summary: What it does, in a few words.
        operation_id: Its name in generated clients, unique in its document.
        answers: Those that are no errors, by status.
        query: Parameters of the query, the same objects that read them.
        path: Parameters of the path; each has the name that the route gives it, in camel case.
        takes: What it takes as a document; None for no body.
        errors: Statuses of its errors; their body is what the dialect of its blueprint says.
    """

    document: ApiDocument
    summary: str
    operation_id: str
    answers: Mapping[HTTPStatus, Answer]
    query: tuple[Parameter, ...] = ()
    path: tuple[Parameter, ...] = ()
    takes: DocumentRules | None = None
    errors: tuple[int, ...] = ()


OPERATION_ID = Parameter(
    name="operationId",
    meaning="The operation's id, the last 36 characters of Operation-Location.",
    pattern=r"^[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}$",
    required=True,
)


def model_version_asked(published: str) -> Parameter:
    """The `model-version` of an API.

    Args:
        published: A version that the original service has, to name in a refusal.
    """
    return Parameter(
        name="model-version",
        meaning="Accepted for compatibility; there is one model.",
        pattern=r"^(latest|\d{4}-\d{2}-\d{2})(-preview)?$",
        default="latest",
        advice=f"use 'latest' or a date such as {published}",
    )


def described(*descriptions: Described) -> Callable[[_View], _View]:
    """Say of a view what it does, once for each OpenAPI document that it is in; goes below the route's decorator."""

    def attach(view: _View) -> _View:
        setattr(view, _ATTRIBUTE, descriptions)
        return view

    return attach


def descriptions_of(view: Callable[..., Any]) -> tuple[Described, ...]:
    """What was said of a view; nothing of one that is for browsers alone."""
    found: tuple[Described, ...] = getattr(view, _ATTRIBUTE, ())
    return found
