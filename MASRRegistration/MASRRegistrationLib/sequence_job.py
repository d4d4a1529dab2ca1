"""One registration of a sequence, from node to nodes, in the background."""

from __future__ import annotations

from typing import Any

from masr_registration.worker import client

from .gui.job import RegistrationJob
from .mrml.inputs import InputVolume
from .mrml.sequences import SequenceResult, SequenceSetup, deliverSequence


class SequenceJob(RegistrationJob):
    """As `RegistrationJob`, with a `SequenceSetup`; its `result` is a `SequenceResult`."""

    def _read(self, setup: SequenceSetup) -> tuple[InputVolume, ...]:
        return tuple(InputVolume.of(item) for item in setup.items())

    def _deliver(self, outcome: client.Outcome, setup: Any) -> SequenceResult:
        return deliverSequence(outcome, self._inputs, setup)
