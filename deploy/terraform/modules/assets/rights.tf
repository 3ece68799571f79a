# IAM policies of the pods: the asset service reads and writes, the gateway reads public objects.

data "aws_iam_policy_document" "cdn" {
  statement {
    sid = "Objects"
    actions = [
      "s3:GetObject",
      "s3:PutObject",
      "s3:DeleteObject",
      "s3:AbortMultipartUpload",
      "s3:ListMultipartUploadParts",
    ]
    resources = ["${aws_s3_bucket.this.arn}/*"]
  }

  statement {
    sid       = "Bucket"
    actions   = ["s3:ListBucket", "s3:ListBucketMultipartUploads"]
    resources = [aws_s3_bucket.this.arn]
  }

  statement {
    sid       = "Invalidations"
    actions   = ["cloudfront:CreateInvalidation", "cloudfront:GetInvalidation"]
    resources = [aws_cloudfront_distribution.this.arn]
  }
}

# Without ListBucket S3 responds to a missing key with 403.
data "aws_iam_policy_document" "gateway" {
  statement {
    sid     = "PublicObjects"
    actions = ["s3:GetObject"]
    resources = [
      for prefix in ["assets", "static", "zstd/assets", "zstd/static", "gzip/assets", "gzip/static"] :
      "${aws_s3_bucket.this.arn}/${prefix}/*"
    ]
  }

  statement {
    sid       = "Bucket"
    actions   = ["s3:ListBucket"]
    resources = [aws_s3_bucket.this.arn]
  }
}

locals {
  policies = {
    cdn     = data.aws_iam_policy_document.cdn.json
    gateway = data.aws_iam_policy_document.gateway.json
  }
  pods = var.eks_cluster_name == null ? {} : local.policies
}

data "aws_iam_policy_document" "pods" {
  statement {
    actions = ["sts:AssumeRole", "sts:TagSession"]
    principals {
      type        = "Service"
      identifiers = ["pods.eks.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "pods" {
  for_each = local.pods

  name_prefix        = "modelyard-${each.key}-"
  assume_role_policy = data.aws_iam_policy_document.pods.json
  tags               = var.tags
}

resource "aws_iam_role_policy" "pods" {
  for_each = local.pods

  name_prefix = "modelyard-${each.key}-"
  role        = aws_iam_role.pods[each.key].id
  policy      = each.value
}

resource "aws_eks_pod_identity_association" "pods" {
  for_each = local.pods

  cluster_name    = var.eks_cluster_name
  namespace       = var.namespace
  service_account = each.key
  role_arn        = aws_iam_role.pods[each.key].arn
  tags            = var.tags
}
