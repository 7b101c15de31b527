"""A run that is trained again every night, and hands over to a server what is not worse."""
