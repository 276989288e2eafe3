"""What the trainer relies on."""

from __future__ import annotations

from codi_tf.methods.draws import Draws


class Method:
    """A training method: it knows its networks and gives the loss of a batch, term by term and example by example.

    Attributes:
        student: the network being trained.
        terms: names of the loss's terms.
        teacher: a network that changes while the student is trained, and hence belongs to the state of a run; or None.
    """

    student = None
    terms: tuple[str, ...] = ()
    teacher = None

    def start_average(self):
        """The student's moving average: a network with the same weights in the same order."""
        raise NotImplementedError

    def begin_step(self, step) -> None:
        """What happens to the networks before optimizer step `step`, int [], inside the traced step."""

    def loss_terms(self, batch, draws: Draws) -> dict:
        """{term: float32 [B]} of a batch, a part of the global one; `draws` are the step's random numbers."""
        raise NotImplementedError
