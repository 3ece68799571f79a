"""
`make bench`: scenarios in a profile, against a suite of its own or a deployed one, and a verdict. See docs/bench.md.
"""
