"""
Logs, metrics, traces, and health over HTTP.
"""
