"""What went wrong, in words for the person who can mend it."""


class InputError(Exception):
    """One line that names the thing at fault and the mend; jobs print it alone and exit with status 2."""


def find_input_error(error: BaseException | None) -> InputError | None:
    """The InputError that a remote process raised, from whatever Ray wrapped around it; None if there is none."""
    return next((one for one in causes(error) if type(one) is InputError), None)


def causes(error: BaseException | None) -> list[BaseException]:
    """The error and all that led to it, in tasks, actors and training workers too; what came first stands last."""
    found: list[BaseException] = []
    todo = [error]
    while todo:
        if (one := todo.pop()) is not None and not any(one is other for other in found):
            found.append(one)
            # Of Ray Train: what its workers raised, each in a wrapping of its own, and what its controller did.
            todo += [*getattr(one, "worker_failures", {}).values()]
            todo += [getattr(one, "_base_exc", None), getattr(one, "controller_failure", None)]
            todo.append(getattr(one, "cause", None) or one.__cause__)  # of a task or an actor; of anything else
    return found
