"""An InputError is found among the errors that Ray wraps around it."""

import pytest
import ray
from ray.exceptions import OutOfMemoryError, RayTaskError
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback

from raylabel.errors import InputError, causes, find_input_error


def _fail(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("error, found", [(InputError("fix it"), True), (KeyError("fix it"), False)])
def test_an_input_error_is_found_only_among_the_causes(ray_local: None, error: Exception, found: bool) -> None:
    # A task in a task, as in a stage whose tasks start others.
    nested = ray.remote(num_cpus=0)(lambda: ray.get(ray.remote(num_cpus=0)(_fail).remote(error)))
    with pytest.raises(RayTaskError) as raised:
        ray.get(nested.remote())
    for wrapped in (
        raised.value,
        WorkerGroupError("two failed", {0: KeyError("lost its peer"), 1: UserExceptionWithTraceback(raised.value, "")}),
        ControllerError(raised.value),
    ):
        input_error = find_input_error(wrapped)
        assert (input_error is not None and str(input_error) == "fix it") is found


def test_the_first_cause_is_last_and_a_cycle_ends() -> None:
    first = OutOfMemoryError("the node ran out of memory")
    last = ControllerError(first)
    first.__cause__ = last
    assert causes(last) == [last, first]
    assert causes(None) == []
