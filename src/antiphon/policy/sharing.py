"""How many partitions a handler should have for so many workers, and how many of them are each worker's."""

from __future__ import annotations

from antiphon.model.handlers import HandlerSpec

#: No handler has more partitions; there are 256 buckets to divide.
MOST_PARTITIONS = 64
#: The busiest worker has at most so many times its fair part.
_UNEVEN = 4 / 3


def can_be_split(spec: HandlerSpec) -> bool:
    """Whether several workers may run a handler. Not one whose rate or turns are counted over all of its events, nor a
    workflow, which takes up what belongs to a run by more than its key, nor a channel, which has one connection."""
    return spec.rate is None and spec.fair_by is None and spec.workflow is None and spec.channel is None


def wanted_partitions(workers: int) -> int:
    """Into how many partitions, a power of two, a handler is to be divided so that *workers* have fair parts of it.

    >>> [wanted_partitions(workers) for workers in (1, 2, 3, 4, 5, 6, 16, 99)]
    [1, 2, 8, 4, 8, 16, 16, 64]
    """
    parts = 1
    while parts < MOST_PARTITIONS and (parts < workers or -(-parts // workers) > _UNEVEN * parts / workers):
        parts *= 2
    return parts


def share(partitions: int, workers: int, place: int) -> int:
    """How many of *partitions* are to be run by the worker at a *place* among *workers*: they differ by one at most.

    >>> [share(8, 3, place) for place in range(3)]
    [3, 3, 2]
    """
    return partitions // workers + (place % workers < partitions % workers)
