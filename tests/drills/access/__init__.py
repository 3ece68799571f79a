"""
Drill: policies, memberships and revocations against a reference model.
"""
