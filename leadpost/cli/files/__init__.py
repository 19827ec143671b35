"""
Bulk files: a row is the activity it would send.

The path of a file, from top to bottom:

1. Read. `opening` finds the format; `csv_file`, `workbook` and `json_file` yield cells or values;
   `columns` says which column goes where, and `rows` makes an activity of each row (`cells`), or
   says what is wrong with it. `reading` has the options.
2. Compare. `comparing` gets from the `ledger`, two tables beside those of the outbox, what is known
   of the rows by the digests of their activities (`identity`). `checking` looks up the leads of
   other rows (`leads`), and checks these against the account's activity types. `matching` decides
   what to do with each row: that is the `plan`.
3. Ask. `posting` shows the plan (`showing`), and asks where a guess could lose or duplicate an
   activity.
4. Send. `sending` puts new rows into the outbox (`entries`) and posts from there at the same time,
   with `progress` on the screen.
5. Results. `outputs` says what became of each row. `looking` does that without posting.

No row is in memory: the rows of the file are in temporary files (`plan`), those of earlier runs
beside them.
"""
