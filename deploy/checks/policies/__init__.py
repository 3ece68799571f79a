"""
The rules that every overlay keeps to. Each is a function of the suite that yields what is wrong, in words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from deploy.checks.policies import access, migrations, network, pods, probes, references, settings, watching
from deploy.checks.suite import Suite

Policy = Callable[[Suite], Iterator[str]]

POLICIES: tuple[Policy, ...] = (
    pods.images,
    pods.resources,
    pods.restricted,
    pods.rollout,
    probes.probes,
    probes.grace,
    references.selectors,
    references.references,
    references.checksums,
    settings.settings,
    settings.memory,
    access.access,
    network.arrows,
    network.denied,
    watching.scraped,
    watching.autoscalers,
    migrations.gated,
)
