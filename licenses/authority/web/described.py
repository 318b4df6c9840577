"""What a route says of itself, for the OpenAPI document.

Invariant: a route's parameters, bodies and answers are described where the route is, once; the document is made from
nothing but the application's routes, these descriptions and the wire models.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, TypeVar

import msgspec

_ATTRIBUTE = "description"
_View = TypeVar("_View", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A part of the path.

    Attributes:
        name: As the route names it.
        meaning: For people.
        pattern: Anchored regular expression of its values.
        example: One of them.
    """

    name: str
    meaning: str
    pattern: str
    example: str

    def holds(self, value: str) -> bool:
        """Whether a value is one that this parameter may have."""
        return re.fullmatch(self.pattern, value) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a route answers when it does what was asked.

    Attributes:
        meaning: For people.
        model: The model of the body.
        headers: Further headers, each with its meaning.
    """

    meaning: str
    model: type[msgspec.Struct]
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """One operation.

    Attributes:
        summary: What it does, in a few words.
        operation_id: Its name in generated clients.
        answer: The one with 200.
        errors: The statuses of its refusals.
        path: The parameters of its path.
        takes: The model of its body; None for none, or for one that is a file.
        takes_files: The Content-Types of a body that is a file; empty for none.
        needs_key: Whether the API key must be sent.
    """

    summary: str
    operation_id: str
    answer: Answer
    errors: tuple[HTTPStatus, ...]
    path: tuple[Parameter, ...] = ()
    takes: type[msgspec.Struct] | None = None
    takes_files: tuple[str, ...] = ()
    needs_key: bool = True


def described(description: Described) -> Callable[[_View], _View]:
    """Say of a view what it does; goes below the route's decorator."""

    def attach(view: _View) -> _View:
        setattr(view, _ATTRIBUTE, description)
        return view

    return attach


def description_of(view: Callable[..., Any]) -> Described | None:
    """What was said of a view; None of one that is for browsers."""
    return getattr(view, _ATTRIBUTE, None)
