"""
The database below an outbox and a shared bucket, SQLite or PostgreSQL.

`_database.py` runs transactions, on the connections of `_sqlite.py` or `_postgresql.py`;
`_schema.py` has the tables, and `_sql.py` executes statements. The other modules contain the
statements, as functions that get a transaction.
"""

from leadpost.outbox.database._database import Database, Store
from leadpost.outbox.database._schema import ddl

__all__ = ["Database", "Store", "ddl"]
