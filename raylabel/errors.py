"""What went wrong, in words for the person who can mend it."""


class InputError(Exception):
    """One line that names the thing at fault and the mend; jobs print it alone and exit with status 2."""


def find_input_error(error: BaseException | None) -> InputError | None:
    """The InputError that a remote process raised, from whatever Ray wrapped around it; None if there is none."""
    while error is not None:
        if type(error) is InputError:
            return error
        for failure in getattr(error, "worker_failures", {}).values():  # of ray.train
            if found := find_input_error(failure):
                return found
        error = getattr(error, "cause", None) or error.__cause__  # of a task or an actor; of anything else
    return None
