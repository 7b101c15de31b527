"""Recommendations for whole sets of sessions: a file of sessions in, a file of lists out.

    rows of a file --`read`--> blocks --`answer`, in batches--> fields --`write`--> parts --> one file

Neither all sessions nor all lists are in memory at once. Every block's lists are kept in a part file until
the set is complete, so that a command that was interrupted goes on where it was.
"""
