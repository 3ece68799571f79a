output "MODELYARD_S3_BUCKET" {
  description = "Setting of the asset service and of the gateway."
  value       = aws_s3_bucket.this.bucket
}

output "MODELYARD_S3_REGION" {
  description = "Setting of the asset service and of the gateway."
  value       = aws_s3_bucket.this.region
}

output "MODELYARD_CLOUDFRONT_DOMAIN" {
  description = "Setting of the asset service."
  value       = length(var.aliases) > 0 ? var.aliases[0] : aws_cloudfront_distribution.this.domain_name
}

output "MODELYARD_CLOUDFRONT_KEY_PAIR_ID" {
  description = "Setting of the asset service; the private key is its secret."
  value       = aws_cloudfront_public_key.this[var.signing_key].id
}

output "MODELYARD_CLOUDFRONT_DISTRIBUTION" {
  description = "Setting of the asset service."
  value       = aws_cloudfront_distribution.this.id
}

output "role_arns" {
  description = "Of the pods' roles, by ServiceAccount; empty without eks_cluster_name."
  value       = { for name, role in aws_iam_role.pods : name => role.arn }
}

output "policies" {
  description = "IAM policies of the pods, as JSON, for roles that are created elsewhere."
  value       = local.policies
}
