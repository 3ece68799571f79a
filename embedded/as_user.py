"""
`python as_user.py UID PROGRAM …`: become another user, of its own group, then the program. For root only.

Python's own way (`subprocess` with `user=`) forks the whole process with its locks and threads, and grpcio crashes the
child now and then while calls are under way; without it, a child is made by vfork, which runs none of that.
"""

from __future__ import annotations

import os
import pwd
import sys


def main() -> None:
    """
    Drop every right of ours and become the program.
    """
    user = pwd.getpwuid(int(sys.argv[1]))
    os.setgroups([])
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
    # What it makes is nobody else's to read.
    os.umask(0o077)
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 - the program is one of our own list


if __name__ == "__main__":
    main()
