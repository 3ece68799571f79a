variable "name" {
  description = "Of the cluster, and the beginning of the names beside it."
  type        = string
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,39}$", var.name))
    error_message = "name: 1 to 40 lower-case letters, digits and hyphens, a letter first."
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
    error_message = "subnet_ids: two zones or more, or the loss of one is the loss of all."
  }
}

variable "client_security_group_ids" {
  description = "Client security group: that of the cluster's nodes, or of the pods."
  type        = list(string)
}

variable "password" {
  description = "Password of the cache (AUTH): 16 to 128 printable characters. From a secret store, not from a file of variables."
  type        = string
  sensitive   = true
  validation {
    condition     = length(var.password) >= 16 && length(var.password) <= 128
    error_message = "password: 16 to 128 characters."
  }
}

variable "node_type" {
  description = "Node type."
  type        = string
  default     = "cache.r7g.large"
}

variable "engine_version" {
  description = "Version of Valkey."
  type        = string
  default     = "8.1"
}

variable "shards" {
  description = "Node groups that share the slots; more or fewer are resharded online."
  type        = number
  default     = 3
  validation {
    condition     = var.shards >= 1 && var.shards <= 90
    error_message = "shards: 1 to 90."
  }
}

variable "replicas" {
  description = "Replicas per shard."
  type        = number
  default     = 1
  validation {
    condition     = var.replicas >= 1 && var.replicas <= 5
    error_message = "replicas: 1 to 5; without one a failed node takes its shard with it."
  }
}

variable "maintenance_window" {
  description = "Maintenance window in UTC."
  type        = string
  default     = "sun:04:00-sun:05:00"
}

variable "tags" {
  description = "Tags of all resources."
  type        = map(string)
  default     = {}
}
