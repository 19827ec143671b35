"""
Every call of LeadSquared's API: its path, parameters and body, and how its answer is read.

Pure functions: each takes the account and returns a `Call`. It does not contain the account's keys;
they are added below the HTTP client. Names in answers are compared without case, as the API varies
their spelling.
"""
