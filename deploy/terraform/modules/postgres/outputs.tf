locals {
  verified = "?sslmode=verify-full&sslrootcert=/etc/modelyard/database-authority/ca.crt"
}

output "MODELYARD_DATABASE_URL" {
  description = "Setting of the service, which logs in with a role of its own: make it with its password before the first migration."
  value       = "postgresql://modelyard_service@${aws_db_instance.primary.address}:5432/${var.database}${local.verified}"
}

output "OWNER_DATABASE_URL" {
  description = "For the migration."
  value       = "postgresql://modelyard@${aws_db_instance.primary.address}:5432/${var.database}${local.verified}"
}

output "MODELYARD_DATABASE_REPLICA_URLS" {
  description = "Setting of the service; empty without replicas."
  value = join(",", [
    for replica in aws_db_instance.replica :
    "postgresql://modelyard_service@${replica.address}:5432/${var.database}${local.verified}"
  ])
}

output "security_group_id" {
  description = "Of the instances."
  value       = aws_security_group.this.id
}
