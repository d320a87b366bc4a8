"""Errors that a user can act on: what was got, what was expected, what to do."""

from __future__ import annotations


class FedCoWProError(Exception):
    """A mistake in the user's input or surroundings.

    The command line prints it without a traceback and ends with exit code 2.

    Args:
        got: what was found, naming the file or field.
        expected: what would have been right.
        remedy: what the user can do next.
    """

    def __init__(self, got: str, expected: str, remedy: str) -> None:
        self.got, self.expected, self.remedy = got, expected, remedy
        super().__init__(f"{got}\n  expected: {expected}\n  remedy:   {remedy}")

    def __reduce__(self) -> tuple[type[FedCoWProError], tuple[str, str, str]]:
        return type(self), (self.got, self.expected, self.remedy)


class NotFittedError(FedCoWProError, AttributeError, ValueError):
    """A method was called before the one that it builds on; caught like scikit-learn's error of this name."""
