"""The product's own errors. A command prints them as one line, without a traceback."""


class UserError(Exception):
    """Something the user can put right: a wrong setting, a broken file, a missing column.

    The message is one line that names the thing and says what to do. Exit status 2.
    """


class TrainingFailed(Exception):
    """A run that cannot go on (NaN loss, ...). The message is the reason, in one line. Exit status 1."""
