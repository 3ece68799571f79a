variable "name" {
  description = "Of the instance; replicas have a number behind it."
  type        = string
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,49}$", var.name))
    error_message = "name: 1 to 50 lower-case letters, digits and hyphens, a letter first."
  }
}

variable "database" {
  description = "modelyard for the registry, modelyard_cdn for the asset service."
  type        = string
  validation {
    condition     = can(regex("^[a-z_][a-z0-9_]{0,62}$", var.database))
    error_message = "database: lower-case letters, digits and underscores."
  }
}

variable "vpc_id" {
  description = "ID of the VPC."
  type        = string
}

variable "subnet_ids" {
  description = "Private subnets, in two zones or more."
  type        = list(string)
  validation {
    condition     = length(var.subnet_ids) >= 2
    error_message = "subnet_ids: two zones or more."
  }
}

variable "client_security_group_ids" {
  description = "Client security group: that of the cluster's nodes, or of the pods."
  type        = list(string)
}

variable "owner_password" {
  description = "Of modelyard, which owns the database. From a secret store; neither the plan nor the state has it."
  type        = string
  sensitive   = true
  ephemeral   = true
}

variable "owner_password_version" {
  description = "Increment it to write the password again."
  type        = number
  default     = 1
}

variable "instance_class" {
  description = "Instance class of the primary."
  type        = string
  default     = "db.r7g.large"
}

variable "replicas" {
  description = "Read replicas."
  type        = number
  default     = 1
  validation {
    condition     = var.replicas >= 0 && var.replicas <= 15
    error_message = "replicas: 0 to 15."
  }
}

variable "replica_instance_class" {
  description = "Instance class of the replicas; null uses that of the primary."
  type        = string
  default     = null
}

variable "engine_version" {
  description = "Of PostgreSQL; the parameter group is of its major version."
  type        = string
  default     = "18.1"
}

variable "storage_gib" {
  description = "Initial storage in GiB; autoscaling grows it up to eight times."
  type        = number
  default     = 100
  validation {
    condition     = var.storage_gib >= 20
    error_message = "storage_gib: 20 or more."
  }
}

variable "max_connections" {
  description = "Pods x MODELYARD_DATABASE_POOL_MAX, twice while they roll: docs/operations/scaling.md."
  type        = number
  default     = 400
}

variable "backup_days" {
  description = "Backup retention in days, for point-in-time recovery."
  type        = number
  default     = 14
  validation {
    condition     = var.backup_days >= 1 && var.backup_days <= 35
    error_message = "backup_days: 1 to 35; without backups there are no replicas either."
  }
}

variable "kms_key_arn" {
  description = "For the data and the owner's password; null means AWS's own key."
  type        = string
  default     = null
}

variable "monitoring_role_arn" {
  description = "For enhanced monitoring; null means none."
  type        = string
  default     = null
}

variable "deletion_protection" {
  description = "Enable deletion protection."
  type        = bool
  default     = true
}

variable "tags" {
  description = "Tags of all resources."
  type        = map(string)
  default     = {}
}
