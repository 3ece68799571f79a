"""
The search language: filters (a subset of AIP-160), their parser, and the request that the store answers.
"""
