"""Errors that are the user's to mend: `launch.py` prints them in one line and exits with 1."""


class UserError(Exception):
    """A wrong input. The message names the file or field, what was expected, and the remedy."""


def unknown_name(what: str, given: object, valid: list[str] | tuple[str, ...]) -> UserError:
    """The error for a name that is none of `valid`; `what` is the config field or flag that held it."""
    return UserError(f"{what}={given!r} is unknown: choose one of {', '.join(valid)}")


class Stopped(Exception):  # noqa: N818 - the run did what it was told
    """A run that a signal stopped; the message says what was saved and which command goes on."""

    def __init__(self, message: str, *, signal_number: int):
        super().__init__(message)
        self.exit_code = 128 + signal_number  # as a shell reports a process that a signal ended
