"""
The services behind the doors.
"""
