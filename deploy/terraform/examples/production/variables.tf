variable "region" {
  description = "AWS region of everything but CloudFront, which is global."
  type        = string
  default     = "us-east-1"
}

variable "vpc_id" {
  description = "Of the EKS cluster."
  type        = string
}

variable "subnet_ids" {
  description = "Private subnets in two zones or more."
  type        = list(string)
}

variable "nodes_security_group_id" {
  description = "Of the cluster's nodes, from which the pods connect."
  type        = string
}

variable "eks_cluster_name" {
  description = "With the Pod Identity agent."
  type        = string
}

variable "bucket" {
  description = "Name of the bucket, globally unique."
  type        = string
}

variable "public_key_files" {
  description = "Public keys for signed URLs, PEM, by name: two during a key rotation."
  type        = map(string)
}

variable "signing_key" {
  description = "Name of the key that the asset service signs with."
  type        = string
}

variable "valkey_password_secret" {
  description = "In Secrets Manager, a JSON object with password: the one that External Secrets reads."
  type        = string
  default     = "modelyard/cache-valkey"
}
