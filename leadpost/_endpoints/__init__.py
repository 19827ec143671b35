"""
Every call of LeadSquared's API: its path, parameters and body, and how its answer is read.

Pure functions, which know no account: its hosts are added by `leadpost._call`, its keys below the
HTTP client. Names in answers are compared without case, as the API varies their spelling.
"""
