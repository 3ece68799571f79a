variable "bucket" {
  description = "Name of the bucket, globally unique."
  type        = string
  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$", var.bucket))
    error_message = "bucket: 3 to 63 lower-case letters, digits and hyphens. Without dots, or TLS certificates do not fit."
  }
}

variable "public_keys" {
  description = "Public keys for signed URLs, by name: RSA 2048, PEM. Private keys are not needed here. Two of them while one takes over from the other."
  type        = map(string)
  validation {
    condition     = length(var.public_keys) > 0 && alltrue([for each in var.public_keys : startswith(each, "-----BEGIN PUBLIC KEY-----")])
    error_message = "public_keys: one or more, each made by openssl rsa -in private.pem -pubout."
  }
}

variable "signing_key" {
  description = "Name of the key that the asset service signs with."
  type        = string
  validation {
    condition     = contains(keys(var.public_keys), var.signing_key)
    error_message = "signing_key: a name of public_keys."
  }
}

variable "aliases" {
  description = "Alternate domain names of the distribution."
  type        = list(string)
  default     = []
}

variable "certificate_arn" {
  description = "ACM certificate in us-east-1 for the aliases; null without aliases."
  type        = string
  default     = null
  validation {
    condition     = (var.certificate_arn == null) == (length(var.aliases) == 0)
    error_message = "certificate_arn: needed with aliases, and only with them."
  }
}

variable "upload_origins" {
  description = "CORS origins that may upload parts to presigned URLs of the bucket, such as https://app.example."
  type        = list(string)
  default     = []
  validation {
    condition     = alltrue([for each in var.upload_origins : startswith(each, "https://")])
    error_message = "upload_origins: https://… only."
  }
}

variable "kept_versions_days" {
  description = "Retention of deleted and overwritten objects in days."
  type        = number
  default     = 30
  validation {
    condition     = var.kept_versions_days >= 7
    error_message = "kept_versions_days: 7 or more: a backup of the databases needs the bytes of its time."
  }
}

variable "price_class" {
  description = "CloudFront price class: the regions of its edge locations."
  type        = string
  default     = "PriceClass_100"
  validation {
    condition     = contains(["PriceClass_100", "PriceClass_200", "PriceClass_All"], var.price_class)
    error_message = "price_class: PriceClass_100, PriceClass_200 or PriceClass_All."
  }
}

variable "eks_cluster_name" {
  description = "EKS cluster whose pods get their roles by EKS Pod Identity; null creates only the policies."
  type        = string
  default     = null
}

variable "namespace" {
  description = "Namespace of the pods."
  type        = string
  default     = "modelyard"
}

variable "tags" {
  description = "Tags of all resources."
  type        = map(string)
  default     = {}
}
