"""
How long calls wait in a pool: Erlang's C formula, and Allen and Cunneen's approximation for what is not exponential.

* A. K. Erlang, "Solution of some problems in the theory of probabilities of significance in automatic telephone
  exchanges", Elektroteknikeren 13, 1917.
* A. O. Allen, "Probability, Statistics, and Queueing Theory", 2nd edition, Academic Press 1990: the mean wait of G/G/c
  is that of M/M/c times the mean of both squared coefficients of variation (Allen and Cunneen).
"""

from __future__ import annotations

import math

_TAIL = 0.05


def erlang_c(servers: int, offered: float) -> float:
    """
    The probability that a call has to wait in M/M/c.

    Args:
        servers: c, at least 1.
        offered: load in erlang (arrivals x service time), less than *servers*.

    Raises:
        ValueError: the load is not less than the servers can take.
    """
    if not 0 <= offered < servers:
        raise ValueError(f"{servers} servers cannot take a load of {offered:g} erlang")
    blocking = 1.0
    for number in range(1, servers + 1):
        blocking = offered * blocking / (number + offered * blocking)
    return servers * blocking / (servers - offered * (1 - blocking))


def mean_wait(servers: int, utilisation: float, service: float, arrivals: float = 1.0, services: float = 1.0) -> float:
    """
    The mean wait, in the unit of *service*.

    Args:
        servers: how many serve one queue.
        utilisation: of each, 0 to 1, less than 1.
        service: the mean time of service.
        arrivals, services: squared coefficients of variation (1: Poisson, exponential).
    """
    delayed = erlang_c(servers, servers * utilisation)
    return delayed * service / (servers * (1 - utilisation)) * (arrivals + services) / 2


def p95(servers: int, utilisation: float, service: float, arrivals: float = 1.0, services: float = 1.0) -> float:
    """
    The 95th percentile of wait and service, in the unit of *service*: the sum of the two percentiles, which is rather
    too much than too little. The wait of those who wait is taken as exponential, the service as exponential stretched
    by the root of *services*.

    Args: as `mean_wait`.
    """
    delayed = erlang_c(servers, servers * utilisation)
    waiting = 0.0
    if delayed > _TAIL:
        of_those_who_wait = service / (servers * (1 - utilisation)) * (arrivals + services) / 2
        waiting = of_those_who_wait * math.log(delayed / _TAIL)
    return waiting + service * math.log(1 / _TAIL) * math.sqrt(max(services, 1.0))
