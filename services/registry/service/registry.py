"""
Registers all servicers of the registry.
"""

from __future__ import annotations

from datetime import timedelta

from modelyard.registry.v1.alias_rules_pb2_grpc import add_AliasRuleServiceServicer_to_server
from modelyard.registry.v1.aliases_pb2_grpc import add_AliasServiceServicer_to_server
from modelyard.registry.v1.audit_pb2_grpc import add_AuditServiceServicer_to_server
from modelyard.registry.v1.cards_pb2_grpc import add_CardServiceServicer_to_server
from modelyard.registry.v1.changes_pb2_grpc import add_ChangeServiceServicer_to_server
from modelyard.registry.v1.deployments_pb2_grpc import add_DeploymentServiceServicer_to_server
from modelyard.registry.v1.evaluations_pb2_grpc import add_EvaluationServiceServicer_to_server
from modelyard.registry.v1.imports_pb2_grpc import add_ImportServiceServicer_to_server
from modelyard.registry.v1.models_pb2_grpc import add_ModelServiceServicer_to_server
from modelyard.registry.v1.namespaces_pb2_grpc import add_NamespaceServiceServicer_to_server
from modelyard.registry.v1.policies_pb2_grpc import add_PolicyServiceServicer_to_server
from modelyard.registry.v1.promotions_pb2_grpc import add_PromotionServiceServicer_to_server
from modelyard.registry.v1.tokens_pb2_grpc import add_ApiTokenServiceServicer_to_server
from modelyard.registry.v1.versions_pb2_grpc import add_VersionServiceServicer_to_server
from services.chassis.access.policies import Policies
from services.chassis.serving.server import Server
from services.ledger.service.calls import Mutations
from services.ledger.store.change_feed import ChangeFeed
from services.ledger.store.database import Database
from services.ledger.store.writer import Writer
from services.registry.service.alias_rules import AliasRuleService
from services.registry.service.aliases import AliasService
from services.registry.service.api_tokens import ApiTokenService
from services.registry.service.assets import Assets
from services.registry.service.audit import AuditService
from services.registry.service.cards import CardService
from services.registry.service.changes import ChangeService
from services.registry.service.deployments import DeploymentService
from services.registry.service.evaluations import EvaluationService
from services.registry.service.imports import ImportService
from services.registry.service.models import ModelService
from services.registry.service.namespaces import NamespaceService
from services.registry.service.pins import Pins
from services.registry.service.policies import PolicyService
from services.registry.service.promotions import PromotionService
from services.registry.service.versions import VersionService
from services.registry.service.visibility import Visibility
from services.registry.store.alias_rules import AliasRuleStore
from services.registry.store.aliases import AliasStore
from services.registry.store.api_tokens import ApiTokenStore
from services.registry.store.audit import AuditStore
from services.registry.store.cards import CardStore
from services.registry.store.deployments import DeploymentStore
from services.registry.store.evaluation_metrics import EvaluationMetricStore
from services.registry.store.evaluations import EvaluationStore
from services.registry.store.imports import ImportStore
from services.registry.store.leaderboards import LeaderboardStore
from services.registry.store.models import ModelStore
from services.registry.store.namespaces import NamespaceStore
from services.registry.store.oci import OciStore
from services.registry.store.policies import PolicyStore
from services.registry.store.promotions import PromotionStore
from services.registry.store.purging import Purging
from services.registry.store.search.search import SearchStore
from services.registry.store.search.versions import VersionSearchStore
from services.registry.store.version_deletion import VersionDeletions
from services.registry.store.versions import VersionStore
from services.registry.store.versions_by_asset import VersionsByAssetStore


def add_servicers(
    server: Server,
    database: Database,
    writer: Writer,
    feed: ChangeFeed,
    assets: Assets,
    pins: Pins,
    policies: Policies,
    *,
    keep: timedelta,
) -> None:
    """
    Serve the registry's contracts.

    Args:
        server: the gRPC server.
        database: the registry's database.
        writer: runs the writes.
        feed: the change stream.
        assets: client of the asset service.
        pins: pins and releases assets.
        policies: who may do what where.
        keep: how long a deleted model is kept before it is purged.
    """
    once = Mutations(writer)
    models = ModelStore(database)
    visibility = Visibility(policies)
    namespaces = NamespaceService(NamespaceStore(database), once, visibility)
    purging = Purging(database, writer)
    model_service = ModelService(models, SearchStore(database), purging, once, visibility, keep)
    deletions = VersionDeletions(writer)
    containing = VersionsByAssetStore(database)
    searches, oci = VersionSearchStore(database), OciStore(database)
    versions = VersionService(
        VersionStore(database), deletions, containing, searches, oci, assets, pins, once, visibility
    )
    aliases = AliasService(AliasStore(database), once)
    evaluations = EvaluationService(
        EvaluationStore(database), LeaderboardStore(database), EvaluationMetricStore(database), once
    )
    server.add(add_AliasRuleServiceServicer_to_server, AliasRuleService(AliasRuleStore(database), once))
    server.add(add_PromotionServiceServicer_to_server, PromotionService(PromotionStore(database), once))
    server.add(add_NamespaceServiceServicer_to_server, namespaces)
    server.add(add_ModelServiceServicer_to_server, model_service)
    server.add(add_VersionServiceServicer_to_server, versions)
    server.add(add_AliasServiceServicer_to_server, aliases)
    server.add(add_EvaluationServiceServicer_to_server, evaluations)
    server.add(add_ImportServiceServicer_to_server, ImportService(ImportStore(), once))
    server.add(add_ChangeServiceServicer_to_server, ChangeService(feed, visibility))
    server.add(add_CardServiceServicer_to_server, CardService(CardStore(database), once))
    deployments = DeploymentService(DeploymentStore(database), feed, once)
    server.add(add_DeploymentServiceServicer_to_server, deployments)
    server.add(add_AuditServiceServicer_to_server, AuditService(AuditStore(database), visibility))
    tokens = ApiTokenStore(database)
    server.add(add_ApiTokenServiceServicer_to_server, ApiTokenService(tokens, once))
    policy_service = PolicyService(PolicyStore(database), policies, tokens, feed, once)
    server.add(add_PolicyServiceServicer_to_server, policy_service)
