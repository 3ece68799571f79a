"""
`python -m modelyard.cli`
"""

import sys

from modelyard.cli.main import main

sys.exit(main())
