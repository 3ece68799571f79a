"""
What is for operators is what their definitions know. Without Go or a network these are skipped.
"""

from __future__ import annotations

import copy

import pytest

from deploy.checks.operators import OPERATORS, NoSourcesError, Operator, unknown
from deploy.checks.schemas import OPERATED
from deploy.checks.suite import Suite


@pytest.mark.parametrize("overlay", ["production", "staging"])
@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.group)
def test_operators_take_it(built: dict[str, Suite], overlay: str, operator: Operator) -> None:
    """
    Every object for the operator fits its definition, without a field that it does not know.
    """
    try:
        assert list(unknown(built[overlay], operator)) == []
    except NoSourcesError as error:
        pytest.skip(str(error))


def test_unknown_fields_are_found(built: dict[str, Suite]) -> None:
    """
    A misspelt field, a wrong type and a version that is not there are found.
    """
    broken = Suite("staging", copy.deepcopy(built["staging"].objects))
    clusters = broken.of("Cluster")
    clusters[0]["spec"]["instance"] = 3
    clusters[1]["spec"]["instances"] = "three"
    broken.of("ScheduledBackup")[0]["apiVersion"] = "postgresql.cnpg.io/v2"
    try:
        said = "\n".join(unknown(broken, OPERATORS[0]))
    except NoSourcesError as error:
        pytest.skip(str(error))
    assert "'instance' was unexpected" in said
    assert "'three' is not of type 'integer'" in said
    assert "has no postgresql.cnpg.io/v2 ScheduledBackup" in said


def test_each_kind_is_somebodys() -> None:
    """
    What Kubernetes' own schemas leave out is what operators are asked about.
    """
    assert {each.group for each in OPERATORS} == set(OPERATED)
