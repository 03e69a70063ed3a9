"""The one error a user is meant to see."""


class MaptileError(Exception):
    """One clear line: what is wrong, in which file, and what to do about it.

    The command line prints it and exits with status 2; a traceback only with ``--debug``.
    """
