"""
The most writes of one suite.

A revision is held from the statement that takes it until its commit is on disk (docs/adr/0002), so that writes of a
suite go one after the other whatever number of processes makes them. A group of G writes shares the flush
(docs/adr/0009), and each of its last statements is a round trip of its own: G / (G x (held + trip) + flush + trip).
"""

from __future__ import annotations

from bench.capacity.assumptions import Assumptions


def writes(group: float, held: float, flush: float, trip: float) -> float:
    """
    Writes a second.

    Args:
        group: writes of a commit.
        held: ms that one has the revision.
        flush: ms of the commit.
        trip: ms to the database and back.
    """
    return 1000 * group / (group * (held + trip) + flush + trip)


def deployed(figures: Assumptions) -> float:
    """
    Writes a second of a suite whose database is elsewhere: full groups, and the mix of creations and lighter writes.
    """
    creations = figures["write.creations"]
    held = figures["write.held"] * (creations + (1 - creations) / figures["write.light"])
    return writes(figures["write.group"], held, figures["write.flush"], figures["network.round_trip"])


def shared_cells(figures: Assumptions, rate: float) -> float:
    """
    How often a second an entry ends because a name that was changed shares its cell in a cache process
    (services/cache/model/coherence.py).

    Args:
        rate: writes a second of the suite.
    """
    creations = figures["write.creations"]
    return rate * (creations * figures["stream.cells_of_creation"] + 1 - creations) / figures["stream.cells"]
