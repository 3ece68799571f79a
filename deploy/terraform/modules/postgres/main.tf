# RDS for PostgreSQL: a primary in two zones, and read replicas.

locals {
  family = "postgres${split(".", var.engine_version)[0]}"
  parameters = {
    # TLS only.
    "rds.force_ssl" = { value = "1", method = "immediate" }

    max_connections            = { value = tostring(var.max_connections), method = "pending-reboot" }
    "shared_preload_libraries" = { value = "pg_stat_statements", method = "pending-reboot" }

    work_mem             = { value = "16384", method = "immediate" }
    maintenance_work_mem = { value = "524288", method = "immediate" }
    random_page_cost     = { value = "1.1", method = "immediate" }
    checkpoint_timeout   = { value = "900", method = "immediate" }
    max_wal_size         = { value = "4096", method = "immediate" }
    wal_compression      = { value = "lz4", method = "immediate" }

    # The services set shorter timeouts.
    idle_in_transaction_session_timeout = { value = "60000", method = "immediate" }
    log_min_duration_statement          = { value = "500", method = "immediate" }
    # A replica's readers are not ended by what the primary cleans up.
    hot_standby_feedback = { value = "1", method = "immediate" }
  }
}

resource "aws_db_subnet_group" "this" {
  name       = var.name
  subnet_ids = var.subnet_ids
  tags       = var.tags
}

resource "aws_security_group" "this" {
  name_prefix = "${var.name}-postgresql-"
  description = "PostgreSQL of ${var.name}"
  vpc_id      = var.vpc_id
  tags        = var.tags

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_ingress_rule" "clients" {
  for_each = toset(var.client_security_group_ids)

  security_group_id            = aws_security_group.this.id
  referenced_security_group_id = each.value
  ip_protocol                  = "tcp"
  from_port                    = 5432
  to_port                      = 5432
  description                  = "the services"
}

resource "aws_db_parameter_group" "this" {
  name_prefix = "${var.name}-"
  family      = local.family
  description = "Modelyard"
  tags        = var.tags

  dynamic "parameter" {
    for_each = local.parameters
    content {
      name         = parameter.key
      value        = parameter.value.value
      apply_method = parameter.value.method
    }
  }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_db_instance" "primary" {
  identifier     = var.name
  engine         = "postgres"
  engine_version = var.engine_version
  instance_class = var.instance_class

  db_name  = var.database
  username = "modelyard"
  # Written, and never in Terraform's state. (RDS's own management of it allows no read replicas.)
  password_wo         = var.owner_password
  password_wo_version = var.owner_password_version

  storage_type          = "gp3"
  allocated_storage     = var.storage_gib
  max_allocated_storage = var.storage_gib * 8
  storage_encrypted     = true
  kms_key_id            = var.kms_key_arn

  multi_az               = true
  db_subnet_group_name   = aws_db_subnet_group.this.name
  vpc_security_group_ids = [aws_security_group.this.id]
  publicly_accessible    = false
  parameter_group_name   = aws_db_parameter_group.this.name
  ca_cert_identifier     = "rds-ca-rsa2048-g1"

  backup_retention_period   = var.backup_days
  backup_window             = "03:00-04:00"
  maintenance_window        = "sun:04:30-sun:05:30"
  copy_tags_to_snapshot     = true
  deletion_protection       = var.deletion_protection
  skip_final_snapshot       = false
  final_snapshot_identifier = "${var.name}-final"

  performance_insights_enabled    = true
  performance_insights_kms_key_id = var.kms_key_arn
  monitoring_interval             = var.monitoring_role_arn == null ? 0 : 30
  monitoring_role_arn             = var.monitoring_role_arn
  enabled_cloudwatch_logs_exports = ["postgresql"]
  auto_minor_version_upgrade      = true
  apply_immediately               = false
  tags                            = var.tags
}

resource "aws_db_instance" "replica" {
  count = var.replicas

  identifier          = "${var.name}-replica-${count.index + 1}"
  replicate_source_db = aws_db_instance.primary.identifier
  instance_class      = coalesce(var.replica_instance_class, var.instance_class)

  storage_encrypted      = true
  vpc_security_group_ids = [aws_security_group.this.id]
  publicly_accessible    = false
  parameter_group_name   = aws_db_parameter_group.this.name
  ca_cert_identifier     = "rds-ca-rsa2048-g1"

  # What is in it is the primary's, whose backups count.
  backup_retention_period = 0
  skip_final_snapshot     = true

  performance_insights_enabled = true
  monitoring_interval          = var.monitoring_role_arn == null ? 0 : 30
  monitoring_role_arn          = var.monitoring_role_arn
  auto_minor_version_upgrade   = true
  tags                         = var.tags
}
