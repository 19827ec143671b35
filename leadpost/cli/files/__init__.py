"""
Bulk files: a row is the activity it would send.

The path of a file, from top to bottom:

1. Read. `opening` finds the format; `csv_file`, `workbook` and `json_file` yield cells or values;
   `columns` says which column goes where, and `rows` makes an activity of each row (`cells`), or
   says what is wrong with it. `reading` has the options.
2. Compare. `comparing` puts the rows into a private SQLite database (`snapshot`), and beside them
   what `batches` knows of earlier runs, in two tables of the outbox's database (`tables`).
3. Ask. `checking` looks up the leads of new rows (`leads`), and checks these rows against the
   account's activity types. `matching` is SQL: each row gets a verdict (`plan`).
4. Plan. `posting` shows it (`showing`), and asks where a guess could lose or duplicate an activity.
5. Send. `sending` puts new rows into the outbox (`entries`) and posts from there at the same time,
   with `progress` on the screen.
6. Results. The snapshot learns what the outbox knows now, SQL says what became of each row, and
   `outputs` writes it. `looking` does that without posting.

The snapshot keeps a row's cells, not its activity: the activity is made of them again when it is
sent. So a row is in memory for a moment only, whatever the size of the file.
"""
