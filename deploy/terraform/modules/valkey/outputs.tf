output "MODELYARD_VALKEY_URL" {
  description = "Setting of the cache. Its password is a secret of its own."
  value       = "rediss://${aws_elasticache_replication_group.this.configuration_endpoint_address}:6379/0"
}

output "endpoint" {
  description = "Host of the cluster's configuration."
  value       = aws_elasticache_replication_group.this.configuration_endpoint_address
}

output "security_group_id" {
  description = "Of the nodes."
  value       = aws_security_group.this.id
}
