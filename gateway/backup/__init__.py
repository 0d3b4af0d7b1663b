"""A backup of the database, the streams and the data folder's secrets, and its way back.

The order is what makes a backup of a running system whole; see `making`.
"""
