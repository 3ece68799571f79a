variable "bucket" {
  description = "Its name, the same in all of AWS."
  type        = string
  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$", var.bucket))
    error_message = "bucket: 3 to 63 lower-case letters, digits and hyphens. Without dots, or TLS certificates do not fit."
  }
}

variable "public_keys" {
  description = "Public halves of the keys that sign addresses, by name: RSA 2048, PEM. The private halves never come here. Two of them while one takes over from the other."
  type        = map(string)
  validation {
    condition     = length(var.public_keys) > 0 && alltrue([for each in var.public_keys : startswith(each, "-----BEGIN PUBLIC KEY-----")])
    error_message = "public_keys: one or more, each made by openssl rsa -in private.pem -pubout."
  }
}

variable "signing_key" {
  description = "The name of the one that the asset service signs with."
  type        = string
  validation {
    condition     = contains(keys(var.public_keys), var.signing_key)
    error_message = "signing_key: a name of public_keys."
  }
}

variable "aliases" {
  description = "Names of one's own for the distribution."
  type        = list(string)
  default     = []
}

variable "certificate_arn" {
  description = "Of ACM in us-east-1, for the aliases; null without any."
  type        = string
  default     = null
  validation {
    condition     = (var.certificate_arn == null) == (length(var.aliases) == 0)
    error_message = "certificate_arn: needed with aliases, and only with them."
  }
}

variable "upload_origins" {
  description = "Sites whose scripts may send parts to signed addresses of the bucket, such as https://app.example."
  type        = list(string)
  default     = []
  validation {
    condition     = alltrue([for each in var.upload_origins : startswith(each, "https://")])
    error_message = "upload_origins: https://… only."
  }
}

variable "kept_versions_days" {
  description = "How long what was deleted or overwritten can be brought back."
  type        = number
  default     = 30
  validation {
    condition     = var.kept_versions_days >= 7
    error_message = "kept_versions_days: 7 or more: a backup of the databases needs the bytes of its time."
  }
}

variable "price_class" {
  description = "Of CloudFront: how much of the world is near."
  type        = string
  default     = "PriceClass_100"
  validation {
    condition     = contains(["PriceClass_100", "PriceClass_200", "PriceClass_All"], var.price_class)
    error_message = "price_class: PriceClass_100, PriceClass_200 or PriceClass_All."
  }
}

variable "eks_cluster_name" {
  description = "Whose pods get their rights by EKS Pod Identity; null makes the policies alone."
  type        = string
  default     = null
}

variable "namespace" {
  description = "Of the pods."
  type        = string
  default     = "modelyard"
}

variable "tags" {
  description = "Of everything."
  type        = map(string)
  default     = {}
}
