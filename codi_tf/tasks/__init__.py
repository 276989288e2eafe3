"""Tasks: how a condition is made from an image, for training, and from a user's file, for sampling.

Every module but `task` and the helpers (`degradations`, `draws`, `enlarging`, `options`) declares one task. To add one,
see `Task`.
"""

from __future__ import annotations

import dataclasses

from codi_tf.core.errors import UserError
from codi_tf.core.settings import named
from codi_tf.tasks.task import TASKS, Task

__all__ = ["TASKS", "Task", "make_task", "task_config"]


def make_task(name: str, **options: object) -> Task:
    """Make a task from its name and options.

    Raises:
        UserError: an unknown name or option (the valid ones are listed), or an option out of its range.
    """
    if not isinstance(name, str):
        raise UserError(TASKS.unknown(name))
    task = TASKS[name]
    valid = [field.name for field in dataclasses.fields(task)]
    for option in options:
        if option not in valid:
            raise UserError(f"task {name}: unknown option {option!r}; valid options: {', '.join(valid)}")
    return task(**options)


def task_config(task: Task) -> dict:
    """The task as plain data, from which `make_task` makes it again. Raises UserError for an unregistered task."""
    return named(TASKS, task)
