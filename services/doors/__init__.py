"""
The doors: the registry as clients of MLflow, of the Hugging Face Hub and of OCI registries know theirs (ADR 0050).
"""
