"""Errors that a user can fix, and how they are found in what Ray wraps around them."""

RESUME = "the same command resumes from what is committed"
"""The end of many messages: what to do once the error is fixed."""


class InputError(Exception):
    """An error that the user can fix: one line that names what is wrong, and the fix.

    A command prints this line alone and exits with status 2.
    """


class DivergedError(InputError):
    """The loss of a training is not a number. Of a trial this is a result, as an accuracy is."""


def find_input_error(error: BaseException | None) -> InputError | None:
    """The InputError among the causes of an error: Ray wraps what a remote process raised. None if there is none."""
    # Ray gives its wrapper a subtype of the type of what it wraps.
    found = (one for one in causes(error) if isinstance(one, InputError))
    return next((one for one in found if type(one) in (InputError, DivergedError)), None)


def causes(error: BaseException | None) -> list[BaseException]:
    """The error and its causes, those in tasks, actors and training workers too; the first cause is the last item."""
    found: list[BaseException] = []
    todo = [error]
    while todo:
        if (one := todo.pop()) is not None and not any(one is other for other in found):
            found.append(one)
            # Of Ray Train: what each worker raised, wrapped once more, and what its controller raised.
            todo += [*getattr(one, "worker_failures", {}).values()]
            todo += [getattr(one, "_base_exc", None), getattr(one, "controller_failure", None)]
            todo.append(getattr(one, "cause", None) or one.__cause__)  # of a task or an actor; of anything else
    return found
