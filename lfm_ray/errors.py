"""lfm_ray's own errors. Commands print them as one line, without a traceback."""


class UserError(Exception):
    """Something that the user can fix: a wrong setting, a broken file, a missing column.

    The message is one line that says what is wrong and what to do. Exit status 2.
    """


class TrainingFailed(Exception):
    """A run cannot continue (NaN loss, ...). The message is the reason, in one line. Exit status 1."""
