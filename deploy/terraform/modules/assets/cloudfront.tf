# The edge: assets/* and static/* for everybody, and whatever else only with signed URLs (docs/delivery.md). Compressed
# variants of private assets and half-written uploads are in the bucket, too: nothing but these two prefixes is open.

locals {
  origin = "bucket"
  open   = ["assets/*", "static/*"]
  # The only requests of CloudFront that the bucket allows.
  served = ["assets", "static", "private", "versions"]
}

resource "aws_cloudfront_origin_access_control" "this" {
  name                              = var.bucket
  description                       = "The distribution signs what it asks of the bucket"
  origin_access_control_origin_type = "s3"
  signing_behavior                  = "always"
  signing_protocol                  = "sigv4"
}

resource "aws_cloudfront_public_key" "this" {
  for_each = var.public_keys

  name_prefix = "${var.bucket}-${each.key}-"
  comment     = "Signs addresses of ${var.bucket}"
  encoded_key = each.value

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_cloudfront_key_group" "this" {
  name    = var.bucket
  comment = "Who may sign addresses of ${var.bucket}"
  items   = [for each in aws_cloudfront_public_key.this : each.id]
}

# S3 says by its headers how long; the name under which a file is saved is a part of the address.
resource "aws_cloudfront_cache_policy" "this" {
  name        = var.bucket
  comment     = "Bytes of ${var.bucket}"
  min_ttl     = 0
  default_ttl = 300
  max_ttl     = 31536000

  parameters_in_cache_key_and_forwarded_to_origin {
    enable_accept_encoding_gzip   = true
    enable_accept_encoding_brotli = true
    cookies_config {
      cookie_behavior = "none"
    }
    headers_config {
      header_behavior = "none"
    }
    query_strings_config {
      query_string_behavior = "whitelist"
      query_strings {
        items = ["response-content-disposition"]
      }
    }
  }
}

resource "aws_cloudfront_response_headers_policy" "this" {
  name    = var.bucket
  comment = "Bytes of ${var.bucket}"

  security_headers_config {
    content_type_options {
      override = true
    }
    strict_transport_security {
      access_control_max_age_sec = 31536000
      override                   = true
    }
  }

  # Anybody's scripts may read what anybody may read.
  cors_config {
    access_control_allow_credentials = false
    origin_override                  = true
    access_control_allow_headers {
      items = ["range"]
    }
    access_control_allow_methods {
      items = ["GET", "HEAD"]
    }
    access_control_allow_origins {
      items = ["*"]
    }
    access_control_expose_headers {
      items = ["content-length", "content-range", "etag"]
    }
  }
}

resource "aws_cloudfront_distribution" "this" {
  comment         = "Bytes of ${var.bucket}"
  enabled         = true
  is_ipv6_enabled = true
  http_version    = "http2and3"
  price_class     = var.price_class
  aliases         = var.aliases
  tags            = var.tags

  origin {
    origin_id                = local.origin
    domain_name              = aws_s3_bucket.this.bucket_regional_domain_name
    origin_access_control_id = aws_cloudfront_origin_access_control.this.id
  }

  default_cache_behavior {
    target_origin_id           = local.origin
    allowed_methods            = ["GET", "HEAD", "OPTIONS"]
    cached_methods             = ["GET", "HEAD"]
    viewer_protocol_policy     = "https-only"
    compress                   = true
    cache_policy_id            = aws_cloudfront_cache_policy.this.id
    response_headers_policy_id = aws_cloudfront_response_headers_policy.this.id
    trusted_key_groups         = [aws_cloudfront_key_group.this.id]
  }

  dynamic "ordered_cache_behavior" {
    for_each = local.open
    content {
      path_pattern               = ordered_cache_behavior.value
      target_origin_id           = local.origin
      allowed_methods            = ["GET", "HEAD", "OPTIONS"]
      cached_methods             = ["GET", "HEAD"]
      viewer_protocol_policy     = "redirect-to-https"
      compress                   = true
      cache_policy_id            = aws_cloudfront_cache_policy.this.id
      response_headers_policy_id = aws_cloudfront_response_headers_policy.this.id
    }
  }

  restrictions {
    geo_restriction {
      restriction_type = "none"
    }
  }

  viewer_certificate {
    cloudfront_default_certificate = var.certificate_arn == null
    acm_certificate_arn            = var.certificate_arn
    ssl_support_method             = var.certificate_arn == null ? null : "sni-only"
    minimum_protocol_version       = var.certificate_arn == null ? null : "TLSv1.2_2021"
  }
}
