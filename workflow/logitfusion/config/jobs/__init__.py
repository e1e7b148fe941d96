"""What each job depends on: the slice of the config that its stage gets, and nothing else.

A rule passes its slice as one canonical line of JSON, so a job runs again exactly when its slice has changed.
"""
