"""What went wrong, in words for the person who can mend it."""


class InputError(ValueError):
    """One line that names the thing at fault and the mend; jobs print it alone and exit with status 2."""
