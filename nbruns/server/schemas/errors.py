"""Errors that the server returns for a request."""

from __future__ import annotations

from nbruns.text import JSON


class Refused(Exception):
    """A request that is answered with an error object. `param` names the parameter that is at fault."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        type: str = "invalid_request_error",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error = {"message": message, "type": type, "param": param, "code": code}

    @property
    def body(self) -> JSON:
        """Return the response body with the error object."""
        return {"error": self.error}


def not_found(noun: str, id: str) -> Refused:
    """Return the error for an unknown id."""
    return Refused(f"No {noun} found with id '{id}'.", status=404)
