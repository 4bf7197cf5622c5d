"""The errors that a user can put right, and what their messages share."""

from __future__ import annotations


class InputError(ValueError):
    """Anything the user can put right: the command lines print it as one line and exit with code 2."""

    def __init__(self, message: object = ""):
        # keys and names come from files: a line break or an escape sequence in one must not reach a terminal
        super().__init__("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(message)))


class FileError(InputError):
    """A file that cannot be read, written or trusted."""
