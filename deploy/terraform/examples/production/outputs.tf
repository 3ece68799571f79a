# `terraform output -json settings`: what goes into the ConfigMaps of deploy/overlays/production.
output "settings" {
  description = "By ConfigMap."
  value = {
    registry-settings = {
      MODELYARD_DATABASE_URL          = module.registry.MODELYARD_DATABASE_URL
      OWNER_DATABASE_URL              = module.registry.OWNER_DATABASE_URL
      MODELYARD_DATABASE_REPLICA_URLS = module.registry.MODELYARD_DATABASE_REPLICA_URLS
    }
    cdn-settings = {
      MODELYARD_DATABASE_URL            = module.cdn.MODELYARD_DATABASE_URL
      OWNER_DATABASE_URL                = module.cdn.OWNER_DATABASE_URL
      MODELYARD_DATABASE_REPLICA_URLS   = module.cdn.MODELYARD_DATABASE_REPLICA_URLS
      MODELYARD_CLOUDFRONT_DOMAIN       = module.assets.MODELYARD_CLOUDFRONT_DOMAIN
      MODELYARD_CLOUDFRONT_KEY_PAIR_ID  = module.assets.MODELYARD_CLOUDFRONT_KEY_PAIR_ID
      MODELYARD_CLOUDFRONT_DISTRIBUTION = module.assets.MODELYARD_CLOUDFRONT_DISTRIBUTION
    }
    cache-settings = {
      MODELYARD_VALKEY_URL = module.valkey.MODELYARD_VALKEY_URL
    }
    bucket-settings = {
      MODELYARD_S3_BUCKET = module.assets.MODELYARD_S3_BUCKET
      MODELYARD_S3_REGION = module.assets.MODELYARD_S3_REGION
    }
  }
}
