# Everything that deploy/overlays/production expects of AWS, in an existing VPC, for an existing EKS cluster.

terraform {
  required_version = ">= 1.11"
  required_providers {
    aws = { source = "hashicorp/aws", version = "~> 6.0" }
  }
  # Configure a backend for the state, with encryption and locking.
}

provider "aws" {
  region = var.region
  default_tags {
    tags = { application = "modelyard" }
  }
}

data "aws_secretsmanager_secret_version" "valkey" {
  secret_id = var.valkey_password_secret
}

# The owners' passwords, of which no plan and no state has a copy.
ephemeral "aws_secretsmanager_secret_version" "owner" {
  for_each  = toset(["registry", "cdn"])
  secret_id = "modelyard/${each.key}-database-owner"
}

module "registry" {
  source = "../../modules/postgres"

  name                      = "modelyard-registry"
  database                  = "modelyard"
  owner_password            = jsondecode(ephemeral.aws_secretsmanager_secret_version.owner["registry"].secret_string)["password"]
  vpc_id                    = var.vpc_id
  subnet_ids                = var.subnet_ids
  client_security_group_ids = [var.nodes_security_group_id]
  instance_class            = "db.r7g.xlarge"
  replicas                  = 1
}

module "cdn" {
  source = "../../modules/postgres"

  name                      = "modelyard-cdn"
  database                  = "modelyard_cdn"
  owner_password            = jsondecode(ephemeral.aws_secretsmanager_secret_version.owner["cdn"].secret_string)["password"]
  vpc_id                    = var.vpc_id
  subnet_ids                = var.subnet_ids
  client_security_group_ids = [var.nodes_security_group_id]
  replicas                  = 1
}

module "valkey" {
  source = "../../modules/valkey"

  name                      = "modelyard"
  vpc_id                    = var.vpc_id
  subnet_ids                = var.subnet_ids
  client_security_group_ids = [var.nodes_security_group_id]
  password                  = jsondecode(data.aws_secretsmanager_secret_version.valkey.secret_string)["password"]
}

module "assets" {
  source = "../../modules/assets"

  bucket           = var.bucket
  public_keys      = { for name, path in var.public_key_files : name => file(path) }
  signing_key      = var.signing_key
  eks_cluster_name = var.eks_cluster_name
}
