"""
`python -m modelyard.cli`
"""

from modelyard.cli.main import program

program()
