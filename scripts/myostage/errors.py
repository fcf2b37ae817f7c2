"""The one exception a user sees."""


class UserError(Exception):
    """What is wrong, where it is and what to do, in one sentence without a traceback."""
