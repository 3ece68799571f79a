variable "region" {
  description = "Of everything but CloudFront, which is everywhere."
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
  description = "Its name, the same in all of AWS."
  type        = string
}

variable "public_key_files" {
  description = "The public halves of the keys that sign addresses, PEM, by name: two while one takes over from the other."
  type        = map(string)
}

variable "signing_key" {
  description = "Which of them the asset service signs with."
  type        = string
}

variable "valkey_password_secret" {
  description = "In Secrets Manager, a JSON object with password: the one that External Secrets reads."
  type        = string
  default     = "modelyard/cache-valkey"
}
