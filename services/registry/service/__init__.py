"""
The registry's servicers, one file for each: parse, call, render. No SQL and no rules here.
"""
