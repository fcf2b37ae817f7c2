"""The one exception a user sees."""


class UserError(Exception):
    """What is wrong, where it is and how to mend it, in one sentence without a traceback."""
