"""
Handlers of the protocol of MLflow.
"""
