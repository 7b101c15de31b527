"""What people read: tables and what they do and do not show."""
